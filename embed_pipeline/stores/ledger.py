"""What every store asks of the documents and the catalog in the same way."""

from __future__ import annotations

import psycopg
from psycopg import sql

from embed_pipeline.catalog import dead_letters
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents.ranges import KeyRange, within
from embed_pipeline.documents.slices import read
from embed_pipeline.documents.source import Source, hash_of
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.stores.protocol import MissingDocument

queries = Queries(__file__, "ledger.sql")


def missing(
    conn: psycopg.Connection, source: Source, version: Version, part: KeyRange, without_stored: sql.Composable
) -> list[MissingDocument]:
    """The documents of a slice that have no dead letter, in key order. `without_stored`: a further condition, or nothing."""
    parts = source.parts()
    # Usually there are none, and then a look at them for every document would be a tenth of the work.
    letters = dead_letters.count(conn, version.index, version.name) > 0
    query = queries(
        "missing",
        in_range=within(source, part.lower is not None, part.upper is not None, after=False),
        without_dead_letters=queries("without_dead_letters", doc_id=parts["doc_id"], source_hash=parts["source_hash"])
        if letters
        else sql.SQL(""),
        without_stored=without_stored,
        **{name: parts[name] for name in ("documents", "doc_id", "text", "key_columns")},
    )
    values = {"index": version.index, "version": version.name, "lower": part.lower, "upper": part.upper}
    (row,) = read(conn, query, values, binary=True)
    return [MissingDocument(doc_id, text, hash_of(text)) for doc_id, text in zip(*row, strict=True)]
