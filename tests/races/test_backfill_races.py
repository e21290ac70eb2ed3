"""The backfill against a changing table, a dual-write beside it, and itself: each test stops it at a named moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Thread

import psycopg
import pytest

from embed_pipeline import signals
from embed_pipeline.catalog import partitions
from embed_pipeline.documents import slices
from embed_pipeline.documents.texts import DocumentText
from embed_pipeline.errors import EmbedderError, FencedOff, Stopped
from embed_pipeline.flow.embed import embed_documents
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, dual_write, verify
from embed_pipeline.stores.pgvector import writes
from embed_pipeline.stores.protocol import EmbeddedBatch
from tests.harness.articles import DOCUMENTS, at, change, fill, require_consistent, settle, stored, text_hash
from tests.harness.fakes import asked_texts
from tests.harness.providers.loopback import waited
from tests.races.hands import WAITS_FOR_A_LOCK, end

Open = Callable[..., OpenIndex]
Gated = tuple[OpenIndex, Callable[[int], Thread]]


@pytest.fixture
def open_docs(open_docs: Open) -> Open:
    """In four partitions, so that one of them is neither the first nor the last."""
    return lambda *names, **overrides: open_docs(*names, **{"partitions": 4} | overrides)


def test_backfill_writes_a_document_whose_dead_letter_is_old(app: psycopg.Connection, open_docs: Open) -> None:
    """A blank text was set aside and the run ended; it is mended, and the backfill is faster than the dual-write, which then finds nothing
    left to do."""
    index = open_docs("v1")
    app.execute("UPDATE articles SET title = '', body = '' WHERE id = 1")
    at("backfill.closed", end)
    with pytest.raises(KeyboardInterrupt):
        backfill.fill_partition(index, "v1", "00")
    assert app.execute("SELECT doc_id FROM embed_pipeline.dead_letters").fetchall() == [("1",)]
    change(app, 1, "mended")
    fill(index, "v1")
    settle(index)
    assert "1" in stored(app, "v1")
    assert app.execute("SELECT doc_id FROM embed_pipeline.dead_letters").fetchall() == []


def test_rejected_edit_beside_an_unfinished_insert(app: psycopg.Connection, open_docs: Open) -> None:
    """A backfill has written a document and not committed; an edit makes its text blank, and a dual-write sets it aside."""
    index = open_docs("v1")

    def blank() -> None:
        app.execute("UPDATE articles SET title = NULL, body = NULL WHERE id = 1")
        dual_write.sync(index)

    at("insert_new.written", blank)
    fill(index, "v1")
    settle(index)
    assert "1" not in stored(app, "v1")


@pytest.mark.parametrize("holds_on", [False, True])
def test_a_dual_write_is_at_a_document_that_is_copied(
    app: psycopg.Connection, open_docs: Open, monkeypatch: pytest.MonkeyPatch, holds_on: bool
) -> None:
    """The dual-write has written a document and not committed: the COPY gives way at once, and its batch is inserted row by row. A worker
    that is frozen there holds on for longer than an insert waits: the batch is paid for, and is tried again."""
    monkeypatch.setattr(writes, "LOCK_WAIT_MS", 100)
    index = open_docs("v1")
    change(app, 1, "edited")
    holding, go_on = threading.Event(), threading.Event()
    tries: list[int] = []

    def hold() -> None:
        holding.set()
        assert go_on.wait(60)

    def tried() -> None:
        tries.append(1)
        if not holds_on or len(tries) > 2:
            go_on.set()

    at("replace.written", hold)
    signals.listen("insert_new.by_rows", tried)
    with ThreadPoolExecutor(1) as pool:
        syncing = pool.submit(dual_write.sync, index)
        assert holding.wait(60)
        try:
            report = backfill.fill_partition(index, "v1", "00")
        finally:
            go_on.set()
        assert [result.error for result in syncing.result()] == [""]
    assert (report.documents, report.written) == (DOCUMENTS // 4, DOCUMENTS // 4 - 1)
    assert tries
    fill(index, "v1")
    settle(index)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nedited")


def test_backfill_never_overwrites_something_newer(app: psycopg.Connection, open_docs: Open) -> None:
    """A dual-write of the new text lands while the backfill still embeds the old one."""
    index = open_docs("v1")

    def overtake() -> None:
        change(app, 1, "newer")
        dual_write.sync(index)

    at("backfill.embedded", overtake)
    fill(index, "v1")
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nnewer")
    settle(index)


def test_backfill_leaves_a_row_that_was_there_first(app: psycopg.Connection, open_docs: Open) -> None:
    """The text went and came back, and a dual-write stored it meanwhile: the backfill's hash fits, and still it must not write."""
    index = open_docs("v1")

    def overtake() -> None:
        change(app, 1, "another")
        change(app, 1, "body 1")
        dual_write.sync(index)
        first.update(app.execute("SELECT doc_id, xmin::text FROM embed_pipeline.docs__v1").fetchall())

    first: dict[str, str] = {}
    at("backfill.embedded", overtake)
    fill(index, "v1")
    now = dict(app.execute("SELECT doc_id, xmin::text FROM embed_pipeline.docs__v1").fetchall())
    assert first.keys() == {"1"}
    assert now["1"] == first["1"]
    settle(index)


def test_document_that_is_deleted_while_it_is_embedded(app: psycopg.Connection, open_docs: Open) -> None:
    """Its vector is inserted, and its removal is announced by then: it waits for the dual-write, and is in no answer until then."""
    index = open_docs("v1")
    at("backfill.embedded", lambda: app.execute("DELETE FROM articles WHERE id = 1"))
    fill(index, "v1")
    with index.connection() as conn:
        version = index.version(conn, "v1")
        query = index.embedder_of(version).embed_query("title 1\n\nbody 1")
        hits = index.store(version).search(conn, query, DOCUMENTS)
    assert {hit.doc_id for hit in hits} == {str(number) for number in range(2, DOCUMENTS + 1)}
    settle(index)
    assert "1" not in stored(app, "v1")


def batch_of(index: OpenIndex, *doc_ids: int) -> EmbeddedBatch:
    """What a backfill would have in its hands of these documents."""
    with index.connection() as conn:
        embedder = index.embedder_of(index.version(conn, "v1"))
        current = slices.read_current(conn, index.source, [str(doc_id) for doc_id in doc_ids])
    return embed_documents(embedder, [DocumentText(doc_id, *read) for doc_id, read in current.items()]).batch


def test_insert_under_a_gone_epoch(app: psycopg.Connection, open_docs: Open) -> None:
    """Another run has opened the partition since: what the first one has in its hands may be of before a change that is done already."""
    index = open_docs("v1")
    batch = batch_of(index, 1, 2)
    with index.connection() as conn:
        store = index.store(index.version(conn, "v1"))
        old = partitions.open_to_fill(conn, "docs", "v1", "00")
        new = partitions.open_to_fill(conn, "docs", "v1", "00")
        assert old is not None
        assert new is not None
        with pytest.raises(FencedOff, match="opened by another run"):
            store.insert_new(conn, batch, old)
        with pytest.raises(FencedOff):
            store.reject(conn, old, {"3": (b"0" * 32, "no vector")})
        assert stored(app, "v1") == {}
        assert store.insert_new(conn, batch, new) == {"1", "2"}


def test_insert_while_the_partition_is_closed(app: psycopg.Connection, open_docs: Open) -> None:
    """It is compared: what came in behind the comparison's back would count as compared."""
    index = open_docs("v1")
    batch = batch_of(index, 1)
    with index.connection() as conn:
        store = index.store(index.version(conn, "v1"))
        partitions.open_to_fill(conn, "docs", "v1", "00")
        closed = partitions.close(conn, "docs", "v1", "00")
        with pytest.raises(FencedOff):
            # Also under the closed epoch itself.
            store.insert_new(conn, batch, closed)
    assert stored(app, "v1") == {}


def test_closing_waits_for_an_insert_under_way(app: psycopg.Connection, open_docs: Open) -> None:
    """An insert that has seen the partition open and commits after it was closed is one that the comparison does not see."""
    index = open_docs("v1")
    batch = batch_of(index, 1)
    closing: list[Future[partitions.Fence]] = []

    def close() -> partitions.Fence:
        with index.connection() as conn:
            return partitions.close(conn, "docs", "v1", "00")

    def meanwhile() -> None:
        closing.append(pool.submit(close))
        waited(lambda: closing[0].done() or app.execute(WAITS_FOR_A_LOCK).fetchone() == (1,), "it neither waits nor ends")
        assert not closing[0].done(), "closed over an insert"

    at("insert_new.written", meanwhile)
    with ThreadPoolExecutor(1) as pool, index.connection() as conn:
        fence = partitions.open_to_fill(conn, "docs", "v1", "00")
        assert fence is not None
        index.store(index.version(conn, "v1")).insert_new(conn, batch, fence)
        assert closing[0].result(timeout=30).epoch == fence.epoch + 1


def lose_its_lock(app: psycopg.Connection) -> None:
    """End the session that holds a backfill's advisory lock: another run may take the partition."""
    app.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database = "
        "(SELECT oid FROM pg_database WHERE datname = current_database())"
    )


def test_zombie_backfill(app: psycopg.Connection, open_docs: Open) -> None:
    """It freezes with vectors in its hands. Another run fills the partition, a document is deleted and the removal done; then it wakes."""
    index = open_docs("v1")

    def meanwhile() -> None:
        lose_its_lock(app)
        fill(open_docs("v1"), "v1")
        app.execute("DELETE FROM articles WHERE id = 1")
        settle(index)

    at("backfill.embedded", meanwhile)
    with pytest.raises(FencedOff):
        backfill.fill_partition(index, "v1", "00")
    assert "1" not in stored(app, "v1")
    settle(index)


def test_two_backfills_of_one_partition(app: psycopg.Connection, open_docs: Open) -> None:
    """The second one is refused while the first one runs: it would be harmless, and paid for twice."""
    index = open_docs("v1")
    refusals: list[str] = []

    def second() -> None:
        try:
            backfill.fill_partition(index, "v1", "00")
        except Stopped as refused:
            refusals.append(str(refused))

    at("backfill.embedded", second)
    backfill.fill_partition(index, "v1", "00")
    assert len(refusals) == 1
    assert "being filled by another run" in refusals[0]


def test_resumed_backfill_pays_for_nothing_twice(app: psycopg.Connection, open_docs: Open, tmp_path) -> None:  # type: ignore[no-untyped-def]
    calls, down = tmp_path / "calls", tmp_path / "down"
    version = {
        "provider": "tests.harness.fakes:HashEmbedder",
        "model_name": "m",
        "dimensions": 16,
        "batch_size": 5,
        "options": {"calls_file": str(calls), "raise_while": str(down)},
    }
    index = open_docs(versions={"v1": version})
    at("backfill.embedded", down.touch)
    with pytest.raises(EmbedderError, match="the provider is down"):
        fill(index, "v1")
    assert 0 < len(stored(app, "v1")) < 60
    down.unlink()
    fill(index, "v1")
    require_consistent(index)
    paid = calls.read_text().splitlines()
    assert len(paid) == len(set(paid)) == 60


def test_batches_beside_a_failing_one_are_kept(app: psycopg.Connection, open_docs: Open, tmp_path: Path) -> None:
    """Three calls are under way when the first fails: what the other two brought is paid for, and stored."""
    app.execute("UPDATE articles SET body = 'boom' WHERE id = 3")
    calls, held = tmp_path / "calls", tmp_path / "held"
    version = {
        "provider": "tests.harness.fakes:HashEmbedder",
        "model_name": "m",
        "dimensions": 16,
        "batch_size": 5,
        "max_in_flight": 3,
        "options": {"raise_on": "boom", "calls_file": str(calls), "wait_while": str(held)},
    }
    index = open_docs(versions={"v1": version})
    held.touch()
    with ThreadPoolExecutor(1) as pool:
        filled = pool.submit(backfill.fill_partition, index, "v1", "00")
        waited(lambda: len(asked_texts(calls)) == 15, "not all three were asked for")
        held.unlink()
        with pytest.raises(EmbedderError, match="boom"):
            filled.result()
    assert set(stored(app, "v1")) == {str(n) for n in range(6, 16)}
    assert "00" in backfill.unfilled(app, index, "v1")


def test_pause_holds_the_backfill_and_not_the_dual_write(app: psycopg.Connection, open_docs: Open) -> None:
    from embed_pipeline.catalog import control

    index = open_docs("v1", "v2")
    fill(index, "v1")
    control.set_state(app, "docs", "paused", "lunch")
    change(app, 1, "edited")
    assert {each.version: each.error for each in dual_write.sync(index)} == {"v1": "", "v2": ""}
    reasons: list[str] = []

    def listener(progress: backfill.Progress) -> None:
        if progress.waiting and not reasons:
            reasons.append(progress.waiting)
            control.set_state(app, "docs", "running", "")

    backfill.fill_partition(index, "v2", "01", listener)
    assert "paused" in reasons[0]
    assert "lunch" in reasons[0]
    control.set_state(app, "docs", "aborted", "enough")
    with pytest.raises(Stopped, match="enough"):
        backfill.fill_partition(index, "v2", "02")


# A text that is read only when nobody holds a lock of the test's: the application changes its row under a statement that reads it.
GATED = """
DROP TABLE articles;
CREATE TYPE gated AS (words text);
CREATE FUNCTION words_of(gated) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(7);
    RETURN $1.words;
END $$;
CREATE CAST (gated AS text) WITH FUNCTION words_of(gated);
CREATE TABLE articles (id bigint PRIMARY KEY, body gated) PARTITION BY RANGE (id);
CREATE TABLE low PARTITION OF articles FOR VALUES FROM (0) TO (50);
CREATE TABLE high PARTITION OF articles FOR VALUES FROM (50) TO (100);
INSERT INTO articles SELECT n, ROW ('body ' || n)::gated FROM generate_series(1, 20) AS n;
"""
GATE_WAITS = """
SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND objid = 7 AND NOT granted AND clock_timestamp() - query_start > interval '400 milliseconds'
"""


@pytest.fixture
def gated(app: psycopg.Connection, second_app: psycopg.Connection, open_docs: Open) -> Gated:
    """An index, and what closes the gate, moves a document to the other partition as soon as somebody waits there, and opens it again."""
    app.execute(GATED)
    index = open_docs("v1", documents={"table": "articles", "key": "id", "text": "body"})
    second_app.autocommit = True

    def move(key: int) -> None:
        waited(lambda: app.execute(GATE_WAITS).fetchone() == (1,), "nobody came to the text")
        second_app.execute("UPDATE articles SET id = id + 50 WHERE id = %s", (key,))
        second_app.execute("SELECT pg_advisory_unlock(7)")

    def closed(key: int) -> Thread:
        second_app.execute("SELECT pg_advisory_lock(7)")
        moving = Thread(target=move, args=(key,))
        moving.start()
        return moving

    return index, closed


def test_document_goes_to_another_partition_under_the_canary(app: psycopg.Connection, gated: Gated) -> None:
    """A partitioned table: a row goes to another partition after the statement's snapshot and before its lock. PostgreSQL ends such a
    statement, also one that skips what is locked. The full comparison proves with a document that its changes arrive; it takes the first
    one that it finds."""
    index, closed = gated
    fill(index, "v1")
    settle(index)
    moving = closed(1)
    compared = verify.reconcile(index)
    moving.join()
    assert not compared.rearmed
    settle(index)
    assert "51" in stored(app, "v1")
