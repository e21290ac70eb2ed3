"""Search among passages: k documents, each by its nearest passage, whatever crowd of passages one of them has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from embed_pipeline import Searcher
from embed_pipeline.catalog import evidence
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.search import Answer
from tests.harness.articles import fill, serve, settle

Open = Callable[..., OpenIndex]
QUERY = "a passage about rivers"
VERSION = {
    "provider": "tests.harness.fakes:WordsEmbedder",
    "model_name": "words",
    "dimensions": 256,
    "chunker": {"size": 40, "overlap": 5},
    "hnsw": {"ef_search": 10},
}


@pytest.fixture
def crowded(app: psycopg.Connection, open_docs: Open) -> OpenIndex:
    """Document 1 has two hundred passages nearer to the query than any of document 2, 3 or 4; the rest are about other things."""
    app.execute("UPDATE articles SET body = %s WHERE id = 1", ("\n\n".join(["a passage about rivers and more"] * 200),))
    app.execute(
        "UPDATE articles SET body = %s WHERE id IN (2, 3, 4)",
        ("something else in the beginning here\n\nrivers are the matter of a passage",),
    )
    index = open_docs(versions={"v1": VERSION}, partitions=1)
    serve(index, "v1")
    # Small tables are read whole by preference; here the ANN index is what is looked at.
    app.execute("ALTER TABLE embed_pipeline.docs__v1 SET (autovacuum_enabled = off)")
    return index


def ask(index: OpenIndex, k: int, **options: Any) -> Answer:
    with Searcher("docs", index.url) as searcher:
        return searcher.search(QUERY, k, **options)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("where", [None, {"views": 0}])
def test_k_documents_and_not_k_passages_of_one(crowded: OpenIndex, exact: bool, where: dict[str, int] | None) -> None:
    hits = ask(crowded, 4, exact=exact, where=where).hits
    assert hits[0].doc_id == "1"
    assert {hit.doc_id for hit in hits} == {"1", "2", "3", "4"}
    assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)


@pytest.mark.parametrize("exact", [True, False])
def test_fewer_only_when_there_are_no_more(app: psycopg.Connection, crowded: OpenIndex, exact: bool) -> None:
    app.execute("UPDATE articles SET views = 7 WHERE id IN (1, 3, 50)")
    assert {hit.doc_id for hit in ask(crowded, 10, exact=exact, where={"views": 7}).hits} == {"1", "3", "50"}
    assert len(ask(crowded, 60, exact=exact).hits) == 60
    assert len(ask(crowded, 100, exact=exact).hits) == 60


def test_a_hit_names_its_passage(app: psycopg.Connection, crowded: OpenIndex) -> None:
    hit = next(hit for hit in ask(crowded, 4).hits if hit.doc_id == "2")
    text = app.execute("SELECT concat_ws(E'\\n\\n', title, body) FROM articles WHERE id = 2").fetchone()
    assert text is not None
    assert text[0][hit.start : hit.end] == "rivers are the matter of a passage"
    # The same characters in SQL, where counting begins at one.
    found = app.execute(
        "SELECT substr(%s, passage_start + 1, passage_end - passage_start) FROM embed_pipeline.provenance "
        "WHERE doc_id = '2' AND chunk = %s",
        (text[0], hit.chunk),
    ).fetchone()
    assert found == ("rivers are the matter of a passage",)


def test_a_whole_document_has_no_passage(app: psycopg.Connection, open_docs: Open) -> None:
    index = open_docs("v1")
    serve(index, "v1")
    assert {(hit.start, hit.end) for hit in ask(index, 3).hits} == {(None, None)}
    assert app.execute("SELECT count(passage_start) FROM embed_pipeline.provenance").fetchone() == (0,)


@pytest.mark.parametrize("exact", [True, False])
def test_sql_search_gives_the_same_documents_and_passages(app: psycopg.Connection, crowded: OpenIndex, exact: bool) -> None:
    with Searcher("docs", crowded.url) as searcher:
        query = searcher.embed(QUERY)
    for k in (1, 4, 60, 100):
        expected = ask(crowded, k, exact=True).hits
        rows = app.execute(
            "SELECT * FROM embed_pipeline.search('docs', 'v1', %s, %s::vector, %s, %s)",
            (query.fingerprint, str([float(each) for each in query.values]), k, exact),
        ).fetchall()
        assert {row[0] for row in rows} == {hit.doc_id for hit in expected}
        assert [row[2] for row in rows] == pytest.approx([hit.distance for hit in expected], abs=1e-6)
        assert all(row[4] > row[3] >= 0 for row in rows)


def test_sql_search_leaves_the_settings_of_the_transaction(app: psycopg.Connection, crowded: OpenIndex) -> None:
    with Searcher("docs", crowded.url) as searcher:
        query = searcher.embed(QUERY)
    values = str([float(each) for each in query.values])
    with app.transaction():
        app.execute("SELECT '[1]'::vector")
        app.execute("SET LOCAL hnsw.iterative_scan = relaxed_order")
        app.execute("SELECT * FROM embed_pipeline.search('docs', 'v1', %s, %s::vector)", (query.fingerprint, values))
        found = app.execute("SELECT current_setting('hnsw.iterative_scan'), current_setting('hnsw.max_scan_tuples')").fetchone()
    assert found == ("relaxed_order", "20000")


def test_the_gate_judges_documents(crowded: OpenIndex) -> None:
    """Ten passages of one document are not ten answers: recall and ANN recall count documents."""
    with crowded.connection() as conn:
        version = crowded.version(conn, "v1")
        store = crowded.store(version)
        vector = crowded.embedder_of(version).embed_query(QUERY)
        for exact in (True, False):
            hits = store.search(conn, vector, 10, exact=exact)
            assert len({hit.doc_id for hit in hits}) == len(hits) == 10
        found = evidence.latest(conn, "docs", "v1")
    assert found is not None
    assert found.outcome == "pass"
    assert found.measures["ann_recall"] == pytest.approx(1.0)


def test_an_edit_moves_the_passage(app: psycopg.Connection, crowded: OpenIndex) -> None:
    app.execute("UPDATE articles SET body = 'rivers are the matter of a passage' WHERE id = 2")
    settle(crowded)
    hit = next(hit for hit in ask(crowded, 4).hits if hit.doc_id == "2")
    # The title is the first passage now, or part of the only one.
    assert hit.end == len("title 2\n\nrivers are the matter of a passage")


def test_two_versions_one_with_a_chunker(open_docs: Open, app: psycopg.Connection) -> None:
    """Adding a chunker is a migration like any other: the old version keeps whole documents."""
    whole = {name: value for name, value in VERSION.items() if name != "chunker"}
    serve(open_docs(versions={"v1": whole}, partitions=1), "v1")
    index = open_docs(versions={"v1": whole, "v2": VERSION}, partitions=1)
    fill(index, "v2")
    rows = app.execute(
        "SELECT version, count(passage_start) > 0 FROM embed_pipeline.provenance GROUP BY version ORDER BY 1"
    ).fetchall()
    assert rows == [("v1", False), ("v2", True)]
