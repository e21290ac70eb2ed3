"""The place of a version is gone, or was emptied by hand: it is said, nothing is acknowledged, and it is filled again. In every store."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from qdrant_client import models

from embed_pipeline.catalog import versions
from embed_pipeline.errors import CutoverRefused, VectorsGone, VersionRetired
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, cutover, dual_write, refill, retire, standing, verify
from embed_pipeline.migrate.refill import Again
from embed_pipeline.report.status import status
from embed_pipeline.stores.qdrant.store import QdrantStore
from embed_pipeline.testing.store import MemoryStore
from tests.harness.articles import DOCUMENTS, change, fill, require_consistent, serve
from tests.harness.stores import Declared

Open = Callable[..., OpenIndex]
PLACES = ["pgvector", "memory", "local-collections", "local-named_vectors"]


@pytest.fixture(params=PLACES)
def store(request: pytest.FixtureRequest, qdrant_at: Callable[[str], Declared]) -> Declared:
    return {"kind": request.param} if request.param in ("pgvector", "memory") else qdrant_at(request.param)


def remove(index: OpenIndex, app: psycopg.Connection, name: str) -> None:
    """What somebody does by hand: the table, the collection, or the named vector of a shared one."""
    with index.connection() as conn:
        held = index.store(versions.get(conn, index.name, name))
    if isinstance(held, MemoryStore):
        with index.connection() as conn:
            held.drop(conn)
    elif not isinstance(held, QdrantStore):
        app.execute(f"DROP TABLE embed_pipeline.docs__{name} CASCADE")  # type: ignore[arg-type]
    elif held.place.shared:
        held._engine.call(lambda client: client.delete_vector_name(held.place.collection, held.place.vector))
    else:
        held._engine.call(lambda client: client.delete_collection(held.place.collection))


def empty(index: OpenIndex, app: psycopg.Connection, name: str) -> None:
    with index.connection() as conn:
        held = index.store(versions.get(conn, index.name, name))
    if isinstance(held, MemoryStore):
        with index.connection() as conn:
            held.room(conn).entries.clear()
    elif not isinstance(held, QdrantStore):
        app.execute(f"TRUNCATE embed_pipeline.docs__{name}")  # type: ignore[arg-type]
    else:
        everything = models.FilterSelector(filter=models.Filter())
        held._engine.call(lambda client: client.delete(held.place.collection, points_selector=everything))


@pytest.mark.parametrize("by_hand", [remove, empty])
def test_what_serves_is_gone(app: psycopg.Connection, open_docs: Open, store: Declared, by_hand: Callable[..., None]) -> None:
    """It is filled again by its queue: a document that is deleted meanwhile shows up in no answer."""
    index = open_docs("v1", store=store)
    serve(index, "v1")
    by_hand(index, app, "v1")
    assert [("are gone" in each.error, each.pending) for each in dual_write.sync(index)] == [(True, 0)]
    change(app, 1, "edited")
    (result,) = dual_write.sync(index)
    assert ("are gone" in result.error, "it is active, and serves" in result.error, result.pending) == (True, True, 1)
    assert "backfill docs v1" in result.error
    with index.connection() as conn:
        assert standing.broken(conn, OpenIndex(index.spec, index.url, index.source)) or index.spec.store.is_one_process
    with pytest.raises(VectorsGone):
        verify.reconcile(index)
    shown = status(index)
    assert "are gone" in shown.versions[0].gone
    assert shown.next.command == "embed-pipeline backfill docs v1"

    said: list[Again] = []
    assert refill.make_again(index, "v1", said.append) is not None
    assert (said[0].documents, said[0].by_queue) == (DOCUMENTS, True)
    assert f"They are made again: {DOCUMENTS} documents to embed" in said[0].sentence
    assert backfill.unfilled(app, index, "v1") == []
    refill.work_off(index, "v1")
    require_consistent(index)
    assert status(index).versions[0].gone == ""
    assert refill.make_again(index, "v1", said.append) is None


@pytest.mark.parametrize("by_hand", [remove, empty])
def test_what_is_not_searched_is_filled_from_history(
    app: psycopg.Connection, open_docs: Open, store: Declared, by_hand: Callable[..., None]
) -> None:
    index = open_docs("v1", "v2", store=store)
    serve(index, "v1")
    fill(index, "v2")
    if by_hand is empty and store.get("layout") == "named_vectors":
        pytest.skip("both versions are in these points")
    by_hand(index, app, "v2")
    change(app, 1, "edited")
    told = {each.version: (each.error, each.pending) for each in dual_write.sync(index)}
    assert told["v1"] == ("", 0)
    assert ("it is ready, v1 serves" in told["v2"][0], told["v2"][1]) == (True, 1)
    with pytest.raises((CutoverRefused, VectorsGone)):
        cutover.cutover(index, "v2")
    again = refill.make_again(index, "v2", lambda found: None)
    assert again is not None
    assert not again.by_queue
    fill(index, "v2")
    dual_write.sync(index)
    require_consistent(index)


def test_who_is_told_what_it_costs_may_stop_it(app: psycopg.Connection, open_docs: Open, store: Declared) -> None:
    """Nothing was made by then."""
    index = open_docs("v1", store=store)
    fill(index, "v1")
    remove(index, app, "v1")

    class TooMuch(Exception):
        pass

    def refuse(found: Again) -> None:
        raise TooMuch(found.sentence)

    with pytest.raises(TooMuch, match="documents to embed"):
        refill.make_again(index, "v1", refuse)
    with index.connection() as conn:
        assert index.store(versions.get(conn, "docs", "v1")).gone(conn)


def test_what_was_retired_since_it_was_read_is_not_gone(open_docs: Open, store: Declared) -> None:
    """A worker of the version ends in peace: nobody is told to make again what a person has given up."""
    index = open_docs("v1", "v2", store=store)
    serve(index, "v1")
    serve(index, "v2")
    cutover.rollback(index, "v1")
    with index.connection() as conn:
        read = versions.get(conn, "docs", "v2")
    retire.retire(index, "v2", "v2")
    with index.connection() as conn, pytest.raises(VersionRetired, match="v2 of docs was retired meanwhile"):
        standing.require(conn, index, read)


def test_an_index_whose_documents_went_is_not_gone(app: psycopg.Connection, open_docs: Open, store: Declared) -> None:
    """The application has truncated its table and loads it anew: all of it is announced, and nothing was emptied by hand."""
    index = open_docs("v1", store=store)
    serve(index, "v1")
    app.execute("TRUNCATE articles")
    assert [each.error for each in dual_write.sync(index)] == [""]
    app.execute("INSERT INTO articles (id, title, body) SELECT n, 't', 'b ' || n FROM generate_series(1, 50) n")
    with index.connection() as conn:
        assert standing.gone(conn, index, versions.get(conn, "docs", "v1")) == ""
    assert [each.error for each in dual_write.sync(index)] == [""]
    require_consistent(index)
