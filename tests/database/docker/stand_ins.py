"""What stands in for the containers of others: a PostgreSQL of these tests' own, and a Qdrant that can only say whether it is ready."""

from __future__ import annotations

import http.server
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg

from embed_pipeline.postgres import embedded
from embed_pipeline.postgres.binaries import find_binaries
from tests.conftest import SETTINGS
from tests.database.docker.composed import FOLDER


@contextmanager
def postgres_of_the_containers(folder: Path, passwords: Mapping[str, str]) -> Iterator[embedded.Server]:
    """A server with the roles and databases of `docker/postgres`, made below `folder`. Roles are of a whole server, so it is not shared."""
    home = folder / "postgres_home"
    server = embedded.ensure_running(home, settings=SETTINGS)
    try:
        with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
            # The embedded server has made databases of these names for itself.
            admin.execute("DROP DATABASE dagster")
            admin.execute("DROP DATABASE embed_pipeline")
        run_script(server, passwords)
        yield server
    finally:
        embedded.stop(home)


def run_script(server: embedded.Server, passwords: Mapping[str, str]) -> None:
    """What the PostgreSQL image does with the script: as superuser, with psql, the passwords in its environment."""
    script = FOLDER / "postgres" / "databases.sql"
    psql = str(find_binaries().bin_dir / "psql")
    words = [psql, "-v", "ON_ERROR_STOP=1", "--no-psqlrc", "-q", "-d", "postgres", "-f", str(script)]
    place = {"PGHOST": server.host, "PGPORT": str(server.port), "PGUSER": "postgres", "PGPASSWORD": server.password}
    done = subprocess.run(words, env={**place, **passwords}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


class Qdrant(http.server.HTTPServer):
    """Answers every GET with `status`, and keeps the paths."""

    def __init__(self, status: int) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.status = status
        self.port = self.server_port
        self.paths: list[str] = []


class _Answer(http.server.BaseHTTPRequestHandler):
    server: Qdrant

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@contextmanager
def qdrant_that_answers(status: int) -> Iterator[Qdrant]:
    """A server on a free port of this machine."""
    server = Qdrant(status)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
