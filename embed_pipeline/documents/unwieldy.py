"""Ids that are too long for our indexes: set aside and named, so that the other documents go on."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql

from embed_pipeline.documents.slices import read_by_id
from embed_pipeline.documents.source import LONGEST_ID, Source
from embed_pipeline.postgres.queries import Queries

queries = Queries(__file__, "unwieldy.sql")

TOO_LONG = f"the id is longer than the {LONGEST_ID:,} bytes that an index can hold; it can be neither embedded nor found"


def set_aside(conn: psycopg.Connection, index: str, doc_ids: Sequence[str], reason: str = TOO_LONG) -> None:
    """Name these ids. Doing it twice is allowed."""
    conn.execute(queries("set_aside"), {"index": index, "doc_ids": list(doc_ids), "reason": reason})


def forget_gone(conn: psycopg.Connection, source: Source, index: str) -> None:
    """Take away those that are no document any more."""
    doc_ids = [doc_id for (doc_id,) in conn.execute(queries("listed"), {"index": index})]
    if not doc_ids:
        return

    def compose(matches: sql.Composable) -> sql.Composed:
        return queries("gone", documents=source.identifier, key_is_wanted=matches)

    gone = [doc_id for (doc_id,) in read_by_id(conn, source, compose, {"doc_ids": doc_ids})]
    conn.execute(queries("forget"), {"index": index, "doc_ids": gone})
