"""What waits is looked up by its document, however much there is and whatever the planner knows of it."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from psycopg import sql

from embed_pipeline.documents import queue
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.stores.pgvector import nearest
from tests.races.hands import distribute

Open = Callable[..., OpenIndex]

WAITING, CLAIMED = 20_000, 20
# Rows of `pending` and entries of its indexes that one statement may look at for each document that it is about.
LOOKS = 8
READ = """
SELECT coalesce(pg_stat_get_xact_tuples_returned(r), 0)
FROM (SELECT 'embed_pipeline.pending'::regclass UNION ALL SELECT indexrelid FROM pg_index WHERE indrelid = 'embed_pipeline.pending'::regclass) AS t(r)
"""
SUSPECTS = sql.SQL("SELECT {} FROM unnest(%(doc_ids)s::text[]) AS v(doc_id)").format(
    nearest.queries("suspect_pending", index=sql.Literal("docs"), version=sql.Literal("v1"))
)


def read_by(conn: psycopg.Connection, work: Callable[[], object]) -> int:
    """How many rows and index entries `work` looks at, within one transaction that is taken back."""

    def so_far() -> int:
        return sum(int(row[0]) for row in conn.execute(READ))

    with conn.transaction(force_rollback=True):
        before = so_far()
        work()
        return so_far() - before


@pytest.fixture
def crowded(app: psycopg.Connection, open_docs: Open) -> OpenIndex:
    """Much waits, and the statistics of the table are those of an empty one."""
    index = open_docs("v1")
    app.execute("ALTER TABLE embed_pipeline.pending SET (autovacuum_enabled = false)")
    app.execute("ANALYZE embed_pipeline.pending")
    app.execute("INSERT INTO articles (id, title) SELECT n, 'title' FROM generate_series(1001, 1000 + %s) AS n", (WAITING,))
    while distribute(index):
        pass
    app.execute("UPDATE embed_pipeline.pending SET removed = true")
    return index


def test_no_statement_about_some_documents_walks_through_all_that_wait(crowded: OpenIndex) -> None:
    with crowded.connection() as conn:
        made = queue.claim(conn, "docs", "v1", limit=CLAIMED)
        ids = list(made.seqs)
        statements: dict[str, Callable[[], object]] = {
            "claim": lambda: queue.claim(conn, "docs", "v1", limit=CLAIMED),
            "lock_claimed": lambda: queue.lock_claimed(conn, made, ids),
            "acknowledge": lambda: queue.acknowledge(conn, made, ids),
            "release": lambda: queue.release(conn, made, ids),
            "enqueue": lambda: queue.enqueue(conn, "docs", "v1", ids),
            "suspect_pending": lambda: conn.execute(SUSPECTS, {"doc_ids": ids}),
        }
        read = {name: read_by(conn, statement) for name, statement in statements.items()}
    assert {name: looks for name, looks in read.items() if looks > LOOKS * CLAIMED} == {}
    assert read["claim"] >= CLAIMED, "nothing was counted"
