"""The ledger's side of a Qdrant version: documents as they are now, and who is writing points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from embed_pipeline.catalog import dead_letters
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import ranges
from embed_pipeline.documents import source as documents_source
from embed_pipeline.documents.ranges import KeyRange
from embed_pipeline.documents.source import Source
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.stores import protocol
from embed_pipeline.stores.protocol import MissingDocument

queries = Queries(__file__, "qdrant.sql")
ledger = Queries(protocol.__file__, "ledger.sql")


@dataclass(frozen=True)
class Now:
    """A document at one moment: the hash of its text, and what its point's payload has to be."""

    source_hash: bytes
    payload: dict[str, Any]
    payload_hash: str


def look(conn: psycopg.Connection, source: Source, doc_ids: Sequence[str]) -> dict[str, Now]:
    """The documents of these ids that are there."""
    parts = source.parts()
    query = queries("now", **{name: parts[name] for name in ("source_hash", "payload", "documents", "key_is_wanted")})
    with conn.transaction():
        conn.execute(ledger("by_key"))
        rows = conn.execute(query, {"doc_ids": list(doc_ids)}).fetchall()
    return {doc_id: Now(bytes(digest), payload, payload_hash) for doc_id, digest, payload, payload_hash in rows}


def page(
    conn: psycopg.Connection,
    source: Source,
    version: Version,
    within: KeyRange,
    after: list[str] | None,
    limit: int,
    *,
    unqueued: bool,
) -> list[str]:
    """Ids of the next documents of a key range without a dead letter, in key order, whatever Qdrant has of them."""
    parts = source.parts()
    letters = dead_letters.count(conn, version.index, version.name) > 0
    query = queries(
        "page",
        in_range=ranges.within(source, within.lower is not None, within.upper is not None, after is not None),
        without_dead_letters=ledger("without_dead_letters", doc_id=parts["doc_id"], source_hash=parts["source_hash"])
        if letters
        else sql.SQL(""),
        without_queued=ledger("without_queued", doc_id=parts["doc_id"]) if unqueued else sql.SQL(""),
        **{name: parts[name] for name in ("documents", "doc_id", "key_columns")},
    )
    values = {
        "index": version.index,
        "version": version.name,
        "lower": within.lower,
        "upper": within.upper,
        "after": after,
        "limit": limit,
    }
    return [doc_id for (doc_id,) in conn.execute(query, values)]


def texts(conn: psycopg.Connection, source: Source, doc_ids: Sequence[str]) -> list[MissingDocument]:
    """Those of the documents that are still there, in the order given."""
    with conn.transaction():
        conn.execute(ledger("by_key"))
        found = documents_source.read_current(conn, source, list(doc_ids))
    return [MissingDocument(doc_id, *found[doc_id]) for doc_id in doc_ids if doc_id in found]


def unchanged(conn: psycopg.Connection, source: Source, hashes: dict[str, bytes]) -> set[str]:
    """Those documents that have this hash and cannot get another one before the transaction ends; what the application holds is left."""
    parts = source.parts()
    query = queries("lock_unchanged", **{name: parts[name] for name in ("source_hash", "documents", "key_is_wanted")})
    ids = sorted(hashes)
    rows = conn.execute(query, {"doc_ids": ids, "hashes": [hashes[doc_id] for doc_id in ids]})
    return {doc_id for (doc_id,) in rows}


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
