"""A server, and what becomes of copies of its disk: a standby that is promoted, a snapshot that is started, a recovery to a point in time.

All of them have its system identifier. An address leads to one server after the other, as a service's name does.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from embed_pipeline.postgres import embedded, processes
from embed_pipeline.postgres.binaries import find_binaries
from embed_pipeline.postgres.unprivileged import Quarters, quarters
from tests.harness.postgres.proxy import Proxy
from tests.harness.postgres.standby import eventually

SETTINGS = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "32MB", "wal_level": "replica"}
# Its addresses say nothing of this machine, on which two data directories would be two servers.
NAME = "db.internal"


@dataclass
class Copy:
    """A server on a copy of the disk."""

    port: int
    pid: int
    data: Path
    original: Original = field(repr=False)

    def sql(self, statement: str) -> object:
        with psycopg.connect(self.original.url(self.port), autocommit=True) as conn:
            cursor = conn.execute(statement)  # type: ignore[arg-type]
            row = cursor.fetchone() if cursor.description else None
            return row and row[0]

    def answers(self) -> bool:
        try:
            return self.sql("SELECT true") is True
        except psycopg.OperationalError:
            return False

    def has_taken_over(self) -> bool:
        return self.answers() and self.sql("SELECT pg_is_in_recovery()") is False

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGQUIT)
        eventually(lambda: not processes.exists(self.pid), "the copy has ended")


@dataclass
class Original:
    """The server that is copied. It keeps every segment of its WAL in `archive`."""

    place: Path
    server: embedded.Server
    rooms: Quarters
    archive: Path

    def url(self, port: int, database: str = "postgres") -> str:
        return self.server.url(database).replace(f":{self.server.port}/", f":{port}/")

    def sql(self, statement: str) -> object:
        with psycopg.connect(self.server.url("postgres"), autocommit=True) as conn:
            cursor = conn.execute(statement)  # type: ignore[arg-type]
            row = cursor.fetchone() if cursor.description else None
            return row and row[0]

    def copied(self, *more: str) -> Path:
        """Its disk as it is now; `more`: of pg_basebackup."""
        data = Path(tempfile.mkdtemp(prefix="copy-", dir=self.rooms.base))
        self._hand_over(data)
        program = self.rooms.binaries.program("pg_basebackup")
        words = ["-D", str(data), "-X", "stream", "-c", "fast", "-d", self.server.url("postgres"), *more]
        code, output = processes.run(program, words, self.rooms.run_as)
        assert code == 0, output
        return data

    @contextmanager
    def started(self, data: Path, **settings: str) -> Iterator[Copy]:
        """A server on this copy, which may be in recovery yet."""
        copy = Copy(0, 0, data, self)
        self.start(copy, **settings)
        try:
            yield copy
        finally:
            copy.stop()

    def start(self, copy: Copy, **settings: str) -> None:
        """Start it, again if it was stopped."""
        copy.port = processes.free_port(self.server.port + 1)
        every = SETTINGS | {
            "port": str(copy.port),
            "listen_addresses": processes.LOOPBACK,
            "unix_socket_directories": "",
            "archive_mode": "off",
            **settings,
        }
        words = [word for name, value in every.items() for word in ("-c", f"{name}={value}")]
        program = self.rooms.binaries.program("postgres")
        copy.pid = processes.run_detached(program, ["-D", str(copy.data), *words], self.rooms.run_as, self.place / "copy.log")
        eventually(copy.answers, "the copy answers", 60)

    def recover_to(self, data: Path, point: str) -> dict[str, str]:
        """Make of this copy a recovery to a named point, and say with which settings it is started."""
        self._hand_over_file(data / "recovery.signal")
        return {
            "restore_command": f'cp "{self.archive}/%f" "%p"',
            "recovery_target_name": point,
            "recovery_target_action": "promote",
        }

    @contextmanager
    def database(self, name: str) -> Iterator[Proxy]:
        """A database by this name, and an address that leads to this server until it is led elsewhere."""
        self.sql(f"CREATE DATABASE {name}")
        proxy = Proxy(self.server.url(name))
        try:
            yield proxy
        finally:
            proxy.close()
            self.sql(f"DROP DATABASE {name} WITH (FORCE)")

    def _hand_over_file(self, path: Path) -> None:
        path.touch(0o600)
        self._hand_over(path)

    def _hand_over(self, path: Path) -> None:
        if self.rooms.run_as.uid is not None and self.rooms.run_as.gid is not None:
            os.chown(path, self.rooms.run_as.uid, self.rooms.run_as.gid)


def by_name(proxy: Proxy) -> str:
    """The URL by a name that another machine would resolve."""
    return f"{proxy.url.replace('127.0.0.1', NAME)}?hostaddr=127.0.0.1"


@pytest.fixture(scope="module")
def original() -> Iterator[Original]:
    place = Path(tempfile.mkdtemp(prefix="embed-pipeline-original-"))
    archive = place / "archive"
    archive.mkdir()
    archive.chmod(0o777)
    settings = SETTINGS | {"archive_mode": "on", "archive_command": f'cp "%p" "{archive}/%f"'}
    server = embedded.ensure_running(place, settings=settings)
    try:
        yield Original(place, server, quarters(place, place / "postgres", find_binaries()), archive)
    finally:
        embedded.stop(place)
        shutil.rmtree(place)
