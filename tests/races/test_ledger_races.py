"""Two ledgers at one Qdrant at the same moment, and a collection that goes while it is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from embed_pipeline import signals
from embed_pipeline.errors import AnotherLedger
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import dual_write, refill, retire, take_over, verify
from embed_pipeline.migrate.opening import open_index, opened
from embed_pipeline.stores.qdrant import ownership
from embed_pipeline.stores.qdrant.ownership import LEDGER
from tests.harness.articles import at, change, declared, fill, require_consistent, serve, settle, text_hash
from tests.harness.stores import LAYOUTS, Declared
from tests.stores.holding import hashes, store_of

Open = Callable[..., OpenIndex]
Copy = Callable[[str], str]


@pytest.fixture(params=[f"local-{layout}" for layout in LAYOUTS])
def store(request: pytest.FixtureRequest, qdrant_at: Callable[[str], Declared]) -> Declared:
    return qdrant_at(request.param)


@pytest.fixture(autouse=True)
def every_look_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "WRITE_SECONDS", 0.0)


def test_two_ledgers_register_at_the_same_moment(
    app: psycopg.Connection, open_docs: Open, store: Declared, holdout: Path, database_url: str, copied: Copy
) -> None:
    """Neither has found a collection. The one that makes it keeps it; the other one is refused, and has registered nothing."""
    app.close()
    second = copied(database_url)
    spec = declared(second, holdout, "v1", store=store)
    others: list[OpenIndex] = []
    at("qdrant.making", lambda: others.append(open_index(spec)))
    with pytest.raises(
        AnotherLedger, match=f"this is index docs of database {psycopg.conninfo.conninfo_to_dict(database_url)['dbname']}"
    ):
        open_docs("v1", store=store)
    with psycopg.connect(database_url) as conn:
        assert conn.execute("SELECT count(*) FROM embed_pipeline.index_versions").fetchone() == (0,)
    fill(others[0], "v1")
    settle(others[0])
    others[0].close()


def test_two_ledgers_claim_at_the_same_moment(app: psycopg.Connection, open_docs: Open, store: Declared) -> None:
    """Qdrant knows no compare-and-set on metadata: who wrote first finds the other one's name there, and goes."""
    index = open_docs("v1", store=store)
    held = store_of(index, "v1")
    other = {"id": "0", "database": "other", "address": "elsewhere:5432", "system": "1", "index": "docs"}

    def claim_too() -> None:
        held._engine.call(lambda client: client.update_collection(held.place.collection, metadata={LEDGER: other}))

    at("ledger.claimed", claim_too)
    with index.connection() as conn, pytest.raises(AnotherLedger, match="belongs to index docs of database other"):
        held.claim(conn)


def test_a_take_over_while_the_other_ledger_writes(
    app: psycopg.Connection, open_docs: Open, store: Declared, holdout: Path, database_url: str, copied: Copy
) -> None:
    """The old ledger has read and decided when its points become another's: it writes nothing, and acknowledges nothing."""
    index = open_docs("v1", store=store)
    serve(index, "v1")
    index.close()
    restored = copied(database_url)
    index = open_docs("v1", store=store)
    with psycopg.connect(database_url, autocommit=True) as conn:
        change(conn, 1, "written by the old one")

    def take() -> None:
        with opened(declared(restored, holdout, "v1", store=store), register_new=False, ours=False) as taking:
            assert list(take_over.take_over(taking, "docs").before) == ["v1"]

    at("points.decided", take)
    (result,) = dual_write.sync(index)
    assert "belongs to index docs of database" in result.error
    assert (result.written, result.pending) == (0, 1)
    assert hashes(index, app, "v1")["1"] == text_hash("title 1\n\nbody 1")
    index.close()
    with opened(declared(restored, holdout, "v1", store=store)) as now:
        verify.reconcile(now)
        settle(now)


def test_what_the_other_ledger_had_on_its_way_is_found(
    app: psycopg.Connection, open_docs: Open, store: Declared, holdout: Path, database_url: str, copied: Copy
) -> None:
    """A request of the old ledger arrives behind the take-over: a doubt is open, and the full comparison that it asks for finds it."""
    index = open_docs("v1", store=store)
    serve(index, "v1")
    index.close()
    restored = copied(database_url)
    index = open_docs("v1", store=store)
    with psycopg.connect(database_url, autocommit=True) as conn:
        change(conn, 1, "written by the old one")

    def take() -> None:
        with opened(declared(restored, holdout, "v1", store=store), register_new=False, ours=False) as taking:
            take_over.take_over(taking, "docs")

    # Behind the look and before the request: what nobody can call back.
    looks = 0

    def late() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            take()

    signals.listen("ledger.looked", late)
    dual_write.sync(index)
    signals.forget_all()
    assert hashes(index, app, "v1")["1"] == text_hash("title 1\n\nwritten by the old one")
    index.close()
    with opened(declared(restored, holdout, "v1", store=store)) as now:
        compared = verify.reconcile(now)
        assert (compared.queued, len(compared.doubts)) == ({"v1": 1}, 1)
        settle(now)


def test_a_collection_goes_between_the_look_and_the_write(app: psycopg.Connection, open_docs: Open, store: Declared) -> None:
    """The write fails, the change stays queued, and the version can be filled again."""
    index = open_docs("v1", store=store)
    serve(index, "v1")
    change(app, 1, "edited")
    held = store_of(index, "v1")
    at("ledger.looked", lambda: held._engine.call(lambda client: client.delete_collection(held.place.collection)))
    (result,) = dual_write.sync(index)
    assert ("are gone" in result.error, "is not there" in result.error, result.pending) == (True, True, 1)
    again = refill.make_again(index, "v1", lambda found: None)
    assert again is not None
    assert again.by_queue
    refill.work_off(index, "v1")
    require_consistent(index)


def test_a_retire_beside_a_look(app: psycopg.Connection, open_docs: Open, store: Declared) -> None:
    """A version is retired while it is looked at whether its vectors are there: that is over, and no failure."""
    index = open_docs("v1", "v2", store=store)
    serve(index, "v2")
    fill(index, "v1")
    change(app, 1, "edited")
    at("dual_write.claimed", lambda: retire.retire(index, "v1", "v1"))
    assert [each.error for each in dual_write.sync(index)] == ["", ""]


def test_a_version_is_made_again_twice(app: psycopg.Connection, open_docs: Open, store: Declared) -> None:
    """Who dies before the place is made again finds it gone still; documents that are removed meanwhile are not brought back."""
    index = open_docs("v1", store=store)
    serve(index, "v1")
    held = store_of(index, "v1")
    held._engine.call(lambda client: client.delete_collection(held.place.collection))

    class Died(Exception):
        pass

    def die() -> None:
        app.execute("DELETE FROM articles WHERE id = 7")
        raise Died

    signals.listen("refill.queued", die)
    with pytest.raises(Died):
        refill.make_again(index, "v1", lambda found: None)
    signals.forget_all()
    with index.connection() as conn:
        assert held.gone(conn)
    assert refill.make_again(index, "v1", lambda found: None) is not None
    refill.work_off(index, "v1")
    assert "7" not in hashes(index, app, "v1")
    require_consistent(index)
