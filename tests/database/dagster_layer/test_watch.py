"""The watch after a cutover, as Dagster runs it: the sensor asks for a look when one is due, and a proven loss is a failed run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dagster as dg
import psycopg
from dagster._core.test_utils import create_run_for_test

from embed_pipeline.migrate.opening import opened
from embed_pipeline.spec import IndexSpec
from tests.database.dagster_layer.conftest import Declare, Runner, pointer, sentence
from tests.harness.articles import serve

Run = Callable[[IndexSpec], Runner]
VERSIONS: dict[str, dict[str, Any]] = {"v1": {}, "v2": {}}


def tick(docs: Runner) -> str:
    """One tick of the sensor: the job that it requests, or why it requests none."""
    sensor = docs.definitions.resolve_sensor_def("docs_watch")
    with dg.build_sensor_context(instance=docs.instance, definitions=docs.definitions) as context:
        answer = sensor.evaluate_tick(context)
    return sensor.job_name if answer.run_requests else str(answer.skip_message)


def come_again(app: psycopg.Connection) -> None:
    """As if the time of another look had come."""
    app.execute("DELETE FROM embed_pipeline.watch_looks")


def test_a_loss_that_a_look_proves_fails_its_run_and_is_rolled_back(
    declare: Declare, run: Run, app: psycopg.Connection, instance_on_disk: dg.DagsterInstance
) -> None:
    def docs(**declared: Any) -> Runner:
        return Runner(declare(VERSIONS, partitions=1, **declared), instance_on_disk)

    alert = docs(watch={"rollback": "alert"})
    assert tick(alert) == "No look of docs is due.", "nothing serves yet"
    with opened(alert.spec) as index:
        serve(index, "v1")
        serve(index, "v2")
    assert tick(alert) == "docs_watch"
    create_run_for_test(instance_on_disk, job_name="docs_watch", status=dg.DagsterRunStatus.STARTED)
    assert tick(alert) == "The look of an earlier tick is queued or running."
    instance_on_disk.wipe()

    assert alert.job("docs_watch").success, "all is well"
    assert tick(alert) == "No look of docs is due."
    assert alert.job("docs_watch").success, "another watcher has had it"

    app.execute("DELETE FROM embed_pipeline.docs__v2")
    come_again(app)
    failed = alert.job("docs_watch")
    assert not failed.success
    assert sentence(failed).startswith("docs: fail: look 1 of 144, recall@10 of v2 against v1")
    assert sentence(failed).endswith("next: embed-pipeline rollback docs")
    come_again(app)
    assert docs(watch={"rollback": "alert"}, checks={"fail_runs": False}).job("docs_watch").success
    assert pointer(app) == "v2", "told, and left as it is"

    come_again(app)
    failed = docs(watch={"rollback": "auto"}).job("docs_watch")
    assert sentence(failed).endswith("docs was rolled back: v1 serves (generation 3).")
    assert pointer(app) == "v1"
    assert tick(alert) == "No look of docs is due."
    assert not docs().definitions.get_repository_def().has_job("docs_watch"), "there is none where no watch is declared"
