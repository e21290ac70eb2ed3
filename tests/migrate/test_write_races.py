"""Backfill and dual-write against a changing table: each test stops the worker at a named moment and changes the document there."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from embed_pipeline.documents import queue
from embed_pipeline.errors import EmbedderError, Stopped, WrongSpace
from embed_pipeline.migrate import backfill, dual_write
from embed_pipeline.migrate.open_index import OpenIndex
from embed_pipeline.stores import pgvector
from tests.articles import at, declared, fill, require_consistent, serve, settle, stored, text_hash
from tests.fakes import asked_texts
from tests.migrate import workers

Open = Callable[..., OpenIndex]


def change(app: psycopg.Connection, doc_id: int, text: str) -> None:
    app.execute("UPDATE articles SET body = %s WHERE id = %s", (text, doc_id))


def test_read_update_write(app: psycopg.Connection, open_docs: Open) -> None:
    """The text changes while its old form is being embedded: the old vector must not be stored under either hash."""
    index = open_docs("v1")
    fill(index, "v1")
    change(app, 1, "first")
    at("dual_write.embedded", lambda: change(app, 1, "second"))
    # One write, not two: the queue would heal a stale one, and until then it would be found for what it no longer says.
    assert dual_write.sync(index)[0].written == 1
    require_consistent(index)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nsecond")


def test_read_delete_write(app: psycopg.Connection, open_docs: Open) -> None:
    """The document goes while it is being embedded: no orphan, no resurrection."""
    index = open_docs("v1")
    fill(index, "v1")
    change(app, 1, "first")
    at("dual_write.embedded", lambda: app.execute("DELETE FROM articles WHERE id = 1"))
    assert dual_write.sync(index)[0].written == 0
    require_consistent(index)
    assert "1" not in stored(app, "v1")


def test_delete_reinsert_write(app: psycopg.Connection, open_docs: Open) -> None:
    index = open_docs("v1")
    fill(index, "v1")
    change(app, 1, "first")

    def reborn() -> None:
        app.execute("DELETE FROM articles WHERE id = 1")
        app.execute("INSERT INTO articles (id, title, body) VALUES (1, 'title 1', 'reborn')")

    at("dual_write.embedded", reborn)
    assert dual_write.sync(index)[0].written == 1
    require_consistent(index)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nreborn")


def test_gone_then_back_while_a_worker_removes_it(app: psycopg.Connection, open_docs: Open) -> None:
    """A worker saw the document gone; it came back and was embedded by another worker before the first one acts."""
    index = open_docs("v1")
    fill(index, "v1")
    app.execute("DELETE FROM articles WHERE id = 1")

    def back_and_embedded() -> None:
        app.execute("INSERT INTO articles (id, title, body) VALUES (1, 'title 1', 'back')")
        dual_write.sync(index)

    at("dual_write.read", back_and_embedded)
    settle(index)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nback")


def test_ack_does_not_remove_newer_request(app: psycopg.Connection, open_docs: Open) -> None:
    """A change after the claim has a row of its own, and survives the acknowledgement of the older ones."""
    index = open_docs("v1")
    fill(index, "v1")
    change(app, 1, "first")
    with index.connection() as conn:
        claim = queue.claim(conn, "docs", "v1", limit=10, lease_seconds=60)
        change(app, 1, "second")
        assert queue.acknowledge(conn, claim, ["1"]) == 1
        assert queue.pending(conn, "docs", "v1") == 1
    settle(index)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nsecond")


def test_claim_crash(app: psycopg.Connection, open_docs: Open) -> None:
    """A worker dies after its claim; when the lease has run out another one does the work."""
    index = open_docs("v1")
    fill(index, "v1")
    change(app, 1, "first")
    with index.connection() as conn:
        queue.claim(conn, "docs", "v1", limit=10, lease_seconds=60)
    assert "1" in stored(app, "v1")
    app.execute("UPDATE embed_pipeline.change_queue SET leased_until = now() - interval '1 second'")
    settle(index)


def test_lease_expires_while_alive(app: psycopg.Connection, open_docs: Open) -> None:
    """The zombie: its lease ran out and another worker took over; it wakes with a vector in hand and writes nothing."""
    index = open_docs("v1")
    fill(index, "v1")
    change(app, 1, "first")
    taken: list[queue.Claim] = []

    def take_over() -> None:
        app.execute("UPDATE embed_pipeline.change_queue SET leased_until = now() - interval '1 second'")
        with index.connection() as conn:
            taken.append(queue.claim(conn, "docs", "v1", limit=10, lease_seconds=60))

    at("dual_write.embedded", take_over)
    result = dual_write.sync(index, budget_seconds=0.5)[0]
    assert result.written == 0
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nbody 1")
    assert taken[0].seqs.keys() == {"1"}


def test_text_comes_back_while_a_worker_writes(app: psycopg.Connection, open_docs: Open) -> None:
    """One worker has replaced A by B and not committed; the text goes back to A, and a second worker looks.

    For everybody else the vector of A still stands there. If the second worker took that for done, B would be what stays.
    """
    index = open_docs("v1")
    fill(index, "v1")
    change(app, 1, "another")

    def back_again() -> None:
        change(app, 1, "body 1")
        dual_write.sync(index, budget_seconds=0.2)

    at("replace.copied", back_again)
    dual_write.sync(index)
    settle(index)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nbody 1")


def test_a_document_is_claimed_whole_by_one_worker(app: psycopg.Connection, open_docs: Open) -> None:
    index = open_docs("v1")
    fill(index, "v1")
    change(app, 1, "first")
    change(app, 2, "free")
    with index.connection() as conn:
        held = queue.claim(conn, "docs", "v1", limit=1, lease_seconds=60)
        assert held.seqs.keys() == {"1"}
        change(app, 1, "second")
        assert queue.claim(conn, "docs", "v1", limit=10, lease_seconds=60).seqs.keys() == {"2"}
        queue.acknowledge(conn, held, ["1"])
        change(app, 1, "third")
        again = queue.claim(conn, "docs", "v1", limit=1, lease_seconds=60)
        assert len(again.seqs["1"]) == 2


def test_a_slow_provider_keeps_its_lease(
    app: psycopg.Connection,
    open_docs: Open,
    tmp_path,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Embedding takes longer than the lease; a second worker must not take the batch over, and pay for it again."""
    calls, slow = tmp_path / "calls", tmp_path / "slow"
    options = {"calls_file": str(calls), "wait_while": str(slow)}
    version = {"provider": "tests.fakes:HashEmbedder", "model_name": "m", "dimensions": 16, "options": options}
    index = open_docs(versions={"v1": version})
    fill(index, "v1")
    calls.unlink()
    monkeypatch.setattr(dual_write, "LEASE_SECONDS", 0.3)
    change(app, 1, "edited")
    slow.touch()
    first = threading.Thread(target=dual_write.sync, args=(index,))
    first.start()
    _until(lambda: app.execute("SELECT count(*) FROM embed_pipeline.change_queue WHERE lease_id IS NOT NULL").fetchone() == (1,))
    second = threading.Thread(target=dual_write.sync, args=(index,), kwargs={"budget_seconds": 1.0})
    second.start()
    _until(lambda: not second.is_alive() or len(asked_texts(calls)) > 1)
    slow.unlink()
    first.join()
    second.join()
    assert asked_texts(calls) == ["title 1 edited"]
    settle(index)


def _until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.01)


@pytest.mark.parametrize("moment", ["insert_new.copied", "replace.locked", "replace.copied"])
def test_frozen_worker_is_thrown_out(
    app: psycopg.Connection, open_docs: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A worker is stopped by SIGSTOP in the middle of its write; the application's DELETE of that document waits for a bounded time."""
    index = open_docs("v1")
    if not moment.startswith("insert"):
        fill(index, "v1")
        change(app, 1, "edited")
    worker = get_context("spawn").Process(
        target=workers.freeze_at, args=(index.spec.model_dump_json(), moment, 500, tmp_path / "frozen")
    )
    worker.start()
    _until((tmp_path / "frozen").exists)
    app.execute("SET statement_timeout = '20s'")
    app.execute("DELETE FROM articles WHERE id = 1")
    app.execute("RESET statement_timeout")
    os.kill(worker.pid or 0, signal.SIGCONT)
    worker.join()
    assert worker.exitcode == 3, "the thrown out worker noticed nothing"
    app.execute("UPDATE embed_pipeline.change_queue SET leased_until = NULL")
    fill(index, "v1")
    settle(index)
    assert "1" not in stored(app, "v1")


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


@pytest.mark.parametrize("moment", ["register.locked", "capture.canary"])
def test_frozen_holder_of_a_documents_lock_is_thrown_out(
    app: psycopg.Connection, open_docs: Open, holdout: Path, tmp_path: Path, moment: str
) -> None:
    """A registration is stopped under the documents lock, or a backfill in its canary change: every writer, or that of one document, waits
    for a bounded time, and the same command finishes the work."""
    index = open_docs("v1")
    names = ("v1", "v2") if moment.startswith("register") else ("v1",)
    declaration = declared(index.url, holdout, *names).model_dump_json()
    worker = get_context("spawn").Process(target=workers.freeze_at, args=(declaration, moment, 500, tmp_path / "frozen"))
    worker.start()
    _until((tmp_path / "frozen").exists)
    app.execute("SET statement_timeout = '20s'")
    app.execute("UPDATE articles SET body = 'new'")
    app.execute("RESET statement_timeout")
    os.kill(worker.pid or 0, signal.SIGCONT)
    worker.join()
    assert worker.exitcode == 3, "the thrown out process noticed nothing"
    again = open_docs(*names)
    for name in names:
        fill(again, name)
    settle(again)


def test_rejected_edit_beside_an_unfinished_insert(
    app: psycopg.Connection, open_docs: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backfill has written a document and not committed; an edit makes its text blank, and a dual-write sets it aside."""
    index = open_docs("v1")

    def blank() -> None:
        app.execute("UPDATE articles SET title = NULL, body = NULL WHERE id = 1")
        dual_write.sync(index, budget_seconds=0.2)

    monkeypatch.setattr(pgvector, "LOCK_WAIT_MS", 100)
    at("insert_new.copied", blank)
    fill(index, "v1")
    settle(index)
    assert "1" not in stored(app, "v1")


def test_dead_letter_of_a_document_that_came_back(app: psycopg.Connection, open_docs: Open) -> None:
    """The zombie saw the document gone; it came back with a blank text, and the worker that took over set it aside."""
    index = open_docs("v1")
    fill(index, "v1")
    app.execute("DELETE FROM articles WHERE id = 1")

    def back_and_set_aside() -> None:
        app.execute("INSERT INTO articles (id, title, body) VALUES (1, NULL, NULL)")
        app.execute("UPDATE embed_pipeline.change_queue SET leased_until = now() - interval '1 second'")
        dual_write.sync(index)

    at("dual_write.read", back_and_set_aside)
    dual_write.sync(index)
    settle(index)
    assert app.execute("SELECT doc_id FROM embed_pipeline.dead_letters").fetchall() == [("1",)]


def test_low_seq_commits_late(app: psycopg.Connection, second_app: psycopg.Connection, open_docs: Open) -> None:
    """A transaction that drew its number early commits after later numbers were worked off: no cursor passes it by."""
    index = open_docs("v1")
    fill(index, "v1")
    second_app.execute("UPDATE articles SET body = 'early' WHERE id = 1")
    change(app, 2, "late")
    settle(index)
    second_app.commit()
    settle(index)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nearly")


def test_worker_never_waits_for_the_application(app: psycopg.Connection, second_app: psycopg.Connection, open_docs: Open) -> None:
    """A document that the application holds is left for later, and the others go on: waiting is how deadlocks begin."""
    index = open_docs("v1")
    fill(index, "v1")
    change(app, 1, "held")
    change(app, 2, "free")
    second_app.execute("SELECT FROM articles WHERE id = 1 FOR UPDATE")
    result = dual_write.sync(index, budget_seconds=1.0)[0]
    assert (result.written, result.pending) == (1, 1)
    second_app.rollback()
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
        "provider": "tests.fakes:HashEmbedder",
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


def test_batches_beside_a_failing_one_are_kept(app: psycopg.Connection, open_docs: Open) -> None:
    """Three calls are under way when the first fails: what the other two brought is paid for, and stored."""
    app.execute("UPDATE articles SET body = 'boom' WHERE id = 3")
    version = {
        "provider": "tests.fakes:HashEmbedder",
        "model_name": "m",
        "dimensions": 16,
        "batch_size": 5,
        "max_in_flight": 3,
        "options": {"raise_on": "boom"},
    }
    index = open_docs(versions={"v1": version})
    with pytest.raises(EmbedderError, match="boom"):
        backfill.fill_partition(index, "v1", "00")
    assert set(stored(app, "v1")) == {str(n) for n in range(6, 16)}
    assert "00" in backfill.unfilled(app, index, "v1")


def test_failing_provider_marks_nothing_done(app: psycopg.Connection, open_docs: Open, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """A systemic failure stops the run in the provider's words: no dead letter, no completed partition."""
    down = tmp_path / "down"
    down.touch()
    version = {
        "provider": "tests.fakes:HashEmbedder",
        "model_name": "m",
        "dimensions": 16,
        "options": {"raise_while": str(down)},
    }
    index = open_docs(versions={"v1": version})
    with pytest.raises(EmbedderError, match="the provider is down"):
        backfill.fill_partition(index, "v1", "00")
    assert backfill.unfilled(app, index, "v1") == index.spec.partition_keys()
    assert app.execute("SELECT count(*) FROM embed_pipeline.dead_letters").fetchone() == (0,)


def test_candidates_failing_provider_never_delays_the_active_version(
    app: psycopg.Connection,
    open_docs: Open,
    tmp_path,  # type: ignore[no-untyped-def]
) -> None:
    down = tmp_path / "down"
    serve(open_docs("v1"), "v1")
    v1 = {"provider": "tests.fakes:HashEmbedder", "model_name": "model-v1", "dimensions": 16, "options": {"salt": "v1"}}
    v2 = v1 | {"model_name": "model-v2", "options": {"salt": "v2", "raise_while": str(down)}}
    index = open_docs(versions={"v1": v1, "v2": v2})
    fill(index, "v2")
    down.touch()
    change(app, 1, "edited")
    results = {each.version: each for each in dual_write.sync(index)}
    assert (results["v1"].error, results["v1"].pending) == ("", 0)
    assert "the provider is down" in results["v2"].error
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nedited")
    down.unlink()
    app.execute("UPDATE embed_pipeline.change_queue SET leased_until = NULL")
    settle(index)


def test_poison_document_is_set_aside_and_named(app: psycopg.Connection, open_docs: Open) -> None:
    app.execute("UPDATE articles SET title = NULL, body = '' WHERE id = 4")
    index = open_docs("v1")
    fill(index, "v1")
    assert app.execute("SELECT doc_id, reason FROM embed_pipeline.dead_letters").fetchall() == [("4", "empty text")]
    require_consistent(index)
    change(app, 4, "mended")
    settle(index)
    assert app.execute("SELECT count(*) FROM embed_pipeline.dead_letters").fetchone() == (0,)
    assert "4" in stored(app, "v1")


def test_rejected_edit_takes_the_old_vector_away(app: psycopg.Connection, open_docs: Open) -> None:
    index = open_docs("v1")
    fill(index, "v1")
    app.execute("UPDATE articles SET title = NULL, body = NULL WHERE id = 4")
    settle(index)
    assert "4" not in stored(app, "v1")


def test_another_versions_rows_cannot_be_stored(app: psycopg.Connection, open_docs: Open) -> None:
    """The CHECKs of a version's table pin its space."""
    index = open_docs("v1")
    fill(index, "v1")
    with pytest.raises(psycopg.errors.CheckViolation):
        app.execute("UPDATE embed_pipeline.docs__v1__documents SET fingerprint = repeat('0', 64)")
    with pytest.raises(psycopg.errors.DataException):
        app.execute("INSERT INTO embed_pipeline.docs__v1__vectors VALUES ('x', 0, '[1,2,3]')")


def test_changed_model_under_a_registered_name_is_refused(app: psycopg.Connection, open_docs: Open) -> None:
    index = open_docs("v1")
    app.execute("ALTER TABLE embed_pipeline.index_versions DISABLE TRIGGER check_version_change")
    app.execute("UPDATE embed_pipeline.index_versions SET fingerprint = repeat('0', 64)")
    with pytest.raises(WrongSpace, match="not the one that was registered"):
        backfill.fill_partition(index, "v1", "00")


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
