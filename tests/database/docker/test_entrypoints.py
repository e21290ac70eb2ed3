"""The commands of `docker/compose.yaml`, run as processes on this machine in the order the file gives: what the containers would run,
but for addresses, ports and folders. PostgreSQL is a real one; of Qdrant only the answer that it is ready is there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psycopg
import pytest

from embed_pipeline.postgres import embedded
from embed_pipeline.postgres.binaries import find_binaries
from tests.database.docker.composed import FOLDER, ROOT, SECRETS, Loopback, health_of, image_folders, image_variables, services
from tests.database.docker.stand_ins import postgres_of_the_containers, qdrant_that_answers
from tests.end_to_end.deployment import free_port
from tests.end_to_end.running import LAUNCH_RUN, RUN, Dagster

GIVEN = {name: f"it's the {name} @/:%20" for name in SECRETS}
LOCATIONS = "{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus locationOrLoadError { __typename } } } } }"


class Containers:
    """The services of the file as processes. Folders of the image are below `place`."""

    def __init__(self, place: Path, ports: dict[str, int]) -> None:
        self.home, self.project = place / "home", place / "project"
        self.installed, self.log = place / "installed", place / "log"
        self.ports = ports
        self._services = services(GIVEN)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        folders = {"/opt/dagster/home": self.home, "/opt/venv": Path(sys.prefix), "/app": self.project}
        self._loopback = Loopback(ports, folders)
        self._lay_out()

    def _lay_out(self) -> None:
        """What the Dockerfile copies and installs, and what the file mounts."""
        self.installed.mkdir()
        # The package alone: beside it in the checkout are other assets, which would be found before the mounted ones.
        (self.installed / "embed_pipeline").symlink_to(ROOT / "embed_pipeline")
        for folder in image_folders():
            Path(self._loopback.here(folder)).mkdir(parents=True)
        shutil.copy(FOLDER / "dagster.yaml", self.home)
        workspace = self._loopback.here(
            (FOLDER / "workspace.yaml").read_text(encoding="utf-8").replace("code-server", "127.0.0.1")
        )
        (self.home / "workspace.yaml").write_text(workspace, encoding="utf-8")
        shutil.copytree(FOLDER / "assets", self.project / "assets", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", self.project)

    def environment(self, name: str) -> dict[str, str]:
        """The image's and the service's. The image has the package installed; here it is linked."""
        path = f"{find_binaries().bin_dir}:{os.environ['PATH']}"
        image = {key: value.replace("$PATH", path) for key, value in image_variables().items()}
        return {"PYTHONPATH": str(self.installed)} | self._loopback.variables(image | self._services[name]["environment"])

    def run(self, name: str, words: list[str]) -> subprocess.CompletedProcess[str]:
        """A command in the service's container, as `docker compose exec` runs it."""
        return subprocess.run(
            words, cwd=self.project, env=self.environment(name), capture_output=True, text=True, timeout=120, check=False
        )

    def up(self, *names: str) -> None:
        """Start these services and what they wait for, each when what it waits for is as the file wants it."""
        for name in names:
            if name in self._running:
                continue
            for needed, how in self._services[name]["depends_on"].items():
                if how["condition"] == "service_healthy":
                    self._await_healthy(needed)
                else:
                    self.up(needed)
                    assert self._running[needed].wait(timeout=120) == 0, self.said()
            command = self._loopback.words(self._services[name]["command"])
            with self.log.open("ab") as log:
                self._running[name] = subprocess.Popen(
                    command, cwd=self.project, env=self.environment(name), stdout=log, stderr=log
                )

    def _await_healthy(self, name: str) -> None:
        if name in OURS:
            self.up(name)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if self.healthy(name):
                return
            assert name not in OURS or self._running[name].poll() is None, self.said()
            time.sleep(0.5)
        raise AssertionError(f"{name} did not become healthy:\n{self.said()}")

    def up_and_healthy(self) -> None:
        """Everything."""
        self.up(*OURS)
        for name in OURS:
            if self._services[name]["restart"] != "no":
                self._await_healthy(name)

    def healthy(self, name: str) -> bool:
        """What the file's own command says."""
        return self.run(name, self._loopback.words(health_of(self._services[name]))).returncode == 0

    def stop(self) -> dict[str, int]:
        """SIGTERM to each, those first that others do not wait for; the exit codes of those that ended in the time the file gives."""
        ended = {}
        while self._running:
            name, process = self._running.popitem()
            process.terminate()
            try:
                ended[name] = process.wait(timeout=int(self._services[name]["stop_grace_period"].removesuffix("s")))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return ended

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-4000:] if self.log.exists() else ""


OURS = ("code-server", "webserver", "daemon", "metrics")


@contextmanager
def containers(tmp_path: Path) -> Iterator[tuple[Containers, embedded.Server]]:
    with postgres_of_the_containers(tmp_path, GIVEN) as postgres, qdrant_that_answers(200) as qdrant:
        ports = {"5432": postgres.port, "6333": qdrant.port, "3000": free_port(), "4000": free_port(), "9464": free_port()}
        made = Containers(tmp_path, ports)
        try:
            yield made, postgres
        finally:
            made.stop()


def launch(client: Dagster, job: str, partition: str) -> str:
    selector = {"repositoryName": "__repository__", "repositoryLocationName": "embed_pipeline", "jobName": job}
    tags = [{"key": "dagster/partition", "value": partition}]
    execution = {"selector": selector, "runConfigData": {}, "executionMetadata": {"tags": tags}}
    answer = client.ask(LAUNCH_RUN, e=execution)["launchRun"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return str(answer["run"]["runId"])


def ended(client: Dagster, run_id: str) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        status = client.ask(RUN, id=run_id)["runOrError"]["status"]
        if status in ("SUCCESS", "FAILURE", "CANCELED"):
            return str(status)
        time.sleep(0.5)
    raise AssertionError(f"run {run_id} is {status}")


@pytest.mark.soak
def test_a_run_of_the_example_index_succeeds(tmp_path: Path) -> None:
    with containers(tmp_path) as (deployment, postgres):
        assert deployment.healthy("postgres")
        assert not deployment.healthy("webserver"), "nothing of ours runs yet"
        assert not deployment.healthy("code-server")
        deployment.up_and_healthy()

        client = Dagster(deployment.ports["3000"])
        (location,) = client.ask(LOCATIONS)["workspaceOrError"]["locationEntries"]
        assert location == {
            "name": "embed_pipeline",
            "loadStatus": "LOADED",
            "locationOrLoadError": {"__typename": "RepositoryLocation"},
        }

        documents = tmp_path / "documents.jsonl"
        documents.write_text("".join(json.dumps({"id": str(n), "text": f"document {n}"}) + "\n" for n in range(64)))
        loaded = deployment.run("code-server", ["embed-pipeline", "load", "docs", str(documents)])
        assert loaded.returncode == 0, loaded.stderr
        assert ended(client, launch(client, "docs__v1_backfill", "00")) == "SUCCESS", deployment.said()

        with psycopg.connect(postgres.url("embed_pipeline")) as conn:
            filled = "SELECT partition_key FROM embed_pipeline.partitions WHERE version = 'v1' AND completed_at IS NOT NULL"
            assert conn.execute(filled).fetchall() == [("00",)]
            owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'embed_pipeline'"
            assert conn.execute(owners).fetchall() == [("embed_pipeline",)], "runs come by the role that is theirs"
        with psycopg.connect(postgres.url("dagster")) as conn:
            assert conn.execute("SELECT status FROM runs").fetchall() == [("SUCCESS",)]

        with urlopen(f"http://127.0.0.1:{deployment.ports['9464']}/metrics", timeout=30) as scraped:
            assert b'embed_pipeline_partitions_filled{index="docs",version="v1"} 1.0' in scraped.read()

        assert set(deployment.stop()) == {*OURS, "dagster-schema"}, "all end when they are told to"
        assert_only_volumes_were_written(deployment)


def assert_only_volumes_were_written(deployment: Containers) -> None:
    """The root of the containers is read-only."""
    files = [each.relative_to(deployment.home) for each in deployment.home.rglob("*") if each.is_file()]
    assert {str(each) for each in files if each.parts[0] != "storage"} == {"dagster.yaml", "workspace.yaml"}
    assert any(each.parts[0] == "storage" for each in files), "what the run printed"
    made = {Path(folder).name for folder in image_folders()} | {"dagster.yaml", "workspace.yaml"}
    assert {each.name for each in deployment.home.iterdir()} <= made, "a folder that the image has not"
    written: Any = {str(each.relative_to(deployment.project)) for each in deployment.project.rglob("*") if each.is_file()}
    assert written == {"pyproject.toml", "assets/__init__.py", "assets/docs/defs.yaml"}
