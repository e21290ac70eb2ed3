"""Dual-write against a changing table: each test stops the worker at a named moment and changes the document there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import psycopg
import pytest

from embed_pipeline import signals
from embed_pipeline.documents import inbox, queue
from embed_pipeline.errors import EmbedderError, WrongSpace
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, dual_write
from tests.harness.articles import at, change, fill, require_consistent, serve, settle, stored, text_hash
from tests.harness.clock import Clock
from tests.harness.fakes import asked_texts
from tests.harness.providers.loopback import waited
from tests.races.hands import WAITS_FOR_A_LOCK, claim, distribute, queued, removed, take_claims_over, working

Open = Callable[..., OpenIndex]


def test_read_update_write(app: psycopg.Connection, open_filled: Open) -> None:
    """The text changes while its old form is being embedded: that is written all the same, and what came after it stays to be done."""
    index = open_filled()
    change(app, 1, "first")
    at("dual_write.embedded", lambda: change(app, 1, "second"))
    with working(index) as work:
        distribute(index)
        assert work.batch() == 1
        assert stored(app, "v1")["1"] == text_hash("title 1\n\nfirst")
    settle(index)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nsecond")


def test_overtaken_text_is_written_and_its_row_goes_on(app: psycopg.Connection, open_filled: Open) -> None:
    """The newer change is distributed before the older text is written: the acknowledgement leaves the row, from the next number on."""
    index = open_filled()
    change(app, 1, "first")
    seqs: list[int] = []

    def overtake() -> None:
        seqs.extend(app.execute("SELECT seq FROM embed_pipeline.pending").fetchone() or ())
        app.execute("DELETE FROM articles WHERE id = 1")
        app.execute("INSERT INTO articles (id, title, body) VALUES (1, 'title 1', 'second')")
        distribute(index)

    at("dual_write.embedded", overtake)
    with working(index) as work:
        distribute(index)
        work.batch()
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nfirst")
    left = app.execute("SELECT claim, since_seq, removed FROM embed_pipeline.pending").fetchall()
    # What was announced as removed stays so until a worker has looked.
    assert left == [(None, seqs[0] + 1, True)]
    settle(index)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nsecond")


def test_document_that_is_edited_all_the_time_moves_forward(app: psycopg.Connection, open_filled: Open) -> None:
    """An edit in every batch: each one is stored in its turn, and a drain to a mark ends."""
    index = open_filled()
    change(app, 1, "edit 0")
    edits, seen = count(1), []

    def edit() -> None:
        seen.append(stored(app, "v1")["1"])
        change(app, 1, f"edit {next(edits)}")
        distribute(index)

    with index.connection() as conn:
        mark = dual_write.distributor(index).take_mark(conn)
    signals.listen("dual_write.embedded", edit)
    assert dual_write.drain(index, "v1", mark).left == 0
    for _ in range(3):
        with working(index) as work:
            work.batch()
    signals.forget_all()
    numbers = [text_hash(f"title 1\n\nedit {number}") for number in range(len(seen))]
    assert seen[1:] == numbers[: len(seen) - 1], "it stood still, or went back"
    settle(index)


def test_read_delete_write(app: psycopg.Connection, open_filled: Open) -> None:
    """The document goes while it is being embedded: its vector is written, announced as removed, and goes with the next batch."""
    index = open_filled()
    change(app, 1, "first")
    at("dual_write.embedded", lambda: app.execute("DELETE FROM articles WHERE id = 1"))
    with working(index) as work:
        distribute(index)
        work.batch()
    assert queued(index) == ["1"]
    assert removed(index) == {"1"}
    settle(index)
    assert "1" not in stored(app, "v1")


def test_delete_reinsert_write(app: psycopg.Connection, open_filled: Open) -> None:
    index = open_filled()
    change(app, 1, "first")

    def reborn() -> None:
        app.execute("DELETE FROM articles WHERE id = 1")
        app.execute("INSERT INTO articles (id, title, body) VALUES (1, 'title 1', 'reborn')")

    at("dual_write.embedded", reborn)
    dual_write.sync(index)
    settle(index)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nreborn")


def test_gone_then_back_while_a_worker_removes_it(app: psycopg.Connection, open_filled: Open) -> None:
    """A worker saw the document gone; it came back and was embedded by another worker before the first one acts."""
    index = open_filled()
    app.execute("DELETE FROM articles WHERE id = 1")

    def back_and_embedded() -> None:
        app.execute("INSERT INTO articles (id, title, body) VALUES (1, 'title 1', 'back')")
        take_claims_over(app)
        dual_write.sync(index)

    at("dual_write.read", back_and_embedded)
    settle(index)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nback")


def test_ack_does_not_remove_newer_request(app: psycopg.Connection, open_filled: Open) -> None:
    """A change that is distributed after the claim gives the row another number, and survives the acknowledgement of the older one."""
    index = open_filled()
    change(app, 1, "first")
    distribute(index)
    with index.connection() as conn:
        held = queue.claim(conn, "docs", "v1", limit=10)
        change(app, 1, "second")
        distribute(index)
        with conn.transaction():
            assert queue.lock_claimed(conn, held, ["1"]) == ["1"]
            assert queue.acknowledge(conn, held, ["1"]) == set()
        queue.end_claim(conn, held)
        assert queue.pending(conn, "docs", "v1") == 1
    settle(index)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nsecond")


def test_text_is_read_after_the_claim(app: psycopg.Connection, open_filled: Open) -> None:
    """What is committed and distributed until the claim is in the text that is read: nothing else may be acknowledged."""
    index = open_filled()
    change(app, 1, "first")
    distribute(index)
    at("dual_write.claimed", lambda: change(app, 1, "second"))
    with working(index) as work:
        work.batch()
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nsecond")


def test_claim_crash(app: psycopg.Connection, open_docs: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker dies after its claim; who finds that it has stopped counting does the work."""
    monkeypatch.setattr(queue, "LEASE_SECONDS", 0.2)
    index = open_docs("v1")
    fill(index, "v1")
    change(app, 1, "first")
    distribute(index)
    assert claim(index).seqs.keys() == {"1"}
    settle(index)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nfirst")


def test_a_lease_is_judged_by_the_heartbeat_and_by_no_time_of_day(
    app: psycopg.Connection, open_filled: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the database's clock says of a claim does not matter; only who does not count for a lease's time by the observer's own is dead."""
    index = open_filled()
    change(app, 1, "first")
    distribute(index)
    held, clock = claim(index), Clock.of(queue, monkeypatch, now=1_000.0)
    leases = queue.Leases(20.0)
    with index.connection() as conn:
        assert leases.free_dead(conn, "docs", "v1") == 0
        # As if the database's clock had been set by years, back and forward: there is no time of day in a claim.
        app.execute("UPDATE embed_pipeline.pending SET since = since - interval '3 years'")
        for _ in range(3):
            clock.now += 15
            queue.beat(conn, held)
            assert leases.free_dead(conn, "docs", "v1") == 0
        clock.now += 15
        assert leases.free_dead(conn, "docs", "v1") == 0
        clock.now += 15
        assert leases.free_dead(conn, "docs", "v1") == 1
    times = app.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'embed_pipeline' AND table_name = 'claims' "
        "AND data_type LIKE '%time%'"
    ).fetchall()
    assert times == []


def test_taken_over_claim_writes_nothing(app: psycopg.Connection, open_filled: Open) -> None:
    """The zombie: it has stopped counting and another worker took over; it wakes with a vector in hand and writes nothing."""
    index = open_filled()
    change(app, 1, "first")
    distribute(index)
    taken: list[queue.Claim] = []

    def take_over() -> None:
        take_claims_over(app)
        taken.append(claim(index))

    at("dual_write.embedded", take_over)
    with working(index) as work:
        assert work.batch() == 1
        assert work.result.written == 0
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nbody 1")
    assert taken[0].seqs.keys() == {"1"}
    assert app.execute("SELECT claim FROM embed_pipeline.pending").fetchall() == [(taken[0].id,)], (
        "the zombie gave away what is another's"
    )


def test_text_comes_back_while_a_worker_writes(app: psycopg.Connection, open_docs: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker has replaced A by B and not committed; the text goes back to A, and a second worker looks.

    For everybody else the vector of A still stands there. If the second worker took that for done, B would be what stays.
    """
    monkeypatch.setattr(inbox, "LOCK_WAIT_MS", 100)
    index = open_docs("v1")
    fill(index, "v1")
    change(app, 1, "another")

    def back_again() -> None:
        change(app, 1, "body 1")
        with index.connection() as conn:
            # The worker's row is held: the distributor gives up and comes again.
            assert dual_write.distributor(index).distribute(conn) == 0
        with working(index) as second:
            assert second.batch() == 0

    at("replace.written", back_again)
    dual_write.sync(index)
    settle(index)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nbody 1")


def test_a_document_is_claimed_by_one_worker(app: psycopg.Connection, open_filled: Open) -> None:
    index = open_filled()
    change(app, 1, "first")
    change(app, 2, "free")
    distribute(index)
    held = claim(index, limit=1)
    (mine,) = held.seqs
    change(app, int(mine), "second")
    distribute(index)
    assert claim(index).seqs.keys() == {"1", "2"} - {mine}
    with index.connection() as conn:
        with conn.transaction():
            queue.lock_claimed(conn, held, [mine])
            queue.acknowledge(conn, held, [mine])
        assert queue.claim(conn, "docs", "v1", limit=1).seqs[mine] > held.seqs[mine]
    take_claims_over(app)
    settle(index)


def test_release_waits_and_leaves_nothing_claimed(app: psycopg.Connection, open_filled: Open) -> None:
    """A distributor has one of the batch's rows when its worker gives the batch back: skipped, nobody would ever give it back."""
    index = open_filled()
    change(app, 1, "first")
    change(app, 2, "second")
    distribute(index)
    held = claim(index)
    change(app, 1, "again")
    locked, release = threading.Event(), threading.Event()

    def hold() -> None:
        locked.set()
        assert release.wait(20)

    at("inbox.announced", hold)
    with ThreadPoolExecutor(2) as pool, index.connection() as conn:
        distributing = pool.submit(distribute, index)
        assert locked.wait(20)
        releasing = pool.submit(queue.release, conn, held, held.seqs)
        waited(lambda: app.execute(WAITS_FOR_A_LOCK).fetchone() == (1,) or releasing.done(), "nobody waits")
        release.set()
        distributing.result(timeout=20)
        releasing.result(timeout=20)
    assert app.execute("SELECT count(*) FROM embed_pipeline.pending WHERE claim IS NOT NULL").fetchone() == (0,)
    settle(index)


def test_two_syncs_leave_nothing_claimed(app: psycopg.Connection, open_docs: Open) -> None:
    """Both work at once on the same changes; when both have returned, nothing is held."""
    first, second = open_docs("v1"), open_docs("v1")
    fill(first, "v1")
    app.execute("UPDATE articles SET body = 'edited ' || id")
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(dual_write.sync, index) for index in (first, second)]
        assert [each.error for result in both for each in result.result()] == ["", ""]
    assert app.execute("SELECT count(*) FROM embed_pipeline.claims").fetchone() == (0,)
    assert app.execute("SELECT count(*) FROM embed_pipeline.pending").fetchone() == (0,)
    settle(first)


def test_a_slow_provider_keeps_its_lease(
    app: psycopg.Connection,
    open_docs: Open,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Embedding takes longer than the lease; a second worker must not take the batch over, and pay for it again."""
    calls, slow = tmp_path / "calls", tmp_path / "slow"
    options = {"calls_file": str(calls), "wait_while": str(slow)}
    version = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "m", "dimensions": 16, "options": options}
    index = open_docs(versions={"v1": version})
    fill(index, "v1")
    calls.unlink()
    monkeypatch.setattr(queue, "LEASE_SECONDS", 0.3)
    change(app, 1, "edited")
    slow.touch()
    first = threading.Thread(target=dual_write.sync, args=(index,))
    first.start()
    waited(lambda: app.execute("SELECT count(*) FROM embed_pipeline.claims").fetchone() == (1,), "nothing was claimed")
    second = threading.Thread(target=dual_write.sync, args=(index,), kwargs={"budget_seconds": 1.0})
    second.start()
    waited(lambda: not second.is_alive() or len(asked_texts(calls)) > 1, "the second one never gave up")
    slow.unlink()
    first.join()
    second.join()
    assert asked_texts(calls) == ["title 1 edited"]
    settle(index)


def test_dead_letter_of_a_document_that_came_back(app: psycopg.Connection, open_filled: Open) -> None:
    """The zombie saw the document gone; it came back with a blank text, and the worker that took over set it aside."""
    index = open_filled()
    app.execute("DELETE FROM articles WHERE id = 1")

    def back_and_set_aside() -> None:
        app.execute("INSERT INTO articles (id, title, body) VALUES (1, NULL, NULL)")
        take_claims_over(app)
        dual_write.sync(index)

    at("dual_write.read", back_and_set_aside)
    dual_write.sync(index)
    settle(index)
    assert app.execute("SELECT doc_id FROM embed_pipeline.dead_letters").fetchall() == [("1",)]


def test_worker_never_waits_for_the_application(app: psycopg.Connection, second_app: psycopg.Connection, open_docs: Open) -> None:
    """A document that the application holds is read as it is: no row of its is ever locked, by nobody."""
    index = open_docs("v1", "v2")
    fill(index, "v1")
    change(app, 1, "held")
    change(app, 2, "free")
    second_app.execute("UPDATE articles SET body = 'open' WHERE id = 1")
    result = {each.version: each for each in dual_write.sync(index)}["v1"]
    assert (result.written, result.pending) == (2, 0)
    fill(index, "v2")
    assert stored(app, "v2")["1"] == text_hash("title 1\n\nheld")
    second_app.commit()
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
    tmp_path: Path,
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


def test_rejected_edit_takes_the_old_vector_away(app: psycopg.Connection, open_filled: Open) -> None:
    index = open_filled()
    app.execute("UPDATE articles SET title = NULL, body = NULL WHERE id = 4")
    settle(index)
    assert "4" not in stored(app, "v1")


def test_another_versions_rows_cannot_be_stored(app: psycopg.Connection, open_filled: Open) -> None:
    """The CHECKs of a version's table pin its space."""
    open_filled()
    with pytest.raises(psycopg.errors.CheckViolation):
        app.execute("UPDATE embed_pipeline.docs__v1 SET fingerprint = repeat('0', 64)")
    with pytest.raises(psycopg.errors.DataException):
        app.execute("UPDATE embed_pipeline.docs__v1 SET embedding = '[1,2,3]'")


def test_changed_model_under_a_registered_name_is_refused(app: psycopg.Connection, open_docs: Open) -> None:
    index = open_docs("v1")
    app.execute("ALTER TABLE embed_pipeline.index_versions DISABLE TRIGGER check_version_change")
    app.execute("UPDATE embed_pipeline.index_versions SET fingerprint = repeat('0', 64)")
    with pytest.raises(WrongSpace, match="not the one that was registered"):
        backfill.fill_partition(index, "v1", "00")
