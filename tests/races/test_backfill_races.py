"""The backfill against a changing table, a dual-write beside it, and itself: each test stops it at a named moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from embed_pipeline.errors import EmbedderError, Stopped
from embed_pipeline.migrate import backfill, dual_write, verify
from embed_pipeline.migrate.open_index import OpenIndex
from embed_pipeline.stores import pgvector
from tests.harness.articles import DOCUMENTS, at, change, fill, require_consistent, settle, stored, text_hash
from tests.harness.fakes import asked_texts
from tests.harness.providers.loopback import waited

Open = Callable[..., OpenIndex]
Gated = tuple[OpenIndex, Callable[[int], Thread]]


def test_backfill_writes_a_document_whose_dead_letter_is_old(app: psycopg.Connection, open_docs: Open) -> None:
    """A blank text was set aside; it is mended, and the backfill is faster than the dual-write, which then finds nothing left to do."""
    index = open_docs("v1")
    app.execute("UPDATE articles SET title = '', body = '' WHERE id = 1")
    fill(index, "v1")
    settle(index)
    assert app.execute("SELECT doc_id FROM embed_pipeline.dead_letters").fetchall() == [("1",)]
    change(app, 1, "mended")
    backfill.fill_partition(index, "v1", "00")
    settle(index)
    assert "1" in stored(app, "v1")
    assert app.execute("SELECT doc_id FROM embed_pipeline.dead_letters").fetchall() == []


def test_rejected_edit_beside_an_unfinished_insert(
    app: psycopg.Connection, open_docs: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backfill has written a document and not committed; an edit makes its text blank, and a dual-write sets it aside."""
    index = open_docs("v1")

    def blank() -> None:
        app.execute("UPDATE articles SET title = NULL, body = NULL WHERE id = 1")
        dual_write.sync(index, budget_seconds=0.2)

    monkeypatch.setattr(pgvector, "LOCK_WAIT_MS", 100)
    at("insert_new.written", blank)
    fill(index, "v1")
    settle(index)
    assert "1" not in stored(app, "v1")


def test_documents_that_change_after_their_vectors_were_copied(
    app: psycopg.Connection, second_app: psycopg.Connection, open_docs: Open
) -> None:
    """Vectors are copied before any document is locked: those of a document that is edited, deleted or held by then must go again."""
    index = open_docs("v1")

    def meanwhile() -> None:
        change(app, 1, "edited")
        app.execute("DELETE FROM articles WHERE id = 2")
        second_app.execute("DELETE FROM articles WHERE id = 3")

    at("insert_new.copied", meanwhile)
    at("store.committed", second_app.commit)
    backfill.fill_partition(index, "v1", "00")
    left = app.execute("SELECT doc_id FROM embed_pipeline.docs__v1__vectors WHERE doc_id IN ('1', '2', '3')").fetchall()
    assert left == []
    fill(index, "v1")
    settle(index)
    assert "1" in stored(app, "v1")


def test_a_dual_write_is_at_a_document_whose_vectors_were_copied(app: psycopg.Connection, open_docs: Open) -> None:
    """The dual-write has the row and wants the vectors, the backfill has the vectors and wants the row: one of them gives way at once."""
    index = open_docs("v1")
    change(app, 1, "edited")
    holding, copied = threading.Event(), threading.Event()

    def hold() -> None:
        holding.set()
        assert copied.wait(20)

    at("replace.inserted", hold)
    at("insert_new.copied", copied.set)
    with ThreadPoolExecutor(1) as pool:
        syncing = pool.submit(dual_write.sync, index)
        assert holding.wait(20)
        report = backfill.fill_partition(index, "v1", "00")
        assert [result.error for result in syncing.result()] == [""]
    assert report.documents == DOCUMENTS // 4
    fill(index, "v1")
    settle(index)


def test_backfill_leaves_locked_documents_and_comes_back(
    app: psycopg.Connection, second_app: psycopg.Connection, open_docs: Open
) -> None:
    index = open_docs("v1")
    second_app.execute("SELECT FROM articles WHERE id = 1 FOR UPDATE")
    seen: list[int] = []

    def release(progress: backfill.Progress) -> None:
        seen.append(progress.written)
        second_app.rollback()

    report = backfill.fill_partition(index, "v1", "00", release)
    assert seen[0] == report.documents - 1
    assert report.written == report.documents
    assert "1" in stored(app, "v1")


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
        first.update(app.execute("SELECT doc_id, xmin::text FROM embed_pipeline.docs__v1__documents").fetchall())

    first: dict[str, str] = {}
    at("backfill.embedded", overtake)
    fill(index, "v1")
    now = dict(app.execute("SELECT doc_id, xmin::text FROM embed_pipeline.docs__v1__documents").fetchall())
    assert first.keys() == {"1"}
    assert now["1"] == first["1"]
    settle(index)


def test_backfill_does_not_resurrect_a_deleted_document(app: psycopg.Connection, open_docs: Open) -> None:
    index = open_docs("v1")
    at("backfill.embedded", lambda: app.execute("DELETE FROM articles WHERE id = 1"))
    fill(index, "v1")
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


def test_connection_goes_in_the_moment_of_a_rollback(open_docs: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all of a batch could be inserted at once, and the server goes before it is undone: an outage, and the batch is kept."""
    index = open_docs("v1")
    insert, gone = pgvector.PgvectorStore._insert, []

    def insert_and_lose(self: pgvector.PgvectorStore, conn: psycopg.Connection, *rest: Any) -> Any:
        cursor = insert(self, conn, *rest)
        if gone:
            return cursor
        gone.append(True)
        conn.close()
        return SimpleNamespace(rowcount=0)

    monkeypatch.setattr(pgvector.PgvectorStore, "_insert", insert_and_lose)
    fill(index, "v1")
    assert gone
    require_consistent(index)


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
# Behind copied vectors an insert waits for 200 ms and begins anew. Who waits for longer waits until the gate opens.
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


def test_document_goes_to_another_partition_under_the_insert(app: psycopg.Connection, gated: Gated) -> None:
    """A partitioned table: the row goes to another partition after the statement's snapshot and before its lock. PostgreSQL ends such a
    statement, also one that skips what is locked."""
    index, closed = gated
    moving: list[Thread] = []
    at("insert_new.copied", lambda: moving.append(closed(2)))
    fill(index, "v1")
    moving[0].join()
    settle(index)
    assert "52" in stored(app, "v1")


def test_document_goes_to_another_partition_under_the_canary(app: psycopg.Connection, gated: Gated) -> None:
    """The same under the full comparison, which proves with a document that its changes arrive. It takes the first one that it finds."""
    index, closed = gated
    fill(index, "v1")
    settle(index)
    moving = closed(1)
    compared = verify.reconcile(index)
    moving.join()
    assert not compared.rearmed
    settle(index)
    assert "51" in stored(app, "v1")
