"""A whole migration through a running Dagster (webserver, daemon, code location), launched over GraphQL as the UI does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

ROOT = Path(__file__).parents[2]
PARTITIONS = ["00", "01", "02", "03"]

DEFS = """
type: embed_pipeline.EmbeddingIndex
attributes:
  name: docs
  database_url: "{{{{ env.E2E_DATABASE_URL }}}}"
  documents: {{table: articles, key: id, text: [title, body]}}
  partitions: 4
  backfill: {{partitions_per_run: 2}}
  versions:
    v1: {{provider: "tests.fakes:HashEmbedder", model_name: one, dimensions: 16, options: {{salt: v1}}}}
    v2:
      provider: "tests.fakes:HashEmbedder"
      model_name: two
      dimensions: 16
      options: {{salt: v2, raise_on: "body 20", mended: "{mended}"}}
  holdout: {{path: "{holdout}"}}
  gate: {{min_queries: 2, margin: 0.2}}
  retire: {{soak_seconds: 0, unread_seconds: 0}}
"""

LAUNCH_BACKFILL = """mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
BACKFILL = """query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status
  assetBackfillData { assetBackfillStatuses { ... on AssetPartitionsStatusCounts {
    numPartitionsMaterialized numPartitionsFailed } } } } } }"""
LAUNCH_RUN = """mutation($e: ExecutionParams!) { launchRun(executionParams: $e) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
RUN = """query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"""


class Dagster:
    """A client of the running webserver."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)
        assert "errors" not in found, found
        return dict(found["data"])

    def backfill(self, version: str, partitions: list[str]) -> tuple[str, int, int]:
        """Launch it and wait: (status, materialized, failed)."""
        selection = [{"path": ["docs", "embeddings", version]}]
        answer = self.ask(LAUNCH_BACKFILL, p={"partitionNames": partitions, "assetSelection": selection})
        backfill_id = answer["launchPartitionBackfill"]["backfillId"]

        def look() -> Any:
            found = self.ask(BACKFILL, id=backfill_id)["partitionBackfillOrError"]
            return found if found["status"] not in ("REQUESTED", "COMPLETING", "FAILING") else None

        found = wait(look, 240)
        (counts,) = found["assetBackfillData"]["assetBackfillStatuses"]
        return found["status"], counts["numPartitionsMaterialized"], counts["numPartitionsFailed"]

    def run(self, job: str, config: dict[str, Any] | None = None, assets: list[list[str]] | None = None) -> str:
        """Launch a job (or assets of it) and wait for its end."""
        selector: dict[str, Any] = {
            "repositoryName": "__repository__",
            "repositoryLocationName": "embed_pipeline",
            "jobName": job,
        }
        if assets is not None:
            selector["assetSelection"] = [{"path": path} for path in assets]
        answer = self.ask(LAUNCH_RUN, e={"selector": selector, "runConfigData": config or {}})["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer

        def look() -> Any:
            status = self.ask(RUN, id=answer["run"]["runId"])["runOrError"]["status"]
            return status if status in ("SUCCESS", "FAILURE", "CANCELED") else None

        return str(wait(look, 180))


def wait(look: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found is not None:
            return found
        time.sleep(1)
    raise AssertionError(f"nothing after {seconds} s")


@pytest.fixture
def mended(tmp_path: Path) -> Path:
    """The model of v2 fails on one document until this file exists."""
    return tmp_path / "mended"


@pytest.fixture
def dagster(app: psycopg.Connection, database_url: str, holdout: Path, mended: Path, tmp_path: Path) -> Iterator[Dagster]:
    project = tmp_path / "project"
    (project / "assets" / "docs").mkdir(parents=True)
    (project / "assets" / "__init__.py").touch()
    (project / "assets" / "docs" / "defs.yaml").write_text(DEFS.format(holdout=holdout, mended=mended))
    for name in ("dagster.yaml", "workspace.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, project / name)
    shutil.copytree(ROOT / "tests", project / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"E2E_DATABASE_URL": database_url, "EMBED_PIPELINE_HOME": os.environ["EMBED_PIPELINE_HOME"]}
    log = (tmp_path / "dagster.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "embed_pipeline.dagster_layer.dev", "--port", str(port)],
        cwd=project,
        env=environment,
        stdout=log,
        stderr=log,
    )
    client = Dagster(port)

    def up() -> Any:
        assert process.poll() is None, (tmp_path / "dagster.log").read_text()
        try:
            return client.ask("{ version }")
        except (urllib.error.URLError, ConnectionError):
            return None

    try:
        wait(up, 90)
        yield client
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
        log.close()


@pytest.mark.soak
def test_migration_over_graphql(dagster: Dagster, app: psycopg.Connection, mended: Path) -> None:
    """v1 serves, v2 is backfilled with one partition failing once and relaunched, judged, served, rolled back, served; v1 retires."""

    def serving() -> str | None:
        row = app.execute("SELECT version FROM embed_pipeline.serving WHERE index_name = 'docs'").fetchone()
        return row[0] if row else None

    assert dagster.backfill("v1", PARTITIONS) == ("COMPLETED_SUCCESS", 4, 0)
    assert dagster.run("gate_docs_v1") == "SUCCESS"
    assert dagster.run("cutover_docs_v1") == "SUCCESS"
    assert serving() == "v1"

    status, filled, failed = dagster.backfill("v2", PARTITIONS)
    assert (status, filled + failed) == ("COMPLETED_FAILED", 4)
    assert failed >= 1
    unfilled = [
        key
        for (key,) in app.execute(
            "SELECT partition_key FROM embed_pipeline.partitions WHERE version = 'v2' AND completed_at IS NULL ORDER BY 1"
        )
    ]
    assert unfilled == ["01"]
    assert dagster.run("gate_docs_v2") == "FAILURE"
    mended.touch()
    assert dagster.backfill("v2", unfilled)[0] == "COMPLETED_SUCCESS"

    alone = {"ops": {"docs__serving": {"config": {"version": "v2"}}}}
    assert dagster.run("__ASSET_JOB", alone, [["docs", "serving"]]) == "FAILURE"
    assert serving() == "v1"
    assert dagster.run("gate_docs_v2") == "SUCCESS"
    assert dagster.run("cutover_docs_v2") == "SUCCESS"
    assert serving() == "v2"
    app.execute("UPDATE articles SET body = 'after the cutover' WHERE id = 1")
    app.execute("DELETE FROM articles WHERE id = 50")
    # The sensor carries the changes; nobody calls sync here.
    wait(lambda: app.execute("SELECT count(*) FROM embed_pipeline.queue").fetchone() == (0,) or None, 120)
    assert dagster.run("rollback_docs") == "SUCCESS"
    assert serving() == "v1"
    assert dagster.run("cutover_docs_v2") == "SUCCESS"
    assert dagster.run("retire_docs_v1", {"ops": {"retire_docs_v1_op": {"config": {"confirm": "v1"}}}}) == "SUCCESS"
    states = dict(app.execute("SELECT version, state FROM embed_pipeline.versions").fetchall())
    assert states == {"v1": "retired", "v2": "active"}
