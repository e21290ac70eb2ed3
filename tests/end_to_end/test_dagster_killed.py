"""Dagster as it is deployed (code server, daemon and webserver as processes of their own), each of them killed with SIGKILL in the middle
of a backfill, and the run worker too. What is stored is not paid for again, and the relaunched run finishes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from embed_pipeline.migrate.opening import open_index
from embed_pipeline.spec import IndexSpec
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
    v1:
      provider: "tests.harness.fakes:HashEmbedder"
      model_name: one
      dimensions: 16
      options: {{salt: v1, calls_file: "{calls}", wait_while: "{waits}"}}
"""

# Documents of each of the four partitions.
PARTITION = 15

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
def waits(tmp_path: Path) -> Path:
    """While this file exists, the model answers nobody: what it was asked is paid for."""
    return tmp_path / "waits"


@pytest.fixture
def declaration(calls: Path, waits: Path) -> str:
    return DEFS.format(calls=calls, waits=waits)


@pytest.fixture
def deployment(app: psycopg.Connection, database_url: str, declaration: str, tmp_path: Path) -> Iterator[Deployment]:
    with deployed(declaration, database_url, tmp_path) as made:
        yield made


@pytest.fixture
def registered(app: psycopg.Connection, database_url: str, declaration: str) -> None:
    """The version is there before Dagster comes, so that a partition of it can be held."""
    attributes = yaml.safe_load(declaration.replace("{{ env.E2E_DATABASE_URL }}", database_url))["attributes"]
    open_index(IndexSpec.model_validate(attributes)).close()


@contextmanager
def stopped_in_the_second_partition(app: psycopg.Connection, url: str, waits: Path, calls: Path) -> Iterator[None]:
    """Within the block launch a run. Behind it the first partition is stored, and the second one's texts are with the model."""
    with psycopg.connect(url) as holder:
        holder.execute("SELECT FROM embed_pipeline.partitions WHERE partition_key = '01' FOR UPDATE")
        yield
        wait(lambda: len(stored(app)) == PARTITION or None, 90)
        waits.touch()
    wait(lambda: len(asked_texts(calls)) == 2 * PARTITION or None, 90)


def stored(app: psycopg.Connection) -> set[str]:
    return {doc_id for (doc_id,) in app.execute("SELECT doc_id FROM embed_pipeline.docs__v1")}


def paid_twice(calls: Path) -> set[str]:
    texts = asked_texts(calls)
    return {text for text in texts if texts.count(text) > 1}


def launch(client: Dagster) -> str:
    selector = {"repositoryName": "__repository__", "repositoryLocationName": "embed_pipeline", "jobName": "docs__v1_backfill"}
    params = {"selector": selector, "runConfigData": {}, "executionMetadata": {"tags": RANGE}}
    answer = client.ask(LAUNCH_RUN, e=params)["launchRun"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return str(answer["run"]["runId"])


@pytest.mark.soak
def test_run_worker_and_code_server_killed_in_the_middle_of_a_backfill(
    registered: None, deployment: Deployment, app: psycopg.Connection, database_url: str, calls: Path, waits: Path
) -> None:
    client = deployment.client

    # The run worker. Its run is found dead and marked as failed; what it stored stays.
    with stopped_in_the_second_partition(app, database_url, waits, calls):
        run_id = launch(client)
    os.kill(worker_of(client, run_id), signal.SIGKILL)
    assert ended(client, run_id) == "FAILURE"
    assert len(stored(app)) == PARTITION

    # The code server, while the relaunched run works: the run worker is a process of its own and goes on.
    run_id = launch(client)
    wait(lambda: len(asked_texts(calls)) == 3 * PARTITION or None, 90)
    deployment.kill("code server")
    waits.unlink()
    wait(lambda: len(stored(app)) == 4 * PARTITION or None, 90)
    deployment.start("code server")
    assert ended(client, run_id) == "SUCCESS"
    assert oracle(app, "v1") == []
    in_hand = {f"title {n} body {n}" for n in range(PARTITION + 1, 2 * PARTITION + 1)}
    assert paid_twice(calls) == in_hand, "only what the dead worker had in hand is paid for again"


@pytest.mark.soak
def test_the_daemon_killed_in_the_middle_of_a_backfill_that_it_steers(
    registered: None, deployment: Deployment, app: psycopg.Connection, database_url: str, calls: Path, waits: Path
) -> None:
    """Another daemon takes the backfill up where it stood; the run is not launched a second time."""
    client = deployment.client
    with stopped_in_the_second_partition(app, database_url, waits, calls):
        selection = [{"path": ["docs", "v1", "embeddings"]}]
        answer = client.ask(LAUNCH_BACKFILL, p={"partitionNames": ["00", "01", "02", "03"], "assetSelection": selection})
        backfill_id = answer["launchPartitionBackfill"]["backfillId"]
    deployment.kill("daemon")
    deployment.start("daemon")
    waits.unlink()

    def completed() -> Any:
        status = client.ask(BACKFILL, id=backfill_id)["partitionBackfillOrError"]["status"]
        return status if status.startswith("COMPLETED") or status in ("FAILED", "CANCELED") else None

    assert wait(completed, 120) == "COMPLETED_SUCCESS"
    runs = client.ask(RUNS_OF, id=backfill_id)["runsOrError"]["results"]
    assert [run["status"] for run in runs] == ["SUCCESS"]
    assert oracle(app, "v1") == []
    assert paid_twice(calls) == set()
