"""Routes: they change under searches, and a version is written, removed and retired while it puts in order what another one finds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from embed_pipeline.adapt.place import places
from embed_pipeline.catalog import serving
from embed_pipeline.catalog.route import Route
from embed_pipeline.errors import CutoverRefused
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, cutover, dual_write, gate, retire
from embed_pipeline.search import Searcher
from tests.harness.articles import DOCUMENTS, at, change, fill, serve
from tests.races.hands import WAITS_FOR_A_LOCK, distribute, working

Open = Callable[..., OpenIndex]
TEXT = "title 7\n\nbody 7"
DEPTH = 20
REFINES = {"while_building": {"refine": True, "depth": DEPTH}}
REFINED = Route("v1", "v2", DEPTH)


def begin_refining(index: OpenIndex) -> OpenIndex:
    """One of the two partitions of v2 is filled, and v1 is refined by it."""
    backfill.fill_partition(index, "v2", "00")
    gate.run(index, "v2", route="refine")
    cutover.cutover(index, "v2", route="refine")
    return index


@pytest.fixture
def refined(open_served: Open) -> OpenIndex:
    return begin_refining(open_served("v1", "v2", **REFINES))


def listed(index: OpenIndex, version: str) -> list[str]:
    """A version's documents, nearest first, each compared."""
    with index.connection() as conn:
        registered = index.version(conn, version)
        query = index.embedder_of(registered).embed_query(TEXT)
        return [hit.doc_id for hit in index.store(registered).search(conn, query, DOCUMENTS, exact=True)]


def expected(index: OpenIndex) -> dict[Route, list[str]]:
    """What each route answers."""
    first, second = listed(index, "v1"), listed(index, "v2")
    order = {doc_id: float(place) for place, doc_id in enumerate(second)}
    refined = [first[place] for place in places(first[:DEPTH], order)]
    return {Route("v1"): first[:DEPTH], REFINED: refined, Route("v2"): second[:DEPTH]}


def test_routes_flip_under_searches(refined: OpenIndex) -> None:
    """Every answer is of the one route that it names: never the list of one with the name of another, never half in order."""
    fill(refined, "v2")
    gate.run(refined, "v2")
    wanted = expected(refined)
    stop, seen, wrong = threading.Event(), set(), []

    def search() -> None:
        with Searcher("docs", refined.url, refresh_seconds=0.01) as searcher:
            while not stop.is_set():
                answer = searcher.search(TEXT, DEPTH, exact=True)
                seen.add(answer.route)
                if [hit.doc_id for hit in answer.hits] != wanted[answer.route] or answer.note:
                    wrong.append(answer)

    def until_seen(route: Route) -> None:
        seen.discard(route)
        while route not in seen:
            assert not [each for each in readers if each.done()]

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(search) for _ in range(2)]
        try:
            until_seen(REFINED)
            for move, route in [
                (lambda: cutover.rollback(refined), Route("v1")),
                (lambda: cutover.rollback(refined, to="v2"), REFINED),
                (lambda: cutover.cutover(refined, "v2"), Route("v2")),
                (lambda: cutover.rollback(refined), REFINED),
                (lambda: cutover.cutover(refined, "v1"), Route("v1")),
            ]:
                assert move().route == route
                until_seen(route)
        finally:
            stop.set()
        for reader in readers:
            reader.result()
    assert wrong == []


def test_rollback_between_the_list_and_its_order(refined: OpenIndex) -> None:
    """A search that has begun ends on the route that it began with, and names it."""
    wanted = expected(refined)
    with Searcher("docs", refined.url, refresh_seconds=0) as searcher:
        at("search.listed", lambda: cutover.rollback(refined))
        answer = searcher.search(TEXT, DEPTH, exact=True)
        assert (answer.route, [hit.doc_id for hit in answer.hits]) == (REFINED, wanted[REFINED])
        assert searcher.search(TEXT, DEPTH, exact=True).route == Route("v1")


def test_the_second_version_is_retired_between_the_list_and_its_order(refined: OpenIndex) -> None:
    """The list is there: it is what the search answers, with the word why it is in no other order."""
    wanted = expected(refined)

    def retired() -> None:
        cutover.rollback(refined)
        retire.retire(refined, "v2", confirm="v2")

    with Searcher("docs", refined.url, refresh_seconds=0) as searcher:
        at("search.listed", retired)
        answer = searcher.search(TEXT, DEPTH, exact=True)
    assert (answer.route, [hit.doc_id for hit in answer.hits]) == (Route("v1"), wanted[Route("v1")])
    assert "v2 of docs was retired" in answer.note


def new_text_in_the_list_only(app: psycopg.Connection, index: OpenIndex) -> str:
    """v1 has the new text of a document, v2 the one before; the new one is as far from the query there as can be. Which document."""
    doc_id = next(doc_id for doc_id in listed(index, "v2") if doc_id in listed(index, "v1")[1:DEPTH])
    change(app, int(doc_id), "another text")
    distribute(index)
    with working(index, "v1") as work:
        work.batch()
    return doc_id


def where(index: OpenIndex) -> tuple[list[str], dict[str, int]]:
    """What a refined search answers of every document that it may, and the place of each in the list alone."""
    with Searcher("docs", index.url, refresh_seconds=0) as searcher:
        answer = searcher.search(TEXT, DEPTH, exact=True)
        assert answer.route == REFINED
        return [hit.doc_id for hit in answer.hits], {doc_id: place for place, doc_id in enumerate(listed(index, "v1"))}


def test_a_text_that_the_second_version_has_not_yet(app: psycopg.Connection, open_stored: Open) -> None:
    """Its old vector there says nothing of the text by which it was found: it stays in its place, until the new one is there."""
    serve(open_stored("v1"), "v1")
    index = begin_refining(open_stored("v1", "v2", **REFINES))
    new_text_in_the_list_only(app, index)
    answer, alone = where(index)
    with index.connection() as conn:
        queued = {doc_id for (doc_id,) in conn.execute("SELECT doc_id FROM embed_pipeline.queue WHERE version = 'v2'")}
    assert [doc_id for doc_id in queued if doc_id in answer and answer.index(doc_id) != alone[doc_id]] == []
    with index.connection() as conn:
        version = index.version(conn, "v2")
        query = index.embedder_of(version).embed_query(TEXT)
        assert queued.isdisjoint(index.store(version).distances(conn, query, list(alone)))
        dual_write.sync(index)
        assert queued <= set(index.store(version).distances(conn, query, list(alone)))


def test_a_row_that_is_replaced_between_the_list_and_its_order(app: psycopg.Connection, refined: OpenIndex) -> None:
    """The list is of the text before, the order of the text as it is now: late, and never back."""
    doc_id = next(doc_id for doc_id in listed(refined, "v2") if doc_id in listed(refined, "v1")[:DEPTH])
    seen: list[dict[str, float]] = []

    def replaced() -> None:
        change(app, int(doc_id), "another text")
        dual_write.sync(refined)
        with refined.connection() as conn:
            version = refined.version(conn, "v2")
            query = refined.embedder_of(version).embed_query(TEXT)
            seen.append(refined.store(version).distances(conn, query, first))

    first = listed(refined, "v1")[:DEPTH]
    with Searcher("docs", refined.url, refresh_seconds=0) as searcher:
        at("search.listed", replaced)
        answer = searcher.search(TEXT, DEPTH, exact=True)
    assert doc_id in seen[0]
    assert [hit.doc_id for hit in answer.hits] == [first[place] for place in places(first, seen[0])]


def test_points_are_read_after_what_waits_for_them(
    app: psycopg.Connection, open_docs: Open, qdrant_at: Callable[[str], dict[str, object]]
) -> None:
    """A worker writes and acknowledges in between. Read the other way round, an old vector would count as one that nothing waits for."""
    store = qdrant_at("local-collections")
    serve(open_docs("v1", store=store), "v1")
    index = begin_refining(open_docs("v1", "v2", store=store, **REFINES))
    doc_id = new_text_in_the_list_only(app, index)
    with index.connection() as conn:
        version = index.version(conn, "v2")
        store, query = index.store(version), index.embedder_of(version).embed_query(TEXT)
        at("distances.waiting", lambda: dual_write.sync(index))
        found = store.distances(conn, query, [doc_id])
        assert found.get(doc_id) in (None, pytest.approx(store.distances(conn, query, [doc_id])[doc_id], abs=1e-6))


RETIRE = "UPDATE embed_pipeline.index_versions SET state = 'retired' WHERE version = 'v2'"


def in_another_thread(app: psycopg.Connection, pool: ThreadPoolExecutor, work: Callable[[], object]):  # type: ignore[no-untyped-def]
    """Begin it, and return when it waits for a lock."""
    begun = pool.submit(work)
    while app.execute(WAITS_FOR_A_LOCK).fetchone() == (0,):
        assert not begun.done(), begun.result()
    return begun


def test_a_retire_that_commits_before_the_route_does(
    app: psycopg.Connection, second_app: psycopg.Connection, open_served: Open
) -> None:
    """The route waits for it, and then finds that the version is no more."""
    index = open_served("v1", "v2", **REFINES)
    gate.run(index, "v2", route="refine")
    second_app.execute(RETIRE)
    with ThreadPoolExecutor(1) as pool:
        flip = in_another_thread(app, pool, lambda: cutover.cutover(index, "v2", route="refine"))
        second_app.commit()
        with pytest.raises(CutoverRefused, match="v2 is not live, and so v1 refined by v2 cannot serve"):
            flip.result()
    assert serving.read(app, "docs").route == Route("v1")


def test_a_route_that_commits_before_the_retire_does(
    app: psycopg.Connection, second_app: psycopg.Connection, open_served: Open
) -> None:
    """The retire waits for it, and then finds that it is searched by."""
    index = open_served("v1", "v2", **REFINES)
    gate.run(index, "v2", route="refine")
    second_app.execute(
        "UPDATE embed_pipeline.serving_pointer SET refine_version = 'v2', refine_depth = 20, previous_version = version, "
        "generation = generation + 1, move = 'cutover', evidence_id = (SELECT max(id) FROM embed_pipeline.gate_evidence)"
    )
    with psycopg.connect(index.url, autocommit=True) as third, ThreadPoolExecutor(1) as pool:
        retired = in_another_thread(app, pool, lambda: third.execute(RETIRE))
        second_app.commit()
        with pytest.raises(psycopg.errors.CheckViolation, match="is on the route that serves"):
            retired.result()
    assert serving.read(app, "docs").route == REFINED


def test_two_movers_of_one_generation(app: psycopg.Connection, refined: OpenIndex) -> None:
    """Who has read the pointer before another one moved it moves nothing."""

    def another() -> None:
        with psycopg.connect(refined.url, autocommit=True) as hand:
            hand.execute(
                "UPDATE embed_pipeline.serving_pointer SET refine_version = NULL, refine_depth = NULL, previous_version = version, "
                "previous_refine_version = refine_version, previous_refine_depth = refine_depth, generation = generation + 1, move = 'rollback'"
            )

    at("cutover.rerouting", another)
    with pytest.raises(CutoverRefused, match="Somebody else moved"):
        cutover.rollback(refined)
    assert serving.read(app, "docs").generation == 3
