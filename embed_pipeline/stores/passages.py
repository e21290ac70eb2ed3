"""Search among passages, answered in documents: the nearest passage of each of the k nearest documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from embed_pipeline.postgres.queries import Queries
from embed_pipeline.stores.protocol import Hit

queries = Queries(__file__, "pgvector.sql")

# Passages asked for in the first try, for each document wanted, and by how much more in each further one.
FIRST, MORE = 4, 4

Row = tuple[str, int, float, int | None, int | None]


def nearest_documents(
    conn: psycopg.Connection, parts: dict[str, sql.Composable], values: dict[str, Any], k: int, *, exact: bool
) -> list[Hit]:
    """The `k` nearest documents, fewer only when there are no more; inside the caller's transaction, with the settings of its search.

    The ANN index knows passages: it is asked for more and more of them until they are of k documents. When it has no more to
    give and they are not, every vector is compared, so that k documents are found whenever there are k.
    """
    if not exact:
        conn.execute(queries("scan_without_limit"))
        query = queries("nearest_passages", **parts)
        asked = FIRST * k
        while True:
            rows: Sequence[Row] = conn.execute(query, values | {"rows": asked}).fetchall()
            hits = _of_documents(rows)
            if len(hits) >= k:
                return hits[:k]
            if len(rows) < asked:
                break
            asked *= MORE
    return _of_documents(conn.execute(queries("nearest_documents", **parts), values).fetchall())


def _of_documents(rows: Sequence[Row]) -> list[Hit]:
    """The first, so the nearest, passage of each document, nearest first."""
    best: dict[str, Hit] = {}
    for doc_id, chunk, distance, start, end in rows:
        best.setdefault(doc_id, Hit(doc_id, chunk, distance, start, end))
    return list(best.values())
