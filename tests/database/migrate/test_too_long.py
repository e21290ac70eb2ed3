"""`too_long: chunk` through a whole migration: what the model takes stays whole, what it does not take is split, nothing is set aside."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from embed_pipeline import Searcher
from embed_pipeline.index.handle import OpenIndex
from tests.harness.articles import fill, require_consistent, serve, settle
from tests.harness.providers.loopback import Provider

Open = Callable[..., OpenIndex]
LIMIT = 40


@pytest.fixture
def chunked(app: psycopg.Connection, open_docs: Open, provider: Provider) -> OpenIndex:
    """A version of a provider whose model takes 40 tokens (of the loopback provider: four bytes each)."""
    provider.serve("openai", "narrow", native=32, max_tokens=LIMIT, space="words")
    app.execute("UPDATE articles SET body = %s WHERE id = 7", ("\n\n".join(f"paragraph {n} about rivers" for n in range(30)),))
    version = {
        "provider": "openai",
        "model_name": "narrow",
        "dimensions": 32,
        "base_url": provider.base_url("openai"),
        "max_tokens": LIMIT,
        "too_long": "chunk",
    }
    return open_docs(versions={"v1": version}, partitions=1)


def test_a_text_that_is_too_long_has_several_passages_and_the_others_one(app: psycopg.Connection, chunked: OpenIndex) -> None:
    serve(chunked, "v1")
    chunks = dict(
        app.execute("SELECT doc_id, count(*) FROM embed_pipeline.provenance WHERE version = 'v1' GROUP BY doc_id").fetchall()
    )
    assert chunks.pop("7") > 5
    assert set(chunks.values()) == {1}
    require_consistent(chunked)
    assert app.execute("SELECT count(*) FROM embed_pipeline.dead_letters").fetchone() == (0,)
    with Searcher("docs", chunked.url) as searcher:
        hit = searcher.search("paragraph 23 about rivers", 1).hits[0]
    assert hit.doc_id == "7"
    text = app.execute("SELECT concat_ws(E'\\n\\n', title, body) FROM articles WHERE id = 7").fetchone()
    assert text is not None
    assert "paragraph 23" in text[0][hit.start : hit.end]
    embedder = chunked.embedder("v1")
    values = str(embedder.embed_query("paragraph 23 about rivers").tolist())
    found = app.execute(
        "SELECT passage_start, passage_end FROM embed_pipeline.search('docs', 'v1', %s, %s::vector, 1)",
        (embedder.fingerprint, values),
    ).fetchone()
    assert found == (hit.start, hit.end)


def test_a_document_that_shrinks_below_the_limit_is_whole_again(app: psycopg.Connection, chunked: OpenIndex) -> None:
    fill(chunked, "v1")
    app.execute("UPDATE articles SET title = 'short', body = 'now' WHERE id = 7")
    settle(chunked)
    assert app.execute("SELECT count(*) FROM embed_pipeline.provenance WHERE version = 'v1' AND doc_id = '7'").fetchone() == (1,)
