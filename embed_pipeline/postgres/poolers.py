"""Recognises a connection pooler, and refuses one that pools by the transaction. There our settings,
locks and notifications would leak into the application's sessions, and the application's into ours.

Recognised without a round trip: the process that the pooler names when a session begins is not the one that serves it.
"""

from __future__ import annotations

import re
import select
import time
import weakref
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import pq

from embed_pipeline.errors import DatabaseUnavailable
from embed_pipeline.postgres.queries import Queries

Connection = psycopg.Connection[Any]

queries = Queries(__file__, "connection.sql")

# Before each try. An application may take the session that would have told, and a pooler of many threads may answer before it gives the
# session back; both, each time, for so long, is another matter.
PAUSES = (0, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
# For a second session. Every verb needs two.
SECOND_SECONDS = 10.0
MARK = "embed_pipeline.session=own"
"""A setting that a session has when what is asked for at its beginning is heard."""

_OPTION = re.compile(r"-c\s*([\w.]+)=((?:\\.|\S)*)")
_pooled: weakref.WeakSet[Connection] = weakref.WeakSet()
_by_session: set[str] = set()
"""Where poolers were that hand out whole sessions. Asked once in a process."""


def refuses_options(problem: psycopg.Error) -> bool:
    """Whether the session was refused for what it asked for: PostgreSQL itself takes that."""
    return "unsupported startup parameter" in str(problem)


def is_between(conn: Connection, pid: int, mark: str | None) -> bool:
    """Whether the session goes through a pooler: `pid` is the server's own, `mark` what the session has of MARK."""
    return pid != conn.info.backend_pid or mark != "own"


def is_pooled(conn: Connection) -> bool:
    """Whether a pooler was found when the connection was made. RESET ALL takes its settings away."""
    return conn in _pooled


def settle(conn: Connection, options: str, another: Callable[[], Connection], where: str) -> None:
    """Refuse a pooler that hands out sessions by the transaction; give the session of another one the settings that it did not hear.

    DatabaseUnavailable says which URL is needed. Nothing is left in a session that is not ours: what is looked at is only read.
    """
    reason = "" if where in _by_session else _shares(conn, another)
    if reason:
        raise DatabaseUnavailable(
            f"The pooler at {where} {reason}; settings and locks of this package would reach into the application's sessions.",
            next_step="Set database_url to the server itself, or to a pooler in session mode (PgBouncer: pool_mode = session).",
        )
    _by_session.add(where)
    for name, value in _OPTION.findall(options):
        conn.execute(queries("set_session"), {"name": name, "value": re.sub(r"\\(.)", r"\1", value)})
    _pooled.add(conn)


def _shares(conn: Connection, another: Callable[[], Connection]) -> str:
    """How the pooler shares the session with others; empty if, as far as can be seen, it does not."""
    other = another()
    try:
        for pause in PAUSES:
            first = _answer(conn, b"SELECT pg_backend_pid()")
            time.sleep(pause)
            second = _answer(other, b"BEGIN; SELECT pg_backend_pid()")
            if second is None:
                return f"has given no second session within {SECOND_SECONDS:.0f} s"
            if second == b"":
                return "hands out another session for each statement"
            # The other's transaction holds its server. Where that was ours, or ours is another one by now, there is none of our own.
            shares = second == first or _answer(conn, b"SELECT pg_backend_pid()") != first
            # Ended before anything is closed: a pooler throws away the server of a client that goes in mid-transaction.
            _answer(other, b"ROLLBACK")
            if shares:
                return "hands out another session for each transaction"
        return ""
    finally:
        other.close()


def _answer(conn: Connection, statements: bytes) -> bytes | None:
    """The first value of the last statement, empty where it was refused; None: not in time. A pooler keeps who waits for a session waiting."""
    pgconn, deadline = conn.pgconn, time.monotonic() + SECOND_SECONDS
    pgconn.send_query(statements)
    value: bytes | None = b""
    while True:
        pgconn.consume_input()
        if pgconn.is_busy():
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pgconn.socket], [], [], left)[0]:
                return None
            continue
        result = pgconn.get_result()
        if result is None:
            return value
        value = result.get_value(0, 0) if result.status == pq.ExecStatus.TUPLES_OK else b""
