"""The map of a bridge is fitted from what two versions have stored, in every store, and what cannot carry one is refused in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import psycopg
import pytest

from embed_pipeline.adapt import age, pairs
from embed_pipeline.catalog import adapters
from embed_pipeline.embedders.maps import Kind
from embed_pipeline.errors import AdapterRefused
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import fit
from tests.harness.articles import change, serve, settle
from tests.harness.articles import fill as fill_version
from tests.harness.two_spaces import NEW, OLD, write_documents

Open = Callable[..., OpenIndex]

LENIENT: dict[str, Any] = {"gate": {"min_queries": 2, "margin": 0.9, "min_ann_recall": 0}}


def opened(app: psycopg.Connection, open_stored: Open, documents: int = 420, v2: dict[str, Any] = NEW, **more: Any) -> OpenIndex:
    """v1 serves, v2 is filled."""
    write_documents(app, 1, documents)
    index = open_stored(versions={"v1": OLD | more.pop("v1", {}), "v2": v2}, **LENIENT, **more)
    serve(index, "v1")
    fill_version(index, "v2")
    return index


@pytest.mark.parametrize("store", ["pgvector", "loopback-named_vectors"], indirect=True)
@pytest.mark.parametrize("kind", [None, "procrustes", "low_rank_affine"])
def test_a_map_that_is_there_is_found(app: psycopg.Connection, open_stored: Open, kind: Kind | None) -> None:
    index = opened(app, open_stored)
    found = fit.fit(index, "v2", kind)
    assert found.kind == (kind or found.kind)
    assert (found.version, found.into, found.pairs, found.unseen) == ("v2", "v1", 420, 0)
    assert found.agreements[found.kind].neighbours == pytest.approx(1.0, abs=0.05)
    with index.connection() as conn:
        adapter = adapters.latest(conn, "docs", "v2", "v1")
        assert adapter is not None
        assert adapter.id == found.adapter_id
        old, new = (index.embedder_of(index.version(conn, name)).embed_query("w1 w2 w3") for name in ("v1", "v2"))
    assert adapter.map.apply(new) @ old > 0.99
    assert age.adapter_fresh(index, "v2").outcome == "unknown"


@pytest.mark.parametrize("store", ["pgvector", "loopback-named_vectors"], indirect=True)
def test_pairs_are_of_the_same_text_and_passage(app: psycopg.Connection, open_stored: Open) -> None:
    cut = {"chunker": {"size": 60}}
    index = opened(app, open_stored, 60, NEW | cut, v1=cut)
    app.execute("UPDATE articles SET (title, body) = (SELECT title, body FROM articles WHERE id = 1) WHERE id = 2")
    settle(index)
    change(app, 3, "another text, which neither has yet")
    with index.connection() as conn:
        source, target = (index.store(index.version(conn, name)) for name in ("v2", "v1"))
        found = pairs.read(conn, source, target, 1_000)
        stored = source.stored_vectors(conn, ["1", "2"])
    passages = sum(len(stored[each].vectors) for each in ("1", "2"))
    assert passages > 2
    assert all(each.offsets is not None and len(each.offsets) == len(each.vectors) for each in stored.values())
    assert (found.compared, found.same_text) == (60, 60)
    assert len(set(found.documents.tolist())) == 59, "a text that two documents have is one pair"
    np.testing.assert_allclose(found.sources @ found.sources.T, found.targets @ found.targets.T, atol=1e-4)
    held_out = found.split(20)
    assert not set(found.documents[held_out]) & set(found.documents[~held_out])
    assert 20 <= held_out.sum() < 40


def test_a_document_that_only_one_version_brought_up_to_date_is_no_pair(app: psycopg.Connection, open_docs: Open) -> None:
    index = opened(app, open_docs, 60)
    app.execute("UPDATE embed_pipeline.docs__v2 SET source_hash = sha256('another text') WHERE doc_id = '7'")
    with index.connection() as conn:
        found = pairs.read(conn, *(index.store(index.version(conn, name)) for name in ("v2", "v1")), 1_000)
    assert (found.compared, found.same_text, len(found)) == (60, 59, 59)


@pytest.mark.parametrize("store", ["pgvector", "loopback-named_vectors"], indirect=True)
def test_an_adapter_ages_when_documents_become_others(app: psycopg.Connection, open_stored: Open) -> None:
    """What was written since the fit agrees less: of documents of another kind the two models say something else."""
    index = opened(app, open_stored)
    fit.fit(index, "v2")
    write_documents(app, 1, 80)
    settle(index)
    app.execute("UPDATE articles SET body = body || ' more' WHERE id <= 80")
    settle(index)
    fresh = age.adapter_fresh(index, "v2")
    assert (fresh.outcome, fresh.pairs, fresh.adapter_id) == ("fresh", 80, fit_id(index))
    if index.spec.store.kind == "pgvector":
        app.execute(
            "UPDATE embed_pipeline.docs__v1 v SET embedding = (SELECT o.embedding FROM embed_pipeline.docs__v1 o "
            "WHERE o.doc_id = (400 - v.doc_id::integer)::text) WHERE v.doc_id::integer <= 80"
        )
        stale = age.adapter_fresh(index, "v2")
        assert stale.outcome == "stale"
        assert "fit it again" in stale.sentence


def fit_id(index: OpenIndex) -> int:
    with index.connection() as conn:
        adapter = adapters.latest(conn, "docs", "v2", "v1")
    assert adapter is not None
    return adapter.id


def refused(index: OpenIndex, name: str = "v2") -> str:
    with pytest.raises(AdapterRefused) as problem:
        fit.fit(index, name)
    assert problem.value.next_step
    with index.connection() as conn:
        assert adapters.latest(conn, "docs", "v2", "v1") is None
    return str(problem.value.fields["reason"])


def test_what_cannot_carry_a_map_is_refused(app: psycopg.Connection, open_docs: Open) -> None:
    index = opened(app, open_docs, 299)
    assert refused(index) == "too_few_pairs"
    assert refused(index, "v1") == "wrong_direction"
    with pytest.raises(AdapterRefused) as problem:
        age.adapter_fresh(index, "v2")
    assert problem.value.fields["reason"] == "no_adapter"


def test_a_model_that_says_the_same_of_everything_is_refused(app: psycopg.Connection, open_docs: Open) -> None:
    index = opened(app, open_docs)
    app.execute(
        "UPDATE embed_pipeline.docs__v2 SET embedding = (SELECT embedding FROM embed_pipeline.docs__v2 WHERE doc_id = '1')"
    )
    assert refused(index) == "degenerate_pairs"
    app.execute("UPDATE embed_pipeline.docs__v2 SET embedding = array_fill(0::real, ARRAY[24])::vector")
    assert refused(index) == "degenerate_pairs"


def test_versions_that_cut_other_passages_are_refused(app: psycopg.Connection, open_docs: Open) -> None:
    index = opened(app, open_docs, 330, NEW | {"chunker": {"size": 60}}, v1={"chunker": {"size": 40}})
    assert refused(index) == "passages_differ"


def test_another_distance_than_cosine_is_refused(app: psycopg.Connection, open_docs: Open) -> None:
    index = opened(app, open_docs, 60, NEW | {"distance": "l2"})
    assert refused(index) == "not_cosine"


def test_before_anything_serves(open_docs: Open) -> None:
    assert refused(open_docs(versions={"v1": OLD, "v2": NEW})) == "nothing_serves"


def test_documents_that_the_old_version_has_nothing_of_are_counted(app: psycopg.Connection, open_docs: Open) -> None:
    """The old model can be called no more: what was written since is only the new one's, and a bridge never finds it."""
    from embed_pipeline.documents import queue

    index = opened(app, open_docs)
    with index.connection() as conn:
        queue.enqueue(conn, "docs", "v1", ["1", "2", "3", "gone"])
    app.execute("DELETE FROM embed_pipeline.docs__v1 WHERE doc_id IN ('1', '2')")
    found = fit.fit(index, "v2")
    assert found.unseen == 2
    assert "2 documents have nothing in v1" in found.sentence
