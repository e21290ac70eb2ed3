"""What Dagster shows is what is true: whoever did it, from wherever."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg
import psycopg
import pytest

from embed_pipeline.dagster_layer.names import Names
from embed_pipeline.migrate import cutover, retire
from embed_pipeline.migrate.opening import opened
from embed_pipeline.report import on_call
from embed_pipeline.report.status import status_of
from embed_pipeline.spec import IndexSpec
from tests.database.dagster_layer.conftest import Declare, Runner, sentence

Run = Callable[[IndexSpec], Runner]
V1 = {"v1": {}}
NAMES = Names("docs")
PARTITIONS = {"00", "01", "02", "03"}


@pytest.fixture
def instance(instance_on_disk: dg.DagsterInstance) -> dg.DagsterInstance:
    """The context of a tick opens its instance again."""
    return instance_on_disk


class Shown:
    """The sensor's ticks one after another, with what the daemon does with each."""

    def __init__(self, docs: Runner) -> None:
        self.docs, self.cursor = docs, None

    def tick(self) -> str:
        """Look once; returns why nothing was said, or ''."""
        sensor = self.docs.definitions.resolve_sensor_def("docs_state")
        with dg.build_sensor_context(
            instance=self.docs.instance, cursor=self.cursor, definitions=self.docs.definitions
        ) as context:
            said = sensor.evaluate_tick(context)
        self.cursor = said.cursor or self.cursor
        for event in said.asset_events:
            self.docs.instance.report_runless_asset_event(event)
        return "" if said.asset_events else said.skip_message or ""

    def last(self, key: dg.AssetKey) -> dict[str, object]:
        event = self.docs.instance.get_latest_materialization_event(key)
        assert event is not None, f"{key.to_user_string()} was never materialized"
        assert event.asset_materialization is not None
        return {name: value.value for name, value in event.asset_materialization.metadata.items()}

    def check(self, key: dg.AssetKey, name: str) -> tuple[bool, str]:
        record = self.docs.instance.event_log_storage.get_asset_check_execution_history(dg.AssetCheckKey(key, name), limit=1)
        assert record, f"{name} was never answered"
        event = record[0].event
        assert event is not None
        assert event.dagster_event is not None
        found = event.dagster_event.asset_check_evaluation_data
        return found.passed, found.description or ""


def test_what_was_done_from_a_shell_is_shown(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    docs = run(declare(V1))
    shown = Shown(docs)
    assert shown.tick() == "docs is not registered in its database yet; its first backfill does that."
    docs.find_serving("v1")
    assert shown.tick() == ""
    assert docs.filled("v1") == PARTITIONS
    assert shown.last(NAMES.judged("v1"))["outcome"] == "pass"
    assert shown.check(NAMES.judged("v1"), "held_out_recall")[0]
    assert shown.last(NAMES.cutover("v1"))["generation"] == "1"
    serves = shown.last(NAMES.serving)
    assert serves["serves"] == "v1"
    assert shown.check(NAMES.serving, on_call.SERVES)[0]
    assert not shown.check(NAMES.serving, on_call.ROLLBACK_POSSIBLE)[0]
    assert shown.tick() == "Nothing has changed since it was said last."

    docs = run(declare(V1 | {"v2": {}}))
    shown.docs = docs
    docs.serve("v2")
    app.execute("UPDATE articles SET body = 'waits' WHERE id = 5")
    assert shown.tick() == ""
    assert docs.filled("v2") == PARTITIONS
    assert shown.last(NAMES.serving)["changes waiting"] == 1
    assert shown.check(NAMES.serving, on_call.ROLLBACK_POSSIBLE) == (
        True,
        "v1 can serve again now: v1 is complete and up to date.",
    )
    app.execute("UPDATE articles SET body = 'waits, too' WHERE id = 6")
    assert shown.tick() == "Nothing has changed since it was said last.", "what waits comes and goes"

    with opened(docs.spec) as index:
        cutover.rollback(index, "complaints")
    assert shown.tick() == ""
    assert shown.check(NAMES.serving, on_call.SERVES)[1].endswith(": complaints")
    assert [name for name, said in shown.last(NAMES.serving).items() if "complaints" in str(said)] == ["by"], "who and why, once"
    assert shown.last(NAMES.serving)["serves"] == "v1"

    with opened(docs.spec) as index:
        retire.retire(index, "v2", "v2", "not wanted")
    assert shown.tick() == ""
    passed, said = shown.check(NAMES.embeddings("v2"), on_call.NOT_RETIRED)
    assert not passed
    assert "its vectors are dropped: what is green here is of before. It may leave the YAML" in said
    assert shown.check(NAMES.embeddings("v1"), on_call.NOT_RETIRED) == (True, "v1 is active.")
    assert "v2 may leave the YAML" in status_of(docs.spec).next.why

    left = run(declare(V1))
    keys = {key.to_user_string() for key in left.definitions.resolve_asset_graph().get_all_asset_keys()}
    jobs = {job.name for job in left.definitions.get_repository_def().get_all_jobs()}
    assert not any("v2" in each for each in keys | jobs), "once it left the YAML nothing of it is left"
    assert left.job("docs_dual_write").success
    shown.docs = left
    assert shown.tick() == "Nothing has changed since it was said last."


def test_what_is_wrong_is_red_with_the_job_that_helps(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    docs = run(declare({"v1": {"fail_on": "poison"}}))
    docs.find_serving("v1")
    shown = Shown(docs)
    shown.tick()
    app.execute("UPDATE articles SET body = 'poison' WHERE id = 5")
    assert sentence(docs.job("docs_dual_write")).startswith("dead_letters: Documents without a vector: 1 of v1 (active).")
    shown.tick()
    passed, said = shown.check(NAMES.serving, on_call.DEAD_LETTERS)
    assert not passed
    assert said.startswith("1 document has no vector in v1 (5: ")
    assert "dead_letters" in {each.code for each in status_of(docs.spec).attention}, "status --check says the same"

    app.execute("ALTER TABLE articles DISABLE TRIGGER USER")
    shown.tick()
    passed, said = shown.check(NAMES.serving, on_call.CAPTURE_ARMED)
    assert (passed, said.split(":")[0]) == (False, "Change capture is off")
    assert "Changes may have been missed" in said
    assert shown.last(NAMES.serving)["launch"] == "/guess/docs_compare"
    app.execute("ALTER TABLE articles ENABLE TRIGGER USER")

    app.execute("UPDATE articles SET body = 'old' WHERE id = 6")
    app.execute("UPDATE embed_pipeline.inbox SET at = at - interval '7 minutes'")
    shown.tick()
    assert shown.check(NAMES.serving, on_call.QUEUE_AGE) == (
        False,
        "Changes have waited for v1, which serves, for more than 5 minutes: what it finds is of before.",
    )
    keys = frozenset(dg.AssetCheckKey(NAMES.serving, name) for name in on_call.QUESTIONS)
    by_hand = docs.definitions.resolve_implicit_global_asset_job_def().get_subset(
        asset_check_selection=keys, asset_selection=frozenset()
    )
    answered = by_hand.execute_in_process(instance=docs.instance).get_asset_check_evaluations()
    assert {each.check_name for each in answered if not each.passed} >= {on_call.QUEUE_AGE, on_call.DEAD_LETTERS}, (
        "it asks the same"
    )


def test_a_database_that_does_not_answer_is_said_and_nothing_is_shown(declare: Declare, run: Run) -> None:
    docs = run(declare(V1, database_url="postgresql://someone:secret@127.0.0.1:1/nowhere"))
    assert Shown(docs).tick().startswith("PostgreSQL at postgresql://someone:***@127.0.0.1:1/nowhere is not available")
