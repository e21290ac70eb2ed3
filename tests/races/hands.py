"""What the race tests do by hand: one distributor's round, another worker's claim, and looks at what is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from embed_pipeline.documents import queue
from embed_pipeline.documents.queue import Claim
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import dual_write
from embed_pipeline.migrate.dual_write import VersionSync, Work
from embed_pipeline.postgres.session import Line

WAITS_FOR_A_LOCK = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
OPEN_TRANSACTIONS = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'
"""


def distribute(index: OpenIndex) -> int:
    """Hand over what is in the inbox; returns how many ids."""
    with index.connection() as conn:
        return dual_write.distributor(index).distribute(conn)


def queued(index: OpenIndex, version: str = "v1") -> list[str]:
    """The documents that a version has to look at, once the inbox is empty, in the order of their last changes."""
    distribute(index)
    with index.connection() as conn:
        rows = conn.execute("SELECT doc_id FROM embed_pipeline.queue WHERE version = %s ORDER BY seq", (version,))
        return [doc_id for (doc_id,) in rows]


def removed(index: OpenIndex, version: str = "v1") -> set[str]:
    """The documents that are pending as removed."""
    with index.connection() as conn:
        rows = conn.execute("SELECT doc_id FROM embed_pipeline.queue WHERE version = %s AND removed", (version,))
        return {doc_id for (doc_id,) in rows}


def claim(index: OpenIndex, version: str = "v1", limit: int = 10) -> Claim:
    """Claim like a worker, and do nothing with it."""
    with index.connection() as conn:
        return queue.claim(conn, index.name, version, limit=limit)


def take_claims_over(conn: psycopg.Connection) -> None:
    """As if every worker had stopped counting: what it holds is free, and it does not know."""
    conn.execute("DELETE FROM embed_pipeline.claims")
    conn.execute("UPDATE embed_pipeline.pending SET claim = NULL")


def by_another(conn: psycopg.Connection, index: OpenIndex) -> None:
    """Another worker takes over what a stopped one had claimed, and works everything off."""
    take_claims_over(conn)
    for result in dual_write.sync(index):
        assert (result.error, result.pending) == ("", 0)


def end() -> None:
    """The worker dies here."""
    raise KeyboardInterrupt


@contextmanager
def working(index: OpenIndex, version: str = "v1") -> Iterator[Work]:
    """One version's worker, batch by batch."""
    with Line(index) as line:
        yield Work(line, index, line.repeat(lambda conn: index.version(conn, version)), VersionSync(version))
