"""A running Dagster (webserver, daemon, code location) over a project of the test's own, and a client that speaks to it as the UI does."""

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
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from embed_pipeline.dagster_layer.storage import URL_VARIABLE

ROOT = Path(__file__).parents[2]
DATABASE_VARIABLE = "E2E_DATABASE_URL"

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
        selection = [{"path": ["docs", version, "embeddings"]}]
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


@contextmanager
def storage_beside(url: str) -> Iterator[dict[str, str]]:
    """A database of its own for what one Dagster stores: two on one storage take each other's runs. Gives its place in the environment."""
    name = f"{conninfo_to_dict(url)['dbname']}_dagster"
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        parts = urlsplit(url)
        yield {URL_VARIABLE: urlunsplit(parts._replace(path=f"/{name}"))}
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def running(project: Path, defs: str, database_url: str, **more: str) -> Iterator[Dagster]:
    """`make dev` in a new project with the declaration of docs, and with `more` by their indexes' names, until the end of the block."""
    for name, declaration in {"docs": defs, **more}.items():
        (project / "assets" / name).mkdir(parents=True)
        (project / "assets" / name / "defs.yaml").write_text(declaration)
    (project / "assets" / "__init__.py").touch()
    for name in ("dagster.yaml", "workspace.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, project / name)
    shutil.copytree(ROOT / "tests", project / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (project / "dagster.log").open("wb")
    command = [sys.executable, "-m", "embed_pipeline.dagster_layer.dev", "--port", str(port)]
    client = Dagster(port)

    def up() -> Any:
        assert process.poll() is None, (project / "dagster.log").read_text()
        try:
            return client.ask("{ version }")
        except (urllib.error.URLError, ConnectionError):
            return None

    with storage_beside(database_url) as storage:
        # On a busy machine the code server takes more than a minute to start a run, and Dagster takes the run for failed.
        environment = os.environ | {DATABASE_VARIABLE: database_url, "DAGSTER_GRPC_TIMEOUT_SECONDS": "300"} | storage
        process = subprocess.Popen(command, cwd=project, env=environment, stdout=log, stderr=log)
        try:
            wait(up, 240)
            yield client
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
            log.close()
