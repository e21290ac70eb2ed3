"""Documents near a query went away, and VACUUM has not come: the graph leads to their dead entries first."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from psycopg import sql

from embed_pipeline import Searcher
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import dual_write
from tests.harness.articles import fill

NEAR = "cheap pills offer"


@pytest.mark.parametrize("chunked", [False, True])
def test_dead_entries_near_the_query(app: psycopg.Connection, open_docs: Callable[..., OpenIndex], chunked: bool) -> None:
    """400 documents nearer than all others are deleted, or edited to be far: ten hits of ten, with and without a filter, in Python and SQL."""
    app.execute("UPDATE articles SET title = NULL")
    app.execute("INSERT INTO articles (id, body) SELECT n, 'common word ' || n FROM generate_series(61, 1500) AS n")
    app.execute("INSERT INTO articles (id, body) SELECT n, 'cheap pills offer' FROM generate_series(2001, 2400) AS n")
    version = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "m", "dimensions": 16, "hnsw": {"ef_search": 10}}
    if chunked:
        version["chunker"] = {"size": 30, "overlap": 0}
    index = open_docs(versions={"v1": version}, partitions=1)
    fill(index, "v1")
    database = sql.Identifier(app.info.dbname)
    # Nothing is cleaned up, and who may not sort has to take the graph.
    app.execute("ALTER TABLE embed_pipeline.docs__v1 SET (autovacuum_enabled = off)")
    app.execute(sql.SQL("ALTER DATABASE {} SET enable_sort = off").format(database))
    app.execute("DELETE FROM articles WHERE id > 2200")
    app.execute("UPDATE articles SET body = 'common word ' || id WHERE id > 2000")
    dual_write.sync(index)
    with Searcher("docs", index.url) as searcher:
        for options in ({}, {"where": {"views": 0}}, {"with_documents": True}):
            hits = searcher.search(NEAR, 10, version="v1", **options).hits  # type: ignore[arg-type]
            assert len({hit.doc_id for hit in hits}) == 10, options
        query = searcher.embed(NEAR, "v1")
    with psycopg.connect(index.url) as conn:
        rows = conn.execute(
            "SELECT doc_id FROM embed_pipeline.search('docs', 'v1', %s, %s::vector, 10)",
            (query.fingerprint, str([float(each) for each in query.values])),
        ).fetchall()
    assert len(set(rows)) == 10
