"""Coverage checks: comparisons of all documents with a version's vectors, which a cutover requires. Append-only."""

from __future__ import annotations

import psycopg

from embed_pipeline.catalog.versions import queries


def record(
    conn: psycopg.Connection,
    index: str,
    version: str,
    *,
    documents: int,
    vectors: int,
    pending: int,
    dead_letters: int,
    differences: int,
) -> int:
    """Keep one comparison; returns its id."""
    values = {
        "index": index,
        "version": version,
        "documents": documents,
        "vectors": vectors,
        "pending": pending,
        "dead_letters": dead_letters,
        "differences": differences,
    }
    row = conn.execute(queries("insert_coverage"), values).fetchone()
    assert row is not None
    return int(row[0])
