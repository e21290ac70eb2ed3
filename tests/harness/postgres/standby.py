"""A primary and a real streaming standby of it, made with pg_basebackup from the embedded binaries and started by our launcher."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from embed_pipeline.postgres import embedded, home, processes
from embed_pipeline.postgres.binaries import find_binaries
from embed_pipeline.postgres.unprivileged import Quarters, quarters

NAME = "standby1"
# The slot of the standby has the same name.
SETTINGS = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "32MB", "wal_level": "replica"}


def eventually(condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    """Return when the condition holds; fail when it does not within the time."""
    for _ in home.until(time.monotonic() + seconds, first=0.01):
        if condition():
            return
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


@dataclass
class Replicated:
    """A primary with one standby, which can be held, stopped and started."""

    primary: embedded.Server
    rooms: Quarters
    data: Path
    log: Path
    port: int = 0
    pid: int = field(default=0, repr=False)

    def sql(self, statement: str, *values: object) -> object:
        """The first value that the primary answers."""
        with psycopg.connect(self.primary.url("postgres"), autocommit=True) as conn:
            return _value(conn.execute(statement, values or None))  # type: ignore[arg-type]

    def on_standby(self, statement: str) -> object:
        url = self.primary.url("postgres").replace(f":{self.primary.port}/", f":{self.port}/")
        with psycopg.connect(url, autocommit=True) as conn:
            return _value(conn.execute(statement))  # type: ignore[arg-type]

    def start(self) -> None:
        """Start the standby and wait until it streams and has replayed everything."""
        if self.pid:
            return
        self.port = processes.free_port(self.primary.port + 1)
        primary_conninfo = f"{self.primary.url('postgres')}?application_name={NAME}"
        settings = {
            **SETTINGS,
            "port": str(self.port),
            "listen_addresses": processes.LOOPBACK,
            "unix_socket_directories": "",
            "primary_conninfo": primary_conninfo,
            "primary_slot_name": NAME,
            "wal_receiver_status_interval": "1s",
            "wal_retrieve_retry_interval": "100ms",
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        program = self.rooms.binaries.program("postgres")
        self.pid = processes.run_detached(program, ["-D", str(self.data), *words], self.rooms.run_as, self.log)
        eventually(self.has_caught_up, "the standby streams")

    def stop(self) -> None:
        """Take the standby down: its row on the primary disappears, its slot stays."""
        if not self.pid:
            return
        os.kill(self.pid, signal.SIGQUIT)
        eventually(lambda: not processes.exists(self.pid), "the standby has ended")
        self.pid = 0
        eventually(lambda: self.sql("SELECT count(*) FROM pg_stat_replication") == 0, "its row is gone")
        eventually(lambda: not self.sql("SELECT active FROM pg_replication_slots"), "its slot is free")

    def hold(self) -> None:
        """Let the standby receive and not replay, and give it something that it does not replay."""
        self.on_standby("SELECT pg_wal_replay_pause()")
        eventually(
            lambda: self.on_standby("SELECT pg_get_wal_replay_pause_state()") == "paused" or self.write(1), "replay is paused"
        )

    def release(self) -> None:
        self.on_standby("SELECT pg_wal_replay_resume()")

    def write(self, kilobytes: int) -> None:
        """Write this much WAL, at least."""
        self.sql("SELECT pg_logical_emit_message(true, 'test', repeat('x', 1024 * %s))", kilobytes)

    def lag(self) -> int:
        """Bytes that the standby has not replayed, as the primary sees it; -1 when it is not there."""
        found = self.sql("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint FROM pg_stat_replication")
        return -1 if found is None else int(str(found))

    def has_caught_up(self) -> bool:
        return self.sql("SELECT state FROM pg_stat_replication") == "streaming" and self.lag() == 0

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a database of its own on the primary."""
        name = f"test_{uuid.uuid4().hex}"
        identifier = sql.Identifier(name)
        with psycopg.connect(self.primary.url("postgres"), autocommit=True) as conn:
            conn.execute(sql.SQL("CREATE DATABASE {}").format(identifier))
            yield self.primary.url(name)
            conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier))


def _value(cursor: psycopg.Cursor[tuple[object, ...]]) -> object:
    row = cursor.fetchone() if cursor.description else None
    return None if row is None else row[0]


@pytest.fixture(scope="session")
def replicated_servers() -> Iterator[Replicated]:
    """One primary and one standby for the whole session; both are stopped at the end."""
    place = Path(tempfile.mkdtemp(prefix="embed-pipeline-standby-"))
    primary = embedded.ensure_running(place, settings=SETTINGS)
    try:
        rooms = quarters(place, place / "postgres", find_binaries())
        data = rooms.base / "standby"
        data.mkdir(mode=0o700)
        if rooms.run_as.uid is not None and rooms.run_as.gid is not None:
            os.chown(data, rooms.run_as.uid, rooms.run_as.gid)
        arguments = ["-D", str(data), "-R", "-X", "stream", "-c", "fast", "-C", "-S", NAME, "-d", primary.url("postgres")]
        code, output = processes.run(rooms.binaries.program("pg_basebackup"), arguments, rooms.run_as)
        assert code == 0, output
        both = Replicated(primary, rooms, data, place / "standby.log")
        both.start()
        yield both
        both.stop()
    finally:
        embedded.stop(place)
        shutil.rmtree(place)


@pytest.fixture
def replicated(replicated_servers: Replicated) -> Iterator[Replicated]:
    """The two servers as a test expects them: the standby runs and has caught up. Left behind likewise."""
    replicated_servers.start()
    yield replicated_servers
    replicated_servers.start()
    replicated_servers.release()
