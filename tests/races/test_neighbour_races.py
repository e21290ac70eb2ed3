"""The application beside us: whatever we are at, it locks, truncates, prepares and publishes as if we were not there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import psycopg
import pytest

from embed_pipeline import signals
from embed_pipeline.documents import inbox
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, cutover, dual_write, gate, retire, verify
from tests.harness.articles import change, fill, serve, settle, stored, text_hash
from tests.races.hands import distribute

Open = Callable[..., OpenIndex]

MOMENTS = (
    "inbox.distributing", "inbox.announced", "inbox.known", "queue.claiming", "dual_write.claimed", "dual_write.read", "settle.locked",
    "dual_write.embedded", "replace.locked", "replace.written", "store.committed", "register.cut", "register.registering",
    "backfill.opened", "backfill.read", "backfill.embedded", "insert_new.held", "insert_new.written", "backfill.closed", "backfill.compared",
    "compare.slice", "reconcile.compared", "hnsw.building", "cutover.marked", "cutover.drained", "cutover.covered", "cutover.half_moved",
    "search.found", "retire.detached",
)  # fmt: skip


def test_no_lock_on_the_documents_is_held_at_any_moment(
    app: psycopg.Connection, second_app: psycopg.Connection, open_docs: Open
) -> None:
    """A whole migration, and at each of its moments the application takes its table for itself: by TRUNCATE, which waits for every reader.
    Only single statements of ours read, each for less than its lock_timeout; nothing of ours stands open with a lock."""
    serve(open_docs("v1"), "v1")
    reached: set[str] = set()
    held: list[str] = []

    def take_the_table(moment: str) -> None:
        reached.add(moment)
        # Of a worker in another thread that is at a statement just now the next look says nothing.
        for _ in range(50):
            with suppress(psycopg.errors.LockNotAvailable):
                second_app.execute("SET LOCAL lock_timeout = '50ms'")
                second_app.execute("LOCK TABLE articles IN ACCESS EXCLUSIVE MODE")
                second_app.rollback()
                return
            second_app.rollback()
        held.append(moment)

    change(app, 1, "edited")
    app.execute("DELETE FROM articles WHERE id = 42")
    for moment in MOMENTS:
        signals.listen(moment, lambda moment=moment: take_the_table(moment))  # type: ignore[misc]
    index = open_docs("v1", "v2")
    for key in index.spec.partition_keys():
        backfill.fill_partition(index, "v2", key)
    fill(index, "v2")
    change(app, 3, "edited")
    distribute(index)
    for version in ("v1", "v2"):
        with index.connection() as conn:
            mark = dual_write.distributor(index).take_mark(conn)
        assert dual_write.drain(index, version, mark).left == 0
    verify.reconcile(index)
    gate.run(index, "v2")
    cutover.cutover(index, "v2")
    retire.retire(index, "v1", "v1")
    app.execute("TRUNCATE articles")
    distribute(index)
    signals.forget_all()
    assert held == []
    assert reached == set(MOMENTS)


def test_tables_of_ours_have_primary_keys(app: psycopg.Connection, open_served: Open) -> None:
    """A publication of all tables makes every DELETE from a table without one an error."""
    index = open_served("v1", "v2")
    app.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    change(app, 1, "edited")
    app.execute("DELETE FROM articles WHERE id = 42")
    fill(index, "v2")
    settle(index)
    gate.run(index, "v2")
    cutover.cutover(index, "v2")
    app.execute("TRUNCATE articles")
    settle(index)
    retire.retire(index, "v1", "v1")
    without = app.execute(
        "SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'embed_pipeline'::regnamespace AND c.relkind = 'r' "
        "AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)"
    ).fetchall()
    assert without == []


def test_prepared_transaction_with_changes(app: psycopg.Connection, open_docs: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be prepared, which no NOTIFY allows; it holds up no cutover while it stands; and its change is carried when it is committed,
    though every floor has been looked at meanwhile."""
    monkeypatch.setattr(inbox, "FLOOR_SECONDS", 0.0)
    serve(open_docs("v1"), "v1")
    index = open_docs("v1", "v2")
    fill(index, "v2")
    gate.run(index, "v2")
    app.execute("BEGIN")
    change(app, 41, "prepared")
    app.execute("DELETE FROM articles WHERE id = 42")
    app.execute("PREPARE TRANSACTION 'kept'")
    try:
        hands = dual_write.distributor(index)
        with index.connection() as conn:
            for number in range(43, 46):
                change(app, number, "another")
                assert hands.distribute(conn) == 1
        assert cutover.cutover(index, "v2").version == "v2"
    finally:
        app.execute("COMMIT PREPARED 'kept'")
    with index.connection() as conn:
        assert hands.distribute(conn) == 2
    settle(index)
    assert stored(app, "v2")["41"] == text_hash("title 41\n\nprepared")
    assert "42" not in stored(app, "v2")


def test_two_serializable_writers_of_other_documents(
    app: psycopg.Connection, second_app: psycopg.Connection, open_filled: Open
) -> None:
    """What capture writes is a row of its own for each statement: two of them never meet, whatever a worker does beside them."""
    index = open_filled()
    with psycopg.connect(index.url) as third_app:
        for conn in (second_app, third_app):
            conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            # Who reads the whole table for one row has read what the other writes.
            conn.execute("SET LOCAL enable_seqscan = off")
        second_app.execute("UPDATE articles SET body = 'second' WHERE id = 1")
        third_app.execute("DELETE FROM articles WHERE id = 2")
        change(app, 3, "distributed meanwhile")
        dual_write.sync(index)
        second_app.execute("UPDATE articles SET body = 'again' WHERE id = 4")
        second_app.commit()
        third_app.commit()
    settle(index)
