"""Dagster as it is deployed (code server, daemon and webserver as processes of their own), each of them killed with SIGKILL in the middle
of a backfill, and the run worker too. What is stored is not paid for again, and the relaunched run finishes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.end_to_end.deployment import Deployment, deployed, ended, worker_of
from tests.end_to_end.running import LAUNCH_BACKFILL, LAUNCH_RUN, Dagster, wait
from tests.harness.fakes import asked_texts
from tests.harness.postgres.seen import oracle

DEFS = """
type: embed_pipeline.EmbeddingIndex
attributes:
  name: docs
  database_url: "{{{{ env.E2E_DATABASE_URL }}}}"
  documents: {{table: articles, key: id, text: [title, body]}}
  partitions: 4
  backfill: {{partitions_per_run: 4}}
  versions:
    v1: {{provider: "tests.harness.fakes:HashEmbedder", model_name: one, dimensions: 16, options: {{salt: v1, calls_file: "{calls}"}}}}
"""

RUNS_OF = """query($id: String!) { runsOrError(filter: {tags: [{key: "dagster/backfill", value: $id}]}) {
  ... on Runs { results { runId status } } } }"""
BACKFILL = """query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"""
RANGE = [
    {"key": "dagster/asset_partition_range_start", "value": "00"},
    {"key": "dagster/asset_partition_range_end", "value": "03"},
]


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return tmp_path / "calls"


@pytest.fixture
def deployment(app: psycopg.Connection, database_url: str, calls: Path, tmp_path: Path) -> Iterator[Deployment]:
    with deployed(DEFS.format(calls=calls), database_url, tmp_path) as made:
        yield made


class Held:
    """A row of the application's that a backfill has to come back for: while it is locked, a run is in the middle of its work."""

    def __init__(self, url: str) -> None:
        self._conn = psycopg.connect(url)

    def lock(self, doc_id: int) -> None:
        self._conn.execute("SELECT FROM articles WHERE id = %s FOR UPDATE", (doc_id,))

    def release(self) -> None:
        self._conn.rollback()


@pytest.fixture
def held(database_url: str) -> Iterator[Held]:
    made = Held(database_url)
    yield made
    made._conn.close()


def stored(app: psycopg.Connection) -> set[str]:
    if app.execute("SELECT to_regclass('embed_pipeline.docs__v1')").fetchone() == (None,):
        return set()
    return {doc_id for (doc_id,) in app.execute("SELECT doc_id FROM embed_pipeline.docs__v1")}


def paid_twice(calls: Path) -> set[str]:
    texts = asked_texts(calls)
    return {text for text in texts if texts.count(text) > 1}


def launch(client: Dagster) -> str:
    selector = {"repositoryName": "__repository__", "repositoryLocationName": "embed_pipeline", "jobName": "backfill_docs_v1"}
    params = {"selector": selector, "runConfigData": {}, "executionMetadata": {"tags": RANGE}}
    answer = client.ask(LAUNCH_RUN, e=params)["launchRun"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return str(answer["run"]["runId"])


@pytest.mark.soak
def test_run_worker_and_code_server_killed_in_the_middle_of_a_backfill(
    deployment: Deployment, app: psycopg.Connection, held: Held, calls: Path
) -> None:
    client = deployment.client

    # The run worker. Its run is found dead and marked as failed; what it stored stays.
    held.lock(20)
    run_id = launch(client)
    wait(lambda: len(stored(app)) == 29 or None, 90)
    os.kill(worker_of(client, run_id), signal.SIGKILL)
    assert ended(client, run_id) == "FAILURE"
    held.release()
    assert len(stored(app)) == 29

    # The code server, while the relaunched run works: the run worker is a process of its own and goes on.
    held.lock(35)
    run_id = launch(client)
    wait(lambda: len(stored(app)) == 44 or None, 90)
    deployment.kill("code server")
    held.release()
    wait(lambda: len(stored(app)) == 60 or None, 90)
    deployment.start("code server")
    assert ended(client, run_id) == "SUCCESS"
    assert oracle(app, "v1") == []
    locked = {"title 20 body 20", "title 35 body 35"}
    assert paid_twice(calls) <= locked, "only what could not be stored is paid for again"


@pytest.mark.soak
def test_the_daemon_killed_in_the_middle_of_a_backfill_that_it_steers(
    deployment: Deployment, app: psycopg.Connection, held: Held, calls: Path
) -> None:
    """Another daemon takes the backfill up where it stood; the run is not launched a second time."""
    client = deployment.client
    held.lock(20)
    selection = [{"path": ["docs", "embeddings", "v1"]}]
    answer = client.ask(LAUNCH_BACKFILL, p={"partitionNames": ["00", "01", "02", "03"], "assetSelection": selection})
    backfill_id = answer["launchPartitionBackfill"]["backfillId"]
    wait(lambda: len(stored(app)) == 29 or None, 90)
    deployment.kill("daemon")
    # Released before the next daemon is up, which takes long on a busy machine: a backfill waits a minute for a locked document.
    held.release()
    deployment.start("daemon")

    def completed() -> Any:
        status = client.ask(BACKFILL, id=backfill_id)["partitionBackfillOrError"]["status"]
        return status if status.startswith("COMPLETED") or status in ("FAILED", "CANCELED") else None

    assert wait(completed, 120) == "COMPLETED_SUCCESS"
    runs = client.ask(RUNS_OF, id=backfill_id)["runsOrError"]["results"]
    assert [run["status"] for run in runs] == ["SUCCESS"]
    assert oracle(app, "v1") == []
    assert paid_twice(calls) <= {"title 20 body 20"}
