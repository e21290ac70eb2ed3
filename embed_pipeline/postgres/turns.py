"""Turns that processes take, by name: advisory locks. Anybody who may connect can take one of ours, so every wait for one has an end, and
whoever holds it is named then.

Tried and never waited for in the server: a waiting session holds a snapshot, and an index build waits for snapshots.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import psycopg

from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.postgres import holders
from embed_pipeline.postgres.queries import Queries

queries = Queries(__file__, "turns.sql")

Form = Literal["of_session", "of_session_shared", "of_transaction"]

PAUSE = 0.05


def take(
    conn: psycopg.Connection, name: str, form: Form, *, seconds: float, refused: Callable[[str], EmbedPipelineError]
) -> None:
    """Take the turn `name`, trying for so long. `refused` makes the error of who holds it: `: pid 7 (...)`, or empty."""
    deadline = time.monotonic() + seconds
    while not try_to_take(conn, name, form):
        if time.monotonic() >= deadline:
            raise refused(held_by(conn, name))
        time.sleep(PAUSE)


def try_to_take(conn: psycopg.Connection, name: str, form: Form) -> bool:
    """Whether the turn is this session's now."""
    row = conn.execute(queries(form), {"name": name}).fetchone()
    return row is not None and bool(row[0])


def wait_in_transaction(conn: psycopg.Connection, name: str) -> None:
    """Take the turn for the rest of the transaction, whose lock_timeout ends the wait as it ends that for a table."""
    conn.execute(queries("wait_in_transaction"), {"name": name})


def end(conn: psycopg.Connection, name: str, form: Literal["of_session", "of_session_shared"]) -> None:
    """Give the turn back. A connection that is lost has given it back already."""
    if not conn.closed:
        conn.execute(queries(f"end_{form}"), {"name": name})


def held_by(conn: psycopg.Connection, name: str) -> str:
    """The holder of the turn, after a colon; empty if it was released meanwhile. For a session that is not ours, also how to end it."""
    held = holders.of_advisory(conn, name)
    said = "; ".join(each.who if (each.application or "").startswith("embed-pipeline") else str(each) for each in held)
    return f": {said}" if said else ""
