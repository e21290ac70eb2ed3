"""A version that is partly filled puts in order what is found in the version that serves: the same in every store."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from embed_pipeline.adapt.place import places
from embed_pipeline.catalog.route import Route
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, cutover, dual_write, gate
from embed_pipeline.search import Searcher
from tests.harness.articles import DOCUMENTS, change, fill, serve
from tests.races.hands import distribute

Open = Callable[..., OpenIndex]
TEXT = "title 7\n\nbody 7"
DEPTH = 20
REFINES = {"while_building": {"refine": True, "depth": DEPTH}}


@pytest.fixture
def half(app: psycopg.Connection, open_stored: Open) -> OpenIndex:
    """v1 serves; v2 has one of its two partitions."""
    serve(open_stored("v1"), "v1")
    index = open_stored("v1", "v2", **REFINES)
    backfill.fill_partition(index, "v2", "00")
    return index


def vector(index: OpenIndex, version: str, text: str = TEXT) -> Vectors:
    with index.connection() as conn:
        return index.embedder_of(index.version(conn, version)).embed_query(text)


def listed(index: OpenIndex, version: str, k: int = DOCUMENTS) -> dict[str, float]:
    """The documents of a version with their distances, nearest first, by a search that compares everything."""
    with index.connection() as conn:
        hits = index.store(index.version(conn, version)).search(conn, vector(index, version), k, exact=True)
    return {hit.doc_id: hit.distance for hit in hits}


def distances(index: OpenIndex, doc_ids: list[str]) -> dict[str, float]:
    with index.connection() as conn:
        return index.store(index.version(conn, "v2")).distances(conn, vector(index, "v2"), doc_ids)


def test_distances_are_those_of_a_search(half: OpenIndex) -> None:
    """Of the documents that are there, and of no others."""
    there = listed(half, "v2")
    assert 0 < len(there) < DOCUMENTS
    found = distances(half, [*listed(half, "v1"), "no such document"])
    assert found == pytest.approx(there, abs=1e-6)
    assert distances(half, []) == {}


def test_the_route_serves_slots(half: OpenIndex, database_url: str) -> None:
    """The first places of what serves, put in order by what is filled; then all of it, then without it again."""
    assert gate.run(half, "v2", route="refine").outcome == "pass"
    moved = cutover.cutover(half, "v2", route="refine")
    assert (moved.version, moved.previous, moved.route) == ("v1", "v1", Route("v1", "v2", DEPTH))
    with Searcher("docs", database_url, refresh_seconds=0) as searcher:
        alone = [hit.doc_id for hit in searcher.search(TEXT, DOCUMENTS, version="v1", exact=True).hits]
        wanted = [alone[place] for place in places(alone[:DEPTH], listed(half, "v2"))]
        answer = searcher.search(TEXT, DEPTH, exact=True)
        assert [hit.doc_id for hit in answer.hits] == wanted != alone[:DEPTH]
        assert (answer.version, answer.route, answer.generation) == ("v1", Route("v1", "v2", DEPTH), 2)
        assert answer.placed == len(set(alone[:DEPTH]) & set(listed(half, "v2")))
        assert [hit.doc_id for hit in searcher.search(TEXT, 3, exact=True).hits] == wanted[:3]
        # Beyond its depth the list goes on as it is.
        assert [hit.doc_id for hit in searcher.search(TEXT, DOCUMENTS, exact=True).hits] == [*wanted, *alone[DEPTH:]]
        fill(half, "v2")
        assert [hit.doc_id for hit in searcher.search(TEXT, DEPTH, exact=True).hits] == [
            doc_id for doc_id in listed(half, "v2") if doc_id in alone[:DEPTH]
        ]
        assert cutover.rollback(half).route == Route("v1")
        answer = searcher.search(TEXT, DEPTH, exact=True)
        assert [hit.doc_id for hit in answer.hits] == alone[:DEPTH]
        assert (answer.route, answer.placed, answer.note) == (Route("v1"), 0, "")


def test_a_change_that_is_still_to_come_leaves_its_document_where_it_is(app: psycopg.Connection, half: OpenIndex) -> None:
    """The list may be of its new text already, and what is stored here of the old one."""
    doc_id = next(iter(listed(half, "v2")))
    change(app, int(doc_id), "another text")
    assert doc_id in distances(half, [doc_id])
    distribute(half)
    assert distances(half, [doc_id]) == {}
    assert {each.pending for each in dual_write.sync(half)} == {0}
    assert doc_id in distances(half, [doc_id])


def test_what_is_gone_is_not_brought_back(app: psycopg.Connection, half: OpenIndex, database_url: str) -> None:
    """Its vector is still there in both: the list hides it, and only what is listed is put in order."""
    gate.run(half, "v2", route="refine")
    cutover.cutover(half, "v2", route="refine")
    doc_id = next(iter(listed(half, "v2")))
    app.execute("DELETE FROM articles WHERE id = %s", (int(doc_id),))
    with Searcher("docs", database_url) as searcher:
        answer = searcher.search(TEXT, DOCUMENTS)
        assert doc_id not in [hit.doc_id for hit in answer.hits]
        assert len({hit.doc_id for hit in answer.hits}) == len(answer.hits) == DOCUMENTS - 1


def test_passages_count_by_the_nearest(app: psycopg.Connection, open_stored: Open) -> None:
    body = " ".join(f"sentence {n} of many words." for n in range(40))
    app.execute("UPDATE articles SET body = %s WHERE id IN (3, 7)", (body,))
    version = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "m", "dimensions": 16}
    index = open_stored(versions={"v1": version, "v2": version | {"chunker": {"size": 100, "overlap": 10}}})
    fill(index, "v2")
    assert distances(index, [str(n) for n in range(1, DOCUMENTS + 1)]) == pytest.approx(listed(index, "v2"), abs=1e-6)


def test_on_to_the_whole_version_and_back(app: psycopg.Connection, half: OpenIndex) -> None:
    """Refined, then by itself, then rolled back to the route before: the refined one, with every change in it."""
    gate.run(half, "v2", route="refine")
    cutover.cutover(half, "v2", route="refine")
    fill(half, "v2")
    gate.run(half, "v2")
    assert cutover.cutover(half, "v2").before == Route("v1", "v2", DEPTH)
    change(app, 1, "after the cutover")
    back = cutover.rollback(half)
    assert (back.version, back.route) == ("v1", Route("v1", "v2", DEPTH))
    assert {each.pending for each in dual_write.sync(half)} == {0}
    assert cutover.cutover(half, "v1").route == Route("v1")
