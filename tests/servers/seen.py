"""What these tests look at: the state of the server, and whether the vectors agree with their documents."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg

from embed_pipeline.migrate import dual_write
from embed_pipeline.migrate.open_index import OpenIndex
from tests.migrate.test_faults import oracle

DEADLINE_SECONDS = 30.0


def wait_until(look: Callable[[], bool], what: str) -> None:
    """Return when `look` is true; fail after the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not look():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_SECONDS:.0f} s"
        time.sleep(0.01)


def any_row(conn: psycopg.Connection, query: str) -> bool:
    return conn.execute(query).fetchone() is not None  # type: ignore[arg-type]


def waits(conn: psycopg.Connection, begins: str, seconds: float) -> bool:
    """Whether a statement that begins so has been running for longer than `seconds`."""
    query = "SELECT FROM pg_stat_activity WHERE state = 'active' AND query ILIKE %s AND query_start < clock_timestamp() - %s * interval '1s'"
    return conn.execute(query, (f"{begins}%", seconds)).fetchone() is not None


def cut(url: str, condition: str = "true") -> int:
    """End the sessions of the package (or those of them for which `condition` holds); returns how many."""
    with psycopg.connect(url, autocommit=True) as admin:
        ended = admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "  # type: ignore[arg-type]
            f"WHERE application_name = 'embed-pipeline' AND datname = current_database() AND ({condition})"
        ).fetchall()
    return len(ended)


def require_all_true(url: str, index: OpenIndex, *versions: str) -> None:
    """Drain the queue, then let the oracle compare every document with every vector."""
    with psycopg.connect(url, autocommit=True) as app:
        # What a broken session had leased comes back when the lease runs out; nobody waits for that here.
        app.execute("UPDATE embed_pipeline.change_queue SET leased_until = NULL")
        for result in dual_write.sync(index):
            assert (result.error, result.pending) == ("", 0)
        for version in versions:
            assert oracle(app, version) == []
