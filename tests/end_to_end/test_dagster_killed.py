"""Dagster as it is deployed (code server, daemon and webserver as processes of their own), each of them killed with SIGKILL in the middle
of a backfill, and the run worker too. What is stored is not paid for again, and the relaunched run finishes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.end_to_end.test_graphql import LAUNCH_BACKFILL, LAUNCH_RUN, RUN, Dagster, wait
from tests.fakes import asked_texts
from tests.servers.seen import oracle

ROOT = Path(__file__).parents[2]

DEFS = """
type: embed_pipeline.EmbeddingIndex
attributes:
  name: docs
  database_url: "{{{{ env.E2E_DATABASE_URL }}}}"
  documents: {{table: articles, key: id, text: [title, body]}}
  partitions: 4
  backfill: {{partitions_per_run: 4}}
  versions:
    v1: {{provider: "tests.fakes:HashEmbedder", model_name: one, dimensions: 16, options: {{salt: v1, calls_file: "{calls}"}}}}
"""

EVENTS = (
    """query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events { ... on MessageEvent { message } } } } }"""
)
RUNS_OF = """query($id: String!) { runsOrError(filter: {tags: [{key: "dagster/backfill", value: $id}]}) {
  ... on Runs { results { runId status } } } }"""
BACKFILL = """query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"""
RANGE = [
    {"key": "dagster/asset_partition_range_start", "value": "00"},
    {"key": "dagster/asset_partition_range_end", "value": "03"},
]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Deployment:
    """The three processes of a deployment, each started and killed by itself."""

    def __init__(self, project: Path, environment: dict[str, str], log: Path) -> None:
        self._project, self._environment, self._log = project, environment, log.open("wb")
        web, code = free_port(), free_port()
        self.client, self._code_port = Dagster(web), code
        location = f"load_from: [{{grpc_server: {{host: 127.0.0.1, port: {code}, location_name: embed_pipeline}}}}]\n"
        (project / "workspace.yaml").write_text(location)
        run = [sys.executable, "-m"]
        self._commands = {
            "code server": [
                *run,
                "dagster",
                "api",
                "grpc",
                "-h",
                "127.0.0.1",
                "-p",
                str(code),
                "-m",
                "embed_pipeline.definitions",
            ],
            "daemon": [*run, "dagster._daemon", "run", "-w", "workspace.yaml"],
            "webserver": [*run, "dagster_webserver", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(web)],
        }
        self._commands["code server"] += ["--location-name", "embed_pipeline", "-d", "."]
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *names: str) -> None:
        for name in names:
            self._running[name] = subprocess.Popen(
                self._commands[name], cwd=self._project, env=self._environment, stdout=self._log, stderr=self._log
            )

    def kill(self, name: str) -> None:
        self._running[name].kill()
        self._running.pop(name).wait()

    def listens(self) -> bool | None:
        """Whether the code server takes connections."""
        assert self._running["code server"].poll() is None, Path(self._log.name).read_text()[-3000:]
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._code_port)) == 0 or None

    def is_up(self) -> bool | None:
        for name, process in self._running.items():
            assert process.poll() is None, f"the {name} has ended: {Path(self._log.name).read_text()[-3000:]}"
        try:
            found = self.client.ask(
                "{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError { __typename } } } } }"
            )
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None
        entries = found["workspaceOrError"]["locationEntries"]
        return (entries and entries[0]["locationOrLoadError"]["__typename"] == "RepositoryLocation") or None

    def stop(self) -> None:
        for name in list(self._running):
            self.kill(name)
        self._log.close()


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return tmp_path / "calls"


@pytest.fixture
def deployment(app: psycopg.Connection, database_url: str, calls: Path, tmp_path: Path) -> Iterator[Deployment]:
    project = tmp_path / "project"
    (project / "assets" / "docs").mkdir(parents=True)
    (project / "assets" / "__init__.py").touch()
    (project / "assets" / "docs" / "defs.yaml").write_text(DEFS.format(calls=calls))
    shutil.copy(ROOT / "pyproject.toml", project / "pyproject.toml")
    shutil.copytree(ROOT / "tests", project / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    home = tmp_path / "dagster_home"
    home.mkdir()
    settings = (ROOT / "dagster.yaml").read_text()
    assert "poll_interval_seconds: 30" in settings
    # Dead runs are looked for more often than in a deployment, so that the test is short.
    (home / "dagster.yaml").write_text(settings.replace("poll_interval_seconds: 30", "poll_interval_seconds: 3"))
    environment = os.environ | {"E2E_DATABASE_URL": database_url, "DAGSTER_HOME": str(home)}
    made = Deployment(project, environment, tmp_path / "dagster.log")
    try:
        # In this order: who does not find the code server at its start looks again only after a long while.
        made.start("code server")
        wait(made.listens, 120)
        made.start("webserver", "daemon")
        wait(made.is_up, 120)
        yield made
    finally:
        made.stop()


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
    if app.execute("SELECT to_regclass('embed_pipeline.docs__v1__documents')").fetchone() == (None,):
        return set()
    return {doc_id for (doc_id,) in app.execute("SELECT doc_id FROM embed_pipeline.docs__v1__documents")}


def paid_twice(calls: Path) -> set[str]:
    texts = asked_texts(calls)
    return {text for text in texts if texts.count(text) > 1}


def launch(client: Dagster) -> str:
    selector = {"repositoryName": "__repository__", "repositoryLocationName": "embed_pipeline", "jobName": "backfill_docs_v1"}
    params = {"selector": selector, "runConfigData": {}, "executionMetadata": {"tags": RANGE}}
    answer = client.ask(LAUNCH_RUN, e=params)["launchRun"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return str(answer["run"]["runId"])


def worker_of(client: Dagster, run_id: str) -> int:
    """The process that executes the run, as the run's own log names it."""

    def look() -> int | None:
        events = client.ask(EVENTS, id=run_id)["logsForRun"]["events"]
        pids = [found[1] for event in events if (found := re.search(r"pid: (\d+)", event.get("message") or ""))]
        return int(pids[-1]) if pids else None

    return int(wait(look, 60))


def ended(client: Dagster, run_id: str) -> str:
    def look() -> Any:
        status = client.ask(RUN, id=run_id)["runOrError"]["status"]
        return status if status in ("SUCCESS", "FAILURE", "CANCELED") else None

    return str(wait(look, 120))


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
