"""Documents that can have no vector, each with the reason and the hash of the text that was refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg

from embed_pipeline.catalog.versions import queries
from embed_pipeline.documents.texts import Rejection
from embed_pipeline.postgres.storable import storable

# Of an id that is too long for any index people need no more than this to find it.
SHOWN = 80


@dataclass(frozen=True)
class DeadLetter:
    """`source_hash` is empty where it is the id that cannot be held, and not the text."""

    doc_id: str
    reason: str
    source_hash: bytes
    since: datetime

    @property
    def shown_id(self) -> str:
        """The id for people."""
        return self.doc_id if len(self.doc_id) <= SHOWN else f"{self.doc_id[:SHOWN]}..."


def add(conn: psycopg.Connection, index: str, version: str, letters: Mapping[str, Rejection]) -> None:
    """Set documents aside: id -> (source_hash, reason). A letter counts only while the document still has that hash."""
    ids = sorted(letters)
    values = {
        "index": index,
        "version": version,
        "doc_ids": ids,
        "hashes": [letters[doc_id][0] for doc_id in ids],
        "reasons": [storable(conn, letters[doc_id][1]) for doc_id in ids],
    }
    conn.execute(queries("upsert_dead_letter"), values)


def forget(conn: psycopg.Connection, index: str, version: str, doc_ids: Sequence[str] | None) -> None:
    """Take letters away: of these documents, or (None) all of the version."""
    wanted = None if doc_ids is None else list(doc_ids)
    conn.execute(queries("forget_dead_letters"), {"index": index, "version": version, "doc_ids": wanted})


def first(conn: psycopg.Connection, index: str, version: str, limit: int = 3) -> list[DeadLetter]:
    values = {"index": index, "version": version, "limit": limit}
    return [DeadLetter(*row) for row in conn.execute(queries("dead_letters"), values)]


def requeue(conn: psycopg.Connection, index: str, version: str) -> int:
    """Turn the version's letters into queued changes, in one statement; returns how many."""
    return conn.execute(queries("requeue_dead_letters"), {"index": index, "version": version}).rowcount


def count(conn: psycopg.Connection, index: str, version: str) -> int:
    row = conn.execute(queries("count_dead_letters"), {"index": index, "version": version}).fetchone()
    return int(row[0]) if row else 0
