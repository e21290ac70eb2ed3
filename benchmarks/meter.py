"""What something cost: time on the wall, CPU of client and server, memory of a process, WAL. Linux only: it reads /proc."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """Seconds on the wall, and seconds of CPU of the clients' processes and of the whole server."""

    seconds: float
    client: float
    server: float


def client_cpu() -> float:
    """CPU seconds of this process so far, all threads."""
    return time.process_time()


def server_cpu(postmaster: int) -> float:
    """CPU seconds of the server so far: the postmaster, its processes, and those that have ended. In steps of 10 ms a process."""
    own, ended = _ticks(postmaster)
    total = own + ended
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _parent(entry) == postmaster:
            total += _ticks(int(entry.name))[0]
    return total / TICKS


def _stat(process: Path) -> list[str]:
    # The name in brackets may hold anything; what is counted comes after it.
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _parent(process: Path) -> int:
    fields = _stat(process)
    return int(fields[1]) if fields else 0


def _ticks(pid: int) -> tuple[int, int]:
    """Ticks of the process itself, and of its children that have ended."""
    fields = _stat(Path(f"/proc/{pid}"))
    if not fields:
        return 0, 0
    user, system, children_user, children_system = (int(each) for each in fields[11:15])
    return user + system, children_user + children_system


def peak_mb() -> float:
    """The most memory that this very process has held. `ru_maxrss` would begin with what its parent held."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


class Watch:
    """Measures a block of this process: `with Watch(postmaster) as watch: ...`, then `watch.cost`."""

    def __init__(self, postmaster: int) -> None:
        self._postmaster = postmaster
        self.cost = Cost(0.0, 0.0, 0.0)

    def __enter__(self) -> Watch:
        self._server, self._client, self._started = server_cpu(self._postmaster), client_cpu(), time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        seconds, client = time.monotonic() - self._started, client_cpu() - self._client
        self.cost = Cost(seconds, client, server_cpu(self._postmaster) - self._server)


def lsn(conn: psycopg.Connection) -> str:
    """Where the WAL ends now."""
    row = conn.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
    assert row is not None
    return str(row[0])


def wal_bytes(conn: psycopg.Connection, start: str, end: str) -> int:
    row = conn.execute("SELECT (%s::pg_lsn - %s::pg_lsn)::bigint", (end, start)).fetchone()
    assert row is not None
    return int(row[0])


def pages_changed(conn: psycopg.Connection, table: str, start: str) -> int:
    """Pages of a table that the WAL since `start` changes, a row lock or a hint included; needs pg_walinspect.

    Counts right when a checkpoint came just before `start` and hints are logged: data checksums, or wal_log_hints.
    """
    # pg_walinspect refuses a stretch without a record, so one is made.
    end = conn.execute("SELECT pg_logical_emit_message(false, 'bench', '', true)::text").fetchone()
    row = conn.execute(
        "SELECT count(DISTINCT relblocknumber) FROM pg_get_wal_block_info(%s, %s, false) "
        "WHERE relfilenode = pg_relation_filenode(%s::regclass) AND relforknumber = 0",
        (start, end[0] if end else start, table),
    ).fetchone()
    assert row is not None
    return int(row[0])
