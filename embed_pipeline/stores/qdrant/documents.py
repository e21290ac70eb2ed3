"""The ledger's side of a Qdrant version: documents as they are now, and who is writing points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from embed_pipeline.documents.slices import read_by_id
from embed_pipeline.documents.source import Source
from embed_pipeline.postgres.queries import Queries

queries = Queries(__file__, "qdrant.sql")


@dataclass(frozen=True)
class Now:
    """A document at one moment: the hash of its text, and what its point's payload has to be."""

    source_hash: bytes
    payload: dict[str, Any]
    payload_hash: str


def look(conn: psycopg.Connection, source: Source, doc_ids: Sequence[str]) -> dict[str, Now]:
    """The documents of these ids that are there."""
    parts = source.parts()
    wanted = {name: parts[name] for name in ("source_hash", "payload", "documents")}
    rows = read_by_id(conn, source, lambda matches: queries("now", key_is_wanted=matches, **wanted), {"doc_ids": list(doc_ids)})
    return {doc_id: Now(bytes(digest), payload, payload_hash) for doc_id, digest, payload, payload_hash in rows}


def gone(conn: psycopg.Connection, source: Source, doc_ids: Sequence[str]) -> list[str]:
    """Those of these ids that are no document."""

    def compose(matches: sql.Composable) -> sql.Composed:
        return queries("gone", documents=source.identifier, key_is_wanted=matches)

    return [doc_id for (doc_id,) in read_by_id(conn, source, compose, {"doc_ids": list(doc_ids)})]


@contextmanager
def writing(conn: psycopg.Connection, index: str) -> Iterator[None]:
    """Keep tombstones from being swept while points are read, decided about and written."""
    conn.execute(queries("begin_writing"), {"name": _writers(index)})
    try:
        yield
    finally:
        if not conn.closed:
            conn.execute(queries("end_writing"), {"name": _writers(index)})


@contextmanager
def nobody_writing(conn: psycopg.Connection, index: str) -> Iterator[bool]:
    """Whether nobody writes points of this index; if so, nobody begins to before the block ends."""
    row = conn.execute(queries("try_sweep"), {"name": _writers(index)}).fetchone()
    alone = bool(row and row[0])
    try:
        yield alone
    finally:
        if alone and not conn.closed:
            conn.execute(queries("end_sweep"), {"name": _writers(index)})


def _writers(index: str) -> str:
    return f"embed_pipeline.points.{index}"
