"""The ledger's side of points elsewhere: documents as they are now, and who is writing points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from embed_pipeline.documents.slices import read_by_id
from embed_pipeline.documents.source import Source
from embed_pipeline.errors import Stopped
from embed_pipeline.postgres import turns
from embed_pipeline.postgres.queries import Queries

queries = Queries(__file__, "documents.sql")

# A sweep of tombstones is a few requests to the store.
TURN_SECONDS = 60.0


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
    """Keep tombstones from being swept (a write in flight may be of a deleted document) while points are read, decided about and written."""
    turns.take(
        conn,
        _writers(index),
        "of_session_shared",
        seconds=TURN_SECONDS,
        refused=lambda by: Stopped(
            f"Somebody else has kept every writer of {index}'s points out for {TURN_SECONDS:.0f} s{by}.",
            next_step="Run the same command again when that has ended.",
            reason="another_run",
        ),
    )
    try:
        yield
    finally:
        turns.end(conn, _writers(index), "of_session_shared")


@contextmanager
def nobody_writing(conn: psycopg.Connection, index: str) -> Iterator[bool]:
    """Whether nobody writes points of this index; if so, nobody begins to before the block ends."""
    alone = turns.try_to_take(conn, _writers(index), "of_session")
    try:
        yield alone
    finally:
        if alone:
            turns.end(conn, _writers(index), "of_session")


def _writers(index: str) -> str:
    return f"embed_pipeline.points.{index}"
