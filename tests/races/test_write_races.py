"""Dual-write against a changing table: each test stops the worker at a named moment and changes the document there."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import psycopg
import pytest

from embed_pipeline.documents import queue
from embed_pipeline.errors import EmbedderError, WrongSpace
from embed_pipeline.migrate import backfill, dual_write
from embed_pipeline.migrate.open_index import OpenIndex
from tests.harness.articles import at, change, declared, fill, require_consistent, serve, settle, stored, text_hash
from tests.harness.fakes import asked_texts
from tests.races import workers

Open = Callable[..., OpenIndex]


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

    at("replace.written", back_again)
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
    version = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "m", "dimensions": 16, "options": options}
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


@pytest.mark.parametrize("moment", ["insert_new.written", "replace.locked", "replace.written"])
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


def test_frozen_in_its_copy_a_worker_holds_nobody_up(app: psycopg.Connection, open_docs: Open, tmp_path: Path) -> None:
    """While a COPY waits for its rows PostgreSQL looks at no timeout: nothing may be held then that an application waits for."""
    index = open_docs("v1")
    worker = get_context("spawn").Process(
        target=workers.freeze_at, args=(index.spec.model_dump_json(), "store.copying", 60_000, tmp_path / "frozen")
    )
    worker.start()
    _until((tmp_path / "frozen").exists)
    app.execute("SET statement_timeout = '20s'")
    app.execute("DELETE FROM articles WHERE id = 1")
    app.execute("UPDATE articles SET id = 1001, body = 'edited' WHERE id = 2")
    app.execute("RESET statement_timeout")
    os.kill(worker.pid or 0, signal.SIGCONT)
    worker.join()
    assert worker.exitcode == 0
    fill(index, "v1")
    settle(index)
    assert {"1", "2"}.isdisjoint(stored(app, "v1"))


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


def test_failing_provider_marks_nothing_done(app: psycopg.Connection, open_docs: Open, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """A systemic failure stops the run in the provider's words: no dead letter, no completed partition."""
    down = tmp_path / "down"
    down.touch()
    version = {
        "provider": "tests.harness.fakes:HashEmbedder",
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
    v1 = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "model-v1", "dimensions": 16, "options": {"salt": "v1"}}
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
