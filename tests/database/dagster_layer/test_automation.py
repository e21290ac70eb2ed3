"""Ticks of the sensor and of the schedules."""

from __future__ import annotations

import time
from collections.abc import Callable

import dagster as dg
import psycopg
import pytest
from dagster._core.test_utils import create_run_for_test

from embed_pipeline.dagster_layer.assets import DUAL_WRITE_BUDGET_SECONDS
from embed_pipeline.dagster_layer.freshness import QUIET_SECONDS
from embed_pipeline.dagster_layer.schedules import first_contiguous
from embed_pipeline.spec import IndexSpec
from tests.database.dagster_layer.conftest import Declare, Runner

Run = Callable[[IndexSpec], Runner]
V1 = {"v1": {}}


@pytest.fixture
def instance(instance_on_disk: dg.DagsterInstance) -> dg.DagsterInstance:
    """The context of a tick opens its instance again."""
    return instance_on_disk


def tick(docs: Runner) -> dg.RunRequest | str:
    """One tick of the sensor: what it requests, or why it does not."""
    sensor = docs.definitions.resolve_sensor_def("docs_dual_write")
    with dg.build_sensor_context(instance=docs.instance, definitions=docs.definitions) as context:
        answer = sensor.evaluate_tick(context)
    return answer.run_requests[0] if answer.run_requests else str(answer.skip_message)


def schedule_tick(docs: Runner, version: str = "v1") -> dg.RunRequest | str:
    schedule = docs.definitions.resolve_schedule_def(f"docs__{version}_backfill")
    with dg.build_schedule_context(instance=docs.instance) as context:
        answer = schedule.evaluate_tick(context)
    return answer.run_requests[0] if answer.run_requests else str(answer.skip_message)


def test_the_sensor_asks_for_a_run_while_changes_wait(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    app.execute("DROP SCHEMA IF EXISTS embed_pipeline CASCADE")
    docs = run(declare(V1))
    assert tick(docs) == "docs is not registered in its database yet; its first backfill does that."
    docs.fill("v1")
    assert tick(docs) == "No changed document waits."

    app.execute("UPDATE articles SET body = 'changed' WHERE id = 5")
    request = tick(docs)
    assert isinstance(request, dg.RunRequest)
    assert request.run_key is None, "Dagster never asks again for a run key, also after its run failed"
    assert request.tags["dagster/priority"] == "10"
    assert float(request.tags["dagster/max_runtime"]) > DUAL_WRITE_BUDGET_SECONDS

    assert docs.job("docs_dual_write").success
    assert tick(docs) == "No changed document waits."


def test_the_sensor_says_that_vectors_are_gone(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    """Nothing waits, so no run would say it. The next backfill of a partition makes the table again."""
    docs = run(declare(V1))
    docs.serve("v1")
    app.execute("DROP TABLE embed_pipeline.docs__v1 CASCADE")
    said = tick(docs)
    assert isinstance(said, str)
    assert "its table embed_pipeline.docs__v1 is not there" in said
    assert "it is active, and serves" in said
    docs.fill("v1")
    assert tick(docs) == "No changed document waits."


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED])
def test_the_sensor_waits_for_its_own_run(
    declare: Declare, run: Run, app: psycopg.Connection, status: dg.DagsterRunStatus
) -> None:
    docs = run(declare(V1))
    docs.fill("v1")
    app.execute("UPDATE articles SET body = 'changed' WHERE id = 5")
    create_run_for_test(docs.instance, job_name="docs_dual_write", status=dg.DagsterRunStatus.FAILURE)
    create_run_for_test(docs.instance, job_name="others_dual_write", status=status)
    assert isinstance(tick(docs), dg.RunRequest)
    create_run_for_test(docs.instance, job_name="docs_dual_write", status=status)
    assert tick(docs) == "A dual-write is queued or running."


def test_a_database_that_does_not_answer_is_a_reason_and_no_stack_trace(declare: Declare, run: Run) -> None:
    docs = run(declare(V1, database_url="postgresql://someone:secret@127.0.0.1:1/nowhere"))
    for answer in (tick(docs), schedule_tick(docs)):
        assert isinstance(answer, str)
        assert answer.startswith("PostgreSQL at postgresql://someone:***@127.0.0.1:1/nowhere is not available")


def test_the_schedule_asks_for_the_next_partitions(declare: Declare, run: Run) -> None:
    docs = run(declare(V1, backfill={"partitions_per_run": 2}))

    def wanted() -> tuple[str, str]:
        request = schedule_tick(docs)
        assert isinstance(request, dg.RunRequest)
        tags = request.tags
        return tags["dagster/asset_partition_range_start"], tags["dagster/asset_partition_range_end"]

    assert wanted() == ("00", "01"), "an index that is not registered yet has everything to fill"
    assert docs.backfill("v1", "01", "01").success
    assert wanted() == ("00", "00")
    assert docs.backfill("v1", "00", "00").success
    assert wanted() == ("02", "03")
    waiting = create_run_for_test(docs.instance, job_name="docs__v1_backfill", status=dg.DagsterRunStatus.STARTED)
    assert schedule_tick(docs) == "The backfill of an earlier tick is queued or running."
    docs.instance.delete_run(waiting.run_id)
    assert docs.backfill("v1", "02", "03").success
    assert schedule_tick(docs) == "Every partition of v1 is filled."


@pytest.mark.parametrize(
    ("unfilled", "expected"),
    [
        (set(), []),
        ({"00", "01", "02", "03"}, ["00", "01"]),
        ({"01", "03"}, ["01"]),
        ({"02", "03"}, ["02", "03"]),
        ({"03"}, ["03"]),
    ],
)
def test_first_contiguous(unfilled: set[str], expected: list[str]) -> None:
    assert first_contiguous(["00", "01", "02", "03"], unfilled, 2) == expected


def requested(docs: Runner, cursor: str | None = None) -> tuple[list[str | None], str, str | None]:
    """One tick of the sensor: the jobs that it requests, what it says, and its cursor."""
    sensor = docs.definitions.resolve_sensor_def("docs_dual_write")
    with dg.build_sensor_context(instance=docs.instance, definitions=docs.definitions, cursor=cursor) as context:
        answer = sensor.evaluate_tick(context)
    return [request.job_name for request in answer.run_requests or []], str(answer.skip_message), answer.cursor


def test_a_doubt_requests_the_full_comparison_and_every_tick_says_it(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    docs = run(declare(V1))
    docs.fill("v1")
    assert requested(docs) == ([], "No changed document waits.", None)
    app.execute("ALTER TABLE articles DISABLE TRIGGER embed_pipeline_docs_update")
    app.execute("UPDATE articles SET body = 'unseen' WHERE id = 5")
    app.execute("ALTER TABLE articles ENABLE TRIGGER embed_pipeline_docs_update")

    jobs, _, cursor = requested(docs)
    assert jobs == ["docs_dual_write", "docs_compare"], "a run looks into it, and everything is compared"
    synced = docs.job("docs_dual_write")
    assert synced.success
    (shown,) = [event for event in synced.all_events if event.is_step_materialization]
    assert shown.step_materialization_data.materialization.metadata["doubts"].value == 1
    said = "Changes may have been missed (the documents table has changed since capture was armed: triggers)"
    jobs, message, cursor = requested(docs, cursor)
    assert jobs == [], "the comparison was asked for a moment ago"
    assert said in message
    assert requested(docs, "0.0")[0] == ["docs_compare"], "asked for again while the doubt is open"
    ahead = str(time.time() + 3_600)
    assert requested(docs, ahead)[0] == ["docs_compare"], "the clock was set back since it was asked for"
    under_way = create_run_for_test(docs.instance, job_name="docs_compare", status=dg.DagsterRunStatus.STARTED)
    jobs, message, _ = requested(docs, "0.0")
    assert (jobs, "A full comparison is queued or running." in message) == ([], True)
    docs.instance.delete_run(under_way.run_id)

    compared = docs.job("docs_compare")
    (check,) = compared.get_asset_check_evaluations()
    assert not check.passed
    assert "there was reason to doubt it" in (check.description or "")
    assert check.metadata["doubts"].value == 1
    jobs, _, cursor = requested(docs, cursor)
    assert jobs == ["docs_dual_write"], "what differed is queued, and nothing is doubted any more"
    assert docs.job("docs_dual_write").success
    assert requested(docs, cursor)[1] == "No changed document waits."


def test_what_has_nothing_to_do_is_not_late(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    """The freshness of the dual-write: the sensor says now and then that nothing waits, and never while something does."""
    docs = run(declare(V1))
    sensor = docs.definitions.resolve_sensor_def("docs_dual_write")
    key = dg.AssetKey(["docs", "dual_write"])

    def said() -> int:
        with dg.build_sensor_context(instance=docs.instance, definitions=docs.definitions) as context:
            events = sensor.evaluate_tick(context).asset_events
        for event in events:
            docs.instance.report_runless_asset_event(event)
        return len(events)

    assert said() == 0, "not registered: there is nothing to be fresh"
    docs.find_serving("v1")
    app.execute("UPDATE articles SET body = 'waits' WHERE id = 5")
    assert said() == 0, "a change waits"
    assert docs.job("docs_dual_write").success
    assert said() == 0, "the run has just said it"
    docs.instance.wipe_assets([key])
    assert [said(), said()] == [1, 0], "once, and not at every tick"
    policy = docs.definitions.resolve_asset_graph().get(key).freshness_policy_or_from_metadata
    assert policy is not None
    assert policy.fail_window.to_timedelta().total_seconds() > 2 * QUIET_SECONDS
