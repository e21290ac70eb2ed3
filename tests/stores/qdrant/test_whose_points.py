"""Two ledgers at one Qdrant: a copy of the database, and whatever else names the same collections. Nothing of the other's is touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from qdrant_client import models

from embed_pipeline.catalog import ledger, schema
from embed_pipeline.errors import AliasNotUpdated, AnotherLedger, EmbedPipelineError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import adopt, dual_write, loading, readers, refill, retire, take_over, verify
from embed_pipeline.migrate.opening import open_index, opened
from embed_pipeline.postgres import connection
from embed_pipeline.report.look import open_registered
from embed_pipeline.report.status import status_of
from embed_pipeline.search import Searcher
from embed_pipeline.spec import IndexSpec
from embed_pipeline.stores.qdrant import ownership
from embed_pipeline.stores.qdrant.ownership import LEDGER
from tests.harness.articles import change, declared, fill, require_consistent, serve, settle
from tests.harness.qdrant.loopback import Loopback
from tests.harness.stores import LAYOUTS, Declared
from tests.stores.holding import points, store_of
from tests.stores.qdrant.world import World

Open = Callable[..., OpenIndex]
At = Callable[[str], Declared]
Copy = Callable[[str], str]


@pytest.fixture(autouse=True)
def every_look_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look counts for no longer than its own request: what comes behind it is looked at again."""
    monkeypatch.setattr(ownership, "WRITE_SECONDS", 0.0)


def everything(index: OpenIndex, name: str = "v1") -> Any:
    """All that a plain client sees: points with vectors, metadata, aliases."""
    store = store_of(index, name)
    found = store._engine.call(lambda client: (client.get_collection(store.place.collection), client.get_aliases()))
    # Local mode normalizes vectors anew when a folder is opened: the last digits may be others.
    held = [
        (point.id, point.payload, {vector: np.round(values, 4).tolist() for vector, values in by_name(point).items()})
        for point in points(index, name)
    ]
    return held, found[0].config.metadata, found[1].model_dump()


def by_name(point: models.Record) -> dict[str, Any]:
    return point.vector if isinstance(point.vector, dict) else {"": point.vector}


@pytest.fixture(params=[f"local-{layout}" for layout in LAYOUTS])
def store(request: pytest.FixtureRequest, qdrant_at: At) -> Declared:
    return qdrant_at(request.param)


@pytest.fixture
def spec_of(holdout: Path, store: Declared) -> Callable[..., IndexSpec]:
    return lambda url, *names, **more: declared(url, holdout, *(names or ("v1",)), store=store, **more)


def masked(url: str) -> None:
    """What is done to a staging database first."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("DELETE FROM articles WHERE id > 5")
        conn.execute("UPDATE articles SET body = 'masked'")


def test_a_copy_is_refused_before_it_touches_anything(
    app: psycopg.Connection, open_docs: Open, store: Declared, database_url: str, copied: Copy, spec_of: Callable[..., IndexSpec]
) -> None:
    """Whichever verb comes first there: one sentence that names both. Production notices nothing."""
    index = open_docs("v1", store=store)
    serve(index, "v1")
    before = everything(index)
    index.close()
    staging = copied(database_url)
    masked(staging)
    spec = spec_of(staging)
    verbs: dict[str, Callable[[], object]] = {
        "backfill, sync, verify, gate, cutover, retire": lambda: open_index(spec),
        "adopt, dead-letters, the comparison of Dagster": lambda: open_index(spec, register_new=False),
        "rollback": lambda: open_registered(spec).__enter__(),
        "a further version": lambda: open_index(spec_of(staging, "v1", "v2")),
    }
    for verb, work in verbs.items():
        with pytest.raises(AnotherLedger) as refused:
            work()
        said = str(refused.value)
        for url in (database_url, staging):
            assert psycopg.conninfo.conninfo_to_dict(url)["dbname"] in said, verb
        assert "take-over docs --confirm docs" in said, verb
    with Searcher("docs", staging) as searcher, pytest.raises(AnotherLedger):
        searcher.search("title 1")
    shown = status_of(spec)
    assert "belongs to index docs" in shown.versions[0].another
    assert (shown.versions[0].stored, shown.next.command) == (0, None)
    again = open_docs("v1", store=store)
    assert everything(again) == before
    settle(again)


def test_a_copy_with_a_qdrant_of_its_own_is_filled_anew(
    app: psycopg.Connection,
    open_docs: Open,
    qdrant_at: At,
    database_url: str,
    copied: Copy,
    holdout: Path,
    loopback: Callable[..., Loopback],
) -> None:
    """What staging is meant to do: nothing is there, so nothing is taken for filled, and both go on."""
    production = qdrant_at("loopback-collections")
    serve(open_docs("v1", store=production), "v1")
    staging = copied(database_url)
    masked(staging)
    spec = declared(staging, holdout, "v1", store=production | {"url": loopback().url})
    with opened(spec) as index:
        with index.connection() as conn:
            assert "is not there" in store_of(index, "v1").gone(conn)
        assert refill.make_again(index, "v1", lambda found: None) is not None
        refill.work_off(index, "v1")
        require_consistent(index)
        readers.tell(index)
    with Searcher("docs", staging) as searcher:
        assert len(searcher.search("masked", k=10).hits) == 5
    settle(open_docs("v1", store=production))


WRITES: dict[str, Callable[[OpenIndex], object]] = {
    "a search": lambda index: _searched(index),
    "readers are told": lambda index: readers.tell(index),
    "verify": lambda index: verify.verify(index, "v1"),
    "a drop": lambda index: _by_hand(index, "v2", lambda store, conn: store.drop(conn)),
    "the ANN index": lambda index: _by_hand(index, "v2", lambda store, conn: store.build_ann_index(conn)),
    "room for a version": lambda index: _by_hand(index, "v2", lambda store, conn: store.prepare(conn)),
}


def _searched(index: OpenIndex) -> None:
    with Searcher("docs", index.url) as searcher:
        searcher.search("title 1")


def _by_hand(index: OpenIndex, name: str, work: Callable[[Any, psycopg.Connection], object]) -> None:
    with index.connection() as conn:
        work(store_of(index, name), conn)


def test_every_way_to_the_points_looks_whose_they_are(app: psycopg.Connection, open_docs: Open, store: Declared) -> None:
    """A process runs, and another ledger takes the collections over."""
    index = open_docs("v1", "v2", store=store)
    serve(index, "v1")
    fill(index, "v2")
    other = {"id": "0", "database": "other", "address": "elsewhere:5432", "system": "1", "index": "docs"}
    for name in ("v1", "v2"):
        held = store_of(index, name)
        held._engine.call(lambda client, held=held: client.update_collection(held.place.collection, metadata={LEDGER: other}))  # type: ignore[misc]
    change(app, 1, "edited")
    app.execute("DELETE FROM articles WHERE id = 2")
    before = everything(index, "v1"), everything(index, "v2")
    for result in dual_write.sync(index):
        assert "belongs to index docs of database other at elsewhere:5432" in result.error
        assert result.pending == 2
    for what, work in WRITES.items():
        refusal = ""
        try:
            work(index)
        except (AnotherLedger, AliasNotUpdated) as problem:
            refusal = str(problem)
        assert "belongs to index docs of database other" in refusal, what
    assert (everything(index, "v1"), everything(index, "v2")) == before


def test_a_retire_removes_nothing_of_another_ledgers(app: psycopg.Connection, open_docs: Open, store: Declared) -> None:
    index = open_docs("v1", "v2", store=store)
    serve(index, "v1")
    fill(index, "v2")
    held = store_of(index, "v2")
    other = {"id": "0", "database": "other", "address": "elsewhere:5432", "system": "1", "index": "docs"}
    held._engine.call(lambda client: client.update_collection(held.place.collection, metadata={LEDGER: other}))
    with pytest.raises(EmbedPipelineError, match="belongs to index docs of database other"):
        retire.retire(index, "v2", "v2")
    assert len(points(index, "v2")) > 0


def test_a_collection_that_names_nobody_is_not_taken(app: psycopg.Connection, open_docs: Open, store: Declared) -> None:
    """Left over from a database that is gone, or made by hand: what it holds does not count as filled."""
    index = open_docs("v1", store=store)
    fill(index, "v1")
    held = store_of(index, "v1")
    held._engine.call(lambda client: client.update_collection(held.place.collection, metadata={LEDGER: None}))
    with pytest.raises(AnotherLedger, match=f"collection {held.place.collection} at .* that names no ledger"):
        open_docs("v1", store=store)
    index.close()
    with opened(index.spec, register_new=False, ours=False) as taking:
        assert take_over.take_over(taking, "docs").before == {"v1": "no ledger"}
    settle(open_docs("v1", store=store))


def test_two_indexes_of_one_ledger_do_not_share_points(
    app: psycopg.Connection, open_docs: Open, store: Declared, spec_of: Callable[..., IndexSpec], database_url: str
) -> None:
    """The same alias, or the same collection of named vectors: ids would meet, and each would remove the other's."""
    index = open_docs("v1", store=store)
    serve(index, "v1")
    before = everything(index)
    # A version of the very space, and one that would have a collection of its own behind the same alias.
    for version in ("v1", "v9"):
        with pytest.raises(AnotherLedger, match="belongs to index docs of"):
            open_index(spec_of(database_url, version, name="others"))
    assert everything(index) == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_another_ledger_has_adopted_is_not_adopted(world: World, copied: Copy, layout: str) -> None:
    world.collection.make()
    world.adopt()
    world.app.close()
    staging = copied(world.database_url)
    before = {key: record.model_dump() for key, record in world.collection.points().items()}
    with (
        pytest.raises(AnotherLedger),
        opened(world.spec().model_copy(update={"database_url": staging}), register_new=False) as index,
    ):
        adopt.adopt(index)
    with pytest.raises(AnotherLedger):
        loading.open_to_load(world.spec().model_copy(update={"database_url": staging}))
    assert {key: record.model_dump() for key, record in world.collection.points().items()} == before


def test_a_restored_database_takes_its_points_over(
    app: psycopg.Connection, open_docs: Open, store: Declared, database_url: str, copied: Copy, spec_of: Callable[..., IndexSpec]
) -> None:
    """Restored from an older state, under another name: everything is compared first; the old ledger is refused from then on."""
    index = open_docs("v1", store=store)
    serve(index, "v1")
    index.close()
    restored = copied(database_url)
    with psycopg.connect(restored, autocommit=True) as conn:
        change(conn, 1, "as it was")
        conn.execute("DELETE FROM articles WHERE id = 2")
        conn.execute("TRUNCATE embed_pipeline.inbox")
    with opened(spec_of(restored), register_new=False, ours=False) as again:
        with pytest.raises(EmbedPipelineError, match="does not name the index"):
            take_over.take_over(again, "dogs")
        taken = take_over.take_over(again, "docs")
        assert (list(taken.before), taken.queued, taken.gone) == (["v1"], {"v1": 2}, ())
        assert take_over.take_over(again, "docs").before == {}
        again.close()
    now = open_index(spec_of(restored))
    shown = status_of(now.spec)
    assert "were written by index docs of database" in shown.doubts[0]
    assert shown.next.command == "embed-pipeline sync docs --full"
    verify.reconcile(now)
    settle(now)
    assert status_of(now.spec).doubts == ()
    now.close()
    with pytest.raises(AnotherLedger):
        open_index(spec_of(database_url))


def test_a_loss_in_bulk_is_not_taken_over(
    app: psycopg.Connection, open_docs: Open, store: Declared, database_url: str, copied: Copy, spec_of: Callable[..., IndexSpec]
) -> None:
    app.execute("INSERT INTO articles SELECT n, 't', 'b ' || n FROM generate_series(1000, 1100) n")
    index = open_docs("v1", store=store)
    fill(index, "v1")
    before = everything(index)
    index.close()
    restored = copied(database_url)
    with psycopg.connect(restored, autocommit=True) as conn:
        conn.execute("DELETE FROM articles WHERE id >= 1000")
        conn.execute("TRUNCATE embed_pipeline.inbox")
    refused = pytest.raises(EmbedPipelineError, match="take-over docs --confirm docs --accept-loss 101")
    with opened(spec_of(restored), register_new=False, ours=False) as again, refused:
        take_over.take_over(again, "docs")
    assert everything(open_docs("v1", store=store)) == before


def test_an_alias_that_was_taken_away_is_put_back(app: psycopg.Connection, open_docs: Open, qdrant_at: At) -> None:
    """By the next dual-write, which has nothing else to do; until then it is said."""
    index = open_docs("v1", store=qdrant_at("local-collections"))
    serve(index, "v1")
    alias, held = index.spec.store.collection, store_of(index, "v1")  # type: ignore[union-attr]
    gone = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=str(alias)))
    held._engine.call(lambda client: client.update_collection_aliases([gone]))
    assert f"the alias {alias} is not there" in status_of(index.spec).versions[0].untold
    dual_write.sync(index)
    assert status_of(index.spec).versions[0].untold == ""
    assert app.execute("SELECT count(*) FROM embed_pipeline.audit_events WHERE event = 'told again'").fetchone() == (1,)


def test_addresses_of_one_server(bare_database_url: str) -> None:
    """Who reaches the same run of the server by another address has reached the same ledger. A copy has all of it, and is another one."""
    by_name = bare_database_url.replace("127.0.0.1", "localhost")
    with connection.connect(bare_database_url, autocommit=True) as conn, connection.connect(by_name, autocommit=True) as named:
        schema.ensure(conn, bare_database_url)
        first, second = ledger.read(conn), ledger.read(named)
        assert first.address != second.address
        assert first.is_named_by(second.stamp("docs"), "docs", to_read=False)
        assert not first.is_named_by(second.stamp("docs"), "others", to_read=True)
        here = first.stamp("docs")
        unseen = {name: value for name, value in here.items() if name != "data"}
        assert second.is_named_by(unseen, "docs", to_read=False)
        # By an address that nobody has learned: the server of a copy of the machine, or a standby that only reads.
        assert not second.is_named_by(unseen | {"address": "elsewhere:5432"}, "docs", to_read=False)
        assert second.is_named_by(unseen | {"address": "elsewhere:5432"}, "docs", to_read=True)
        # The embedded server's folder was copied, and the copy has the port now.
        assert not second.is_named_by(here | {"data": "/copy/of/it"}, "docs", to_read=False)
        for other in ({"system": "1"}, {"database": "staging"}, {"id": "0"}):
            assert not second.is_named_by(here | other, "docs", to_read=True)
        # After a restart an address that is not known is learned only when a known one was seen first.
        conn.execute(
            "UPDATE embed_pipeline.ledger SET started = started - interval '1 day', addresses = ARRAY['db.internal:5432']"
        )
        assert ledger.read(named).addresses == ("db.internal:5432",)
