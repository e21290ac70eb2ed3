"""A deployment of Dagster whose processes a test starts and kills one by one."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.end_to_end.running import DATABASE_VARIABLE, ROOT, RUN, Dagster, storage_beside, wait

EVENTS = """query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
  ... on MessageEvent { message } ... on ErrorEvent { error { message } } } } } }"""


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


@contextmanager
def deployed(declaration: str, url: str, place: Path, *, poll_seconds: int = 30) -> Iterator[Deployment]:
    """The three processes over index `docs` as `declaration` (a defs.yaml) has it; `poll_seconds`: between two looks of the daemon at runs."""
    project = place / "project"
    (project / "assets" / "docs").mkdir(parents=True)
    (project / "assets" / "__init__.py").touch()
    (project / "assets" / "docs" / "defs.yaml").write_text(declaration)
    shutil.copy(ROOT / "pyproject.toml", project / "pyproject.toml")
    shutil.copytree(ROOT / "tests", project / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    home = place / "dagster_home"
    home.mkdir()
    settings = (ROOT / "dagster.yaml").read_text()
    assert "poll_interval_seconds: 30" in settings
    # What the daemon ends, it ends sooner than in a deployment, so that the test is short.
    (home / "dagster.yaml").write_text(settings.replace("poll_interval_seconds: 30", f"poll_interval_seconds: {poll_seconds}"))
    # On a busy machine the code server takes more than a minute to start a run, and Dagster takes the run for failed.
    patient = {"DAGSTER_GRPC_TIMEOUT_SECONDS": "300"}
    with storage_beside(url) as storage:
        environment = os.environ | {DATABASE_VARIABLE: url, "DAGSTER_HOME": str(home)} | patient | storage
        made = Deployment(project, environment, place / "dagster.log")
        try:
            # In this order: who does not find the code server at its start looks again only after a long while.
            made.start("code server")
            wait(made.listens, 300)
            made.start("webserver", "daemon")
            wait(made.is_up, 300)
            yield made
        finally:
            made.stop()


def worker_of(client: Dagster, run_id: str) -> int:
    """The process that executes the run, as the run's own log names it."""

    def look() -> int | None:
        pids = [found[1] for line in story(client, run_id) if (found := re.search(r"pid: (\d+)", line))]
        return int(pids[-1]) if pids else None

    return int(wait(look, 120))


def ended(client: Dagster, run_id: str, seconds: float = 120) -> str:
    def look() -> Any:
        status = client.ask(RUN, id=run_id)["runOrError"]["status"]
        return status if status in ("SUCCESS", "FAILURE", "CANCELED") else None

    return str(wait(look, seconds))


def story(client: Dagster, run_id: str) -> list[str]:
    """What the run's own log says, errors too."""
    events = client.ask(EVENTS, id=run_id)["logsForRun"]["events"]
    return [f"{event.get('message') or ''} {(event.get('error') or {}).get('message', '')}".strip() for event in events]
