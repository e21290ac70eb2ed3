"""The full comparison as Dagster runs it: what bypassed change capture is queued by the run, which then ends as a failure."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg
import psycopg
import pytest
from dagster._core.test_utils import create_run_for_test

from embed_pipeline.migrate import register
from embed_pipeline.report.status import status_of
from embed_pipeline.spec import IndexSpec
from tests.database.dagster_layer.conftest import Declare, Runner, sentence

Run = Callable[[IndexSpec], Runner]
V1 = {"v1": {}}


@pytest.fixture
def instance(instance_on_disk: dg.DagsterInstance) -> dg.DagsterInstance:
    """The context of a schedule's tick opens its instance again."""
    return instance_on_disk


def compared(docs: Runner) -> tuple[bool, dg.AssetCheckSeverity, str]:
    """One run of the job: (passed, severity, what it says)."""
    result = docs.job("docs_compare")
    (check,) = [each for each in result.get_asset_check_evaluations() if each.check_name == "nothing_bypassed"]
    assert check.asset_key == dg.AssetKey(["docs", "comparison"])
    assert result.success == (check.passed or not docs.spec.checks.fail_runs), "a red check reaches who is called for failed runs"
    if not result.success:
        assert sentence(result) == f"nothing_bypassed: {check.description}"
        assert result.get_asset_materialization_events(), "the comparison did its work"
    return check.passed, check.severity, check.description or ""


def tick(docs: Runner) -> dg.RunRequest | str:
    schedule = docs.definitions.resolve_schedule_def("docs_compare")
    with dg.build_schedule_context(instance=docs.instance) as context:
        answer = schedule.evaluate_tick(context)
    return answer.run_requests[0] if answer.run_requests else str(answer.skip_message)


def bypass(app: psycopg.Connection) -> None:
    """Change, delete and insert while the triggers are off, and leave them off."""
    app.execute("ALTER TABLE articles DISABLE TRIGGER USER")
    app.execute("UPDATE articles SET body = 'unseen edit' WHERE id = 1")
    app.execute("DELETE FROM articles WHERE id = 2")
    app.execute("INSERT INTO articles VALUES (100, 'unseen insert') ON CONFLICT DO NOTHING")


def test_what_bypassed_capture_is_found_repaired_and_said(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    docs = run(declare(V1))
    docs.find_serving("v1")
    clean = "Every vector agrees with its document, and change capture is armed."
    assert compared(docs) == (True, dg.AssetCheckSeverity.WARN, clean)
    seen = status_of(docs.spec).comparison
    assert seen is not None
    assert (seen.differences, seen.sentence) == (0, clean)

    bypass(app)
    passed, severity, said = compared(docs)
    assert (passed, severity) == (False, dg.AssetCheckSeverity.WARN)
    assert said.startswith("Something bypassed change capture, or could have: 3 documents of v1 differed and are queued, ")
    assert "there was reason to doubt it (the documents table has changed since capture was armed: triggers)" in said
    assert "change capture was off and is armed again" in said
    assert "embed_pipeline_docs_update" in said
    seen = status_of(docs.spec).comparison
    assert seen is not None
    assert (seen.differences, seen.sentence) == (3, said)

    app.execute("UPDATE articles SET body = 'seen again' WHERE id = 3")
    assert docs.job("docs_dual_write").success
    # The next comparison reads everything again and finds nothing: it was repaired, and change capture is on.
    assert compared(docs)[0]

    bypass(app)
    assert not compared(run(declare(V1, checks={"fail_runs": False})))[0]


def test_armed_triggers_are_left_alone_and_long_writers_are_not_met(
    declare: Declare, run: Run, app: psycopg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arming needs the documents lock; with nothing to arm a comparison must pass beside a long transaction."""
    docs = run(declare(V1))
    docs.find_serving("v1")
    monkeypatch.setattr(register, "LOCK_TRIES", 1)
    with psycopg.connect(database_url) as writer:
        writer.execute("UPDATE articles SET body = 'long' WHERE id = 1")
        # One that waits for the writer waits for ever: its test ends by pytest's own timeout, which shows where.
        assert compared(docs)[0]
        writer.rollback()


def test_the_schedule_waits_for_a_version_and_for_its_own_run(declare: Declare, run: Run) -> None:
    docs = run(declare(V1))
    assert tick(docs) == "docs has no live version yet."
    docs.fill("v1")
    assert isinstance(tick(docs), dg.RunRequest)
    create_run_for_test(docs.instance, job_name="docs_compare", status=dg.DagsterRunStatus.STARTED)
    assert tick(docs) == "The comparison of an earlier tick is queued or running."


def test_a_comparison_registers_no_new_version(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    """A schedule that registers what is new in the YAML would begin migrations at night."""
    run(declare(V1)).find_serving("v1")
    assert compared(run(declare({"v1": {}, "v2": {}})))[0]
    assert app.execute("SELECT version FROM embed_pipeline.versions").fetchall() == [("v1",)]


def test_a_bulk_loss_turns_the_run_red_and_is_left_to_a_person(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    """The table was swapped for an empty one. The sensor says it at every tick, and asks for no further comparison by itself."""
    app.execute("INSERT INTO articles SELECT n, 'more' FROM generate_series(1000, 1100) AS n")
    docs = run(declare(V1))
    docs.fill("v1")
    app.execute("ALTER TABLE articles RENAME TO before; CREATE TABLE articles (LIKE before INCLUDING ALL)")
    failed = docs.job("docs_compare")
    assert not failed.success
    said = status_of(docs.spec).doubts[-1]
    assert said.startswith("a comparison would have removed ")
    sensor = docs.definitions.resolve_sensor_def("docs_dual_write")
    with dg.build_sensor_context(instance=docs.instance) as context:
        ticked = sensor.evaluate_tick(context)
    assert [request.job_name for request in ticked.run_requests or []] in ([], ["docs_dual_write"])
