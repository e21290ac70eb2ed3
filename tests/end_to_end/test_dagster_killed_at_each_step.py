"""The run worker of each job is killed with SIGKILL in the middle of its step, and the daemon while its sensor drives the dual-write.

Each time somebody holds what the step needs, so that it is certain where the worker stands. The dead run is marked as failed, and the same
job, launched again, finishes the step.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embed_pipeline.index.handle import OpenIndex
from tests.end_to_end.deployment import Deployment, deployed, ended, story, worker_of
from tests.end_to_end.running import LAUNCH_RUN, Dagster, wait
from tests.faults.campaign.oracle import wrong_catalog
from tests.harness.articles import serve
from tests.harness.postgres.seen import nothing_waits, oracle

DEFS = """
type: embed_pipeline.EmbeddingIndex
attributes:
  name: docs
  database_url: "{{{{ env.E2E_DATABASE_URL }}}}"
  documents: {{table: articles, key: id, text: [title, body]}}
  partitions: 4
  backfill: {{partitions_per_run: 4}}
  versions:
    v1: {{provider: "tests.harness.fakes:HashEmbedder", model_name: model-v1, dimensions: 16, options: {{salt: v1}}}}
    v2: {{provider: "tests.harness.fakes:HashEmbedder", model_name: model-v2, dimensions: 16, options: {{salt: v2}}}}
  holdout: {{path: "{holdout}"}}
  gate: {{min_queries: 2, margin: 0.2}}
  retire: {{soak_seconds: 0, unread_seconds: 0}}
"""
RUNNING = """query($job: String!) { runsOrError(filter: {pipelineName: $job, statuses: [STARTED]}) { ... on Runs { results { runId } } } }"""
RANGE = [
    {"key": "dagster/asset_partition_range_start", "value": "00"},
    {"key": "dagster/asset_partition_range_end", "value": "03"},
]
RETIRE = {"ops": {"docs__v2_retire__op": {"config": {"confirm": "v2"}}}}

# What somebody holds, and how it shows that the step has come to it.
FILLING = "SELECT FROM embed_pipeline.partitions WHERE version = 'v2' AND completed_at IS NOT NULL"
BUILDING = "SELECT FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX%' AND state = 'active'"
OURS = "(SELECT oid FROM pg_database WHERE datname = current_database())"
MOVING = f"SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = {OURS}"
WAITING = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'embed-pipeline'"


# A run begins with a process that imports everything: on a busy machine that takes minutes.
SECONDS = 400.0


@pytest.fixture
def serving_v1(app: psycopg.Connection, open_docs: Callable[..., OpenIndex]) -> None:
    """v1 serves already and v2 is registered, without Dagster."""
    serve(open_docs("v1", partitions=4), "v1")
    open_docs("v1", "v2", partitions=4)


@pytest.fixture
def deployment(app: psycopg.Connection, database_url: str, holdout: Path, tmp_path: Path) -> Iterator[Deployment]:
    with deployed(DEFS.format(holdout=holdout), database_url, tmp_path, poll_seconds=5) as made:
        yield made


def launch(client: Dagster, job: str, config: dict[str, Any] | None = None, tags: Sequence[dict[str, str]] = ()) -> str:
    selector = {"repositoryName": "__repository__", "repositoryLocationName": "embed_pipeline", "jobName": job}
    params: dict[str, Any] = {"selector": selector, "runConfigData": config or {}}
    params["executionMetadata"] = {"tags": [*tags, *(RANGE if job.endswith("_backfill") else [])]}
    answer = client.ask(LAUNCH_RUN, e=params)["launchRun"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return str(answer["run"]["runId"])


@contextmanager
def held(url: str, statement: str) -> Iterator[None]:
    with psycopg.connect(url) as holder:
        holder.execute(statement)  # type: ignore[arg-type]
        yield
        holder.rollback()


class Killer:
    """Kills the run worker of a job in the middle of its step, and has the job launched again. `dead`: the runs of the killed."""

    def __init__(self, client: Dagster, app: psycopg.Connection, url: str) -> None:
        self._client, self._app, self._url = client, app, url
        self.dead: list[str] = []

    def until(self, query: str) -> None:
        wait(lambda: self._app.execute(query).fetchone() is not None or None, SECONDS)  # type: ignore[arg-type]

    def strike(self, job: str, hold: str, arrived: str, config: dict[str, Any] | None = None) -> None:
        with held(self._url, hold):
            run = launch(self._client, job, config)
            self.until(arrived)
            self.kill(run)
            # What is held is held until then: the run has not ended by itself.
            assert ended(self._client, run, SECONDS) == "FAILURE", story(self._client, run)
        again = launch(self._client, job, config)
        assert ended(self._client, again, SECONDS) == "SUCCESS", story(self._client, again)

    def kill(self, run: str) -> None:
        os.kill(worker_of(self._client, run), signal.SIGKILL)
        self.dead.append(run)


@pytest.mark.soak
def test_each_job_is_killed_and_the_same_job_finishes_it(
    serving_v1: None, deployment: Deployment, app: psycopg.Connection, database_url: str
) -> None:
    client = deployment.client
    killer = Killer(client, app, database_url)
    # What a move of the pointer, the opening of a partition and a retire wait for.
    pointer = "SELECT FROM embed_pipeline.serving_pointer FOR UPDATE"
    partition = "SELECT FROM embed_pipeline.partitions WHERE version = 'v2' AND partition_key = '01' FOR UPDATE"
    version = "SELECT FROM embed_pipeline.index_versions WHERE version = 'v2' FOR UPDATE"

    killer.strike("docs__v2_backfill", partition, FILLING)
    killer.strike("docs__v2_gate", "LOCK TABLE embed_pipeline.docs__v2 IN ROW EXCLUSIVE MODE", BUILDING)
    killer.strike("docs__v2_cutover", pointer, MOVING)
    assert app.execute("SELECT version FROM embed_pipeline.serving_pointer").fetchone() == ("v2",)

    # The dual-write that the sensor asked for, and the daemon that asked.
    with held(database_url, "LOCK TABLE embed_pipeline.docs__v2 IN SHARE MODE"):
        app.execute("UPDATE articles SET body = 'after the cutover' WHERE id <= 5")
        killer.until(WAITING)
        (run,) = wait(lambda: client.ask(RUNNING, job="docs_dual_write")["runsOrError"]["results"] or None, SECONDS)
        killer.kill(run["runId"])
        deployment.kill("daemon")
    deployment.start("daemon")
    # What the dead worker had claimed comes round again when its lease runs out; nobody asks for it by hand.
    wait(lambda: nothing_waits(app) or None, SECONDS)

    killer.strike("docs_rollback", pointer, MOVING)
    assert app.execute("SELECT version FROM embed_pipeline.serving_pointer").fetchone() == ("v1",)
    killer.strike("docs__v2_retire", version, WAITING, RETIRE)
    assert app.execute("SELECT version, state FROM embed_pipeline.versions ORDER BY 1").fetchall() == [
        ("v1", "active"),
        ("v2", "retired"),
    ]
    assert oracle(app, "v1") == []
    assert wrong_catalog(app) == []
    assert [ended(client, run, SECONDS) for run in killer.dead] == ["FAILURE"] * 6, "dead runs are marked"
    for run in killer.dead:
        assert any("was terminated by signal 9" in line for line in story(client, run)), story(client, run)


@pytest.mark.soak
def test_a_dual_write_that_dies_together_with_its_code_server_does_not_stop_the_dual_write(
    serving_v1: None, deployment: Deployment, app: psycopg.Connection, database_url: str
) -> None:
    """Nobody notices that it is dead. The daemon ends it when its time is over, and the sensor asks for the next one."""
    client = deployment.client
    killer = Killer(client, app, database_url)
    with held(database_url, "LOCK TABLE embed_pipeline.docs__v1 IN SHARE MODE"):
        # Launched before the sensor does it, with less time than it has in a deployment.
        run = launch(client, "docs_dual_write", tags=[{"key": "dagster/max_runtime", "value": "30"}])
        app.execute("UPDATE articles SET body = 'changed' WHERE id <= 5")
        killer.until(WAITING)
        worker = worker_of(client, run)
        deployment.kill("code server")
        os.kill(worker, signal.SIGKILL)
    deployment.start("code server")
    assert ended(client, run, SECONDS) == "FAILURE", story(client, run)
    assert any("exceeding maximum runtime" in line for line in story(client, run)), story(client, run)
    wait(lambda: nothing_waits(app) or None, SECONDS)
    assert oracle(app, "v1") == []
