"""What every store asks of the documents and the catalog in the same way."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg
from psycopg import sql

from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import unwieldy
from embed_pipeline.documents.ranges import KeyRange
from embed_pipeline.documents.slices import SlicedQuery
from embed_pipeline.documents.source import LONGEST_ID, Source, hash_of
from embed_pipeline.documents.texts import DocumentText
from embed_pipeline.postgres.queries import Queries

queries = Queries(__file__, "ledger.sql")


class Missing:
    """The documents that a version has nothing for, slice by slice."""

    def __init__(self, source: Source, version: Version, without_stored: sql.Composable) -> None:
        """`without_stored`: a further condition on `d`, or nothing."""
        self._names = {"index": version.index, "version": version.name}
        parts = source.parts()
        wanted = {name: parts[name] for name in ("documents", "doc_id", "text", "source_hash", "key_columns")}
        self._query = SlicedQuery(
            source, lambda in_range: queries("missing", in_range=in_range, without_stored=without_stored, **wanted)
        )

    def documents(self, conn: psycopg.Connection, part: KeyRange) -> list[DocumentText]:
        """Those of a slice that have no dead letter, in key order. Ids that are too long are set aside, before anything is paid for them."""
        rows = self._query.rows(conn, part, self._names, binary=True)
        long = [doc_id for doc_id, _ in rows if len(doc_id) > LONGEST_ID // 4 and len(doc_id.encode()) > LONGEST_ID]
        if long:
            unwieldy.set_aside(conn, self._names["index"], long)
            rows = [row for row in rows if row[0] not in set(long)]
        return hashed(rows)


def hashed(rows: Iterable[tuple[str, str]]) -> list[DocumentText]:
    """(id, text) with the hash of the text."""
    return [DocumentText(doc_id, text, hash_of(text)) for doc_id, text in rows]
