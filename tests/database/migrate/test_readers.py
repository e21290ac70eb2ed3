"""Readers who go by an alias of the store: what they are told is what the catalog says, whoever dies or is late in between."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import pytest

from embed_pipeline import signals
from embed_pipeline.catalog import serving
from embed_pipeline.errors import AliasNotUpdated, CutoverRefused, StoreUnavailable
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import cutover, gate, readers, retire, verify
from embed_pipeline.postgres import session
from embed_pipeline.stores.pgvector import PgvectorStore
from tests.harness.articles import fill, serve

Open = Callable[..., OpenIndex]


class Alias:
    """What the store was told, in order: the real store of these tests has no reader to tell."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.failures = 0

    def serve(self, store: PgvectorStore, generation: int) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("connection refused by 127.0.0.1:6333.")
        self.told.append((store.version.name, generation))


@pytest.fixture
def alias(monkeypatch: pytest.MonkeyPatch) -> Alias:
    seen, drop = Alias(), PgvectorStore.drop

    def dropped(store: PgvectorStore, conn: psycopg.Connection) -> None:
        seen.told.append((f"drop {store.version.name}", 0))
        drop(store, conn)

    monkeypatch.setattr(PgvectorStore, "serve", lambda store, conn, generation: seen.serve(store, generation))
    monkeypatch.setattr(PgvectorStore, "drop", dropped)
    return seen


@pytest.fixture
def gated(open_docs: Open, alias: Alias) -> OpenIndex:
    """v1 serves, v2 has passed its gate."""
    serve(open_docs("v1"), "v1")
    index = open_docs("v1", "v2")
    fill(index, "v2")
    gate.run(index, "v2")
    return index


def test_each_move_is_told_after_it_is_committed(app: psycopg.Connection, alias: Alias, gated: OpenIndex) -> None:
    committed: list[tuple[str | None, int]] = []
    signals.listen("readers.telling", lambda: committed.append((serving.read(app, "docs").version, 0)))
    cutover.cutover(gated, "v2")
    cutover.rollback(gated)
    assert alias.told == [("v1", 1), ("v2", 2), ("v1", 3)]
    assert [version for version, _ in committed] == ["v2", "v1"]


def test_cutover_that_died_before_it_told_is_told_by_the_same_command(
    app: psycopg.Connection, alias: Alias, gated: OpenIndex
) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    signals.listen("cutover.flipped", die)
    with pytest.raises(KeyboardInterrupt):
        cutover.cutover(gated, "v2")
    signals.forget_all()
    assert (serving.read(app, "docs").version, alias.told[-1]) == ("v2", ("v1", 1))
    with pytest.raises(CutoverRefused, match="v2 serves docs already"):
        cutover.cutover(gated, "v2")
    assert alias.told[-1] == ("v2", 2)


def test_store_that_cannot_be_told_leaves_the_move_standing_and_says_so(
    app: psycopg.Connection, alias: Alias, gated: OpenIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "GIVE_UP_SECONDS", 0.0)
    alias.failures = 1
    with pytest.raises(
        AliasNotUpdated, match=r"v2 serves docs: the move is committed, but .* Run: embed-pipeline cutover docs v2"
    ):
        cutover.cutover(gated, "v2")
    assert serving.read(app, "docs").version == "v2"
    verify.reconcile(gated)
    assert alias.told[-1] == ("v2", 2)


def test_store_that_comes_back_soon_is_waited_for(alias: Alias, gated: OpenIndex) -> None:
    alias.failures = 2
    assert cutover.cutover(gated, "v2").version == "v2"
    assert alias.told[-1] == ("v2", 2)


def test_move_whose_answer_was_lost_is_told(alias: Alias, gated: OpenIndex) -> None:
    def lose() -> None:
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    signals.listen("cutover.flipped", lose)
    cutover.cutover(gated, "v2")
    assert alias.told[-1] == ("v2", 2)


def test_late_telling_never_overtakes_a_newer_move(app: psycopg.Connection, alias: Alias, gated: OpenIndex) -> None:
    """A full comparison has read that v1 serves, and stops there; a cutover to v2 is committed; the comparison goes on."""
    moving: list[threading.Thread] = []
    waits = threading.Event()

    def cut_over() -> None:
        cutover.cutover(gated, "v2")
        waits.set()  # Where nothing makes it wait, it is through.

    def move_meanwhile() -> None:
        signals.forget_all()
        signals.listen("readers.waiting", waits.set)
        moving.append(threading.Thread(target=cut_over))
        moving[0].start()
        assert waits.wait(30)
        assert serving.read(app, "docs").version == "v2"

    signals.listen("readers.telling", move_meanwhile)
    readers.tell(gated)
    moving[0].join(30)
    assert alias.told[-1] == ("v2", 2)


def test_retire_tells_before_it_drops(app: psycopg.Connection, alias: Alias, gated: OpenIndex) -> None:
    """The cutover told nobody: an old alias would lead to what is dropped."""
    signals.listen("cutover.flipped", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        cutover.cutover(gated, "v2")
    signals.forget_all()
    retire.retire(gated, "v1", "v1")
    assert alias.told[-2:] == [("v2", 2), ("drop v1", 0)]
