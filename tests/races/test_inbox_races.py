"""From the inbox to the queue: whatever commits when, each version is told of every change, and a mark means what it says."""

from __future__ import annotations

import random
import string
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import psycopg
import pytest

from embed_pipeline.documents import inbox, queue, slices
from embed_pipeline.documents.texts import DocumentText
from embed_pipeline.errors import DatabaseUnavailable
from embed_pipeline.flow.embed import embed_documents
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, cutover, dual_write, gate, retire
from tests.harness.articles import at, change, fill, settle, stored, text_hash
from tests.harness.providers.loopback import waited
from tests.races.hands import WAITS_FOR_A_LOCK, claim, distribute, queued, removed, working

Open = Callable[..., OpenIndex]


def test_writer_that_begins_while_the_floor_is_noted(
    app: psycopg.Connection, second_app: psycopg.Connection, open_docs: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number is below the floor, and it is younger than every transaction that has ended: no snapshot's xmax tells of it."""
    monkeypatch.setattr(inbox, "FLOOR_SECONDS", 0.0)
    index = open_docs("v1")
    fill(index, "v1")
    hands = dual_write.distributor(index)
    with index.connection() as conn:
        hands.distribute(conn)
        begun: list[bool] = []

        def begins() -> None:
            second_app.execute("DELETE FROM articles WHERE id = 1")
            begun.append(True)

        at("inbox.noting", begins)
        change(app, 2, "another")
        # Nothing is noted while a transaction of any database on the server is older than the last note.
        waited(lambda: hands.distribute(conn) >= 0 and bool(begun), "nothing was noted")
        for _ in range(3):
            hands.distribute(conn)
        second_app.commit()
        assert hands.distribute(conn) == 1
    settle(index)
    assert "1" not in stored(app, "v1")


def test_two_distributors_share_an_inbox(app: psycopg.Connection, open_docs: Open) -> None:
    """One locks no more rows than it is about to take, and another one has the rest."""
    index = open_docs("v1")
    app.execute("INSERT INTO articles (id, title, body) SELECT n, 'many', '' FROM generate_series(1001, 4000) AS n")
    hands = [dual_write.distributor(index), dual_write.distributor(index)]
    taken: list[int] = []
    with index.connection() as conn, index.connection() as other:

        def second() -> None:
            if not taken:
                taken.append(0)
                taken.append(hands[1].distribute(other))

        at("inbox.announced", second)
        assert hands[0].distribute(conn) + taken[1] == 3_000
    assert taken[1] == 2_000


def test_floor_moves_when_the_last_removal_is_worked_off(app: psycopg.Connection, open_docs: Open) -> None:
    """Nothing comes after it that would have anybody look: searches must not walk through its dead entries until something does."""
    index = open_docs("v1")
    fill(index, "v1")
    app.execute("DELETE FROM articles WHERE id <= 5")
    settle(index)
    last = app.execute("SELECT pg_sequence_last_value('embed_pipeline.change_seq')").fetchone()
    assert last is not None

    def moved() -> bool:
        # A transaction of any database on the server may be older than the note; whoever works anything off tries again.
        change(app, 7, "later")
        settle(index)
        floor = app.execute("SELECT removal_floor FROM embed_pipeline.indexes").fetchone()
        return floor is not None and int(floor[0]) >= int(last[0])

    # For as long as others' transactions go on ending: one of them may be older than the note.
    xmin, since, alone = 0, time.monotonic(), 0
    while not moved():
        row = app.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint").fetchone()
        if row is not None and row[0] != xmin:
            xmin, since = row[0], time.monotonic()
        older = app.execute(
            "SELECT datname, state, query FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() "
            "UNION ALL SELECT database, 'prepared', gid FROM pg_prepared_xacts"
        ).fetchall()
        alone += not older
        assert alone < 20, "no floor was moved, and nothing older ran"
        assert time.monotonic() - since < 60, f"no floor was moved, beside {older}"


def test_distributors_in_another_order_than_the_application(
    app: psycopg.Connection, second_app: psycopg.Connection, open_filled: Open
) -> None:
    """The document was edited and then deleted; who has the edit in its hands commits last. It must not take the removal back."""
    index = open_filled()
    change(app, 1, "edited")
    second_app.execute("SELECT FROM embed_pipeline.inbox FOR UPDATE")
    app.execute("DELETE FROM articles WHERE id = 1")
    assert distribute(index) == 1
    assert removed(index) == {"1"}
    second_app.rollback()
    assert distribute(index) == 1
    assert removed(index) == {"1"}
    settle(index)
    assert stored(app, "v1").keys() == {str(number) for number in range(2, 61)}


def test_version_that_is_registered_while_changes_are_distributed(
    app: psycopg.Connection, open_docs: Open, open_filled: Open
) -> None:
    """It has read the document when the change comes: who reads the versions before the rows would tell it nothing."""
    index = open_filled()
    later: list[OpenIndex] = []

    def meanwhile() -> None:
        later.append(open_docs("v1", "v2"))
        for key in later[0].spec.partition_keys():
            backfill.fill_partition(later[0], "v2", key)
        change(app, 1, "edited")

    at("inbox.distributing", meanwhile)
    assert distribute(index) == 1
    assert queued(index, "v2") == ["1"]
    settle(later[0])
    assert stored(app, "v2")["1"] == text_hash("title 1\n\nedited")


def test_retire_against_a_distributor(app: psycopg.Connection, open_served: Open) -> None:
    """It has announced changes for a version and not committed when that is retired: nothing of it stays in the queue."""
    index = open_served("v1", "v2")
    change(app, 1, "edited")
    retiring: list[Future[retire.Retired]] = []

    def meanwhile() -> None:
        retiring.append(pool.submit(retire.retire, index, "v2", "v2"))
        waited(lambda: retiring[0].done() or app.execute(WAITS_FOR_A_LOCK).fetchone() == (1,), "it neither waits nor ends")

    at("inbox.announced", meanwhile)
    with ThreadPoolExecutor(1) as pool:
        distribute(index)
        retiring[0].result(timeout=60)
    assert app.execute("SELECT DISTINCT version FROM embed_pipeline.pending").fetchall() == [("v1",)]
    settle(index)


def test_mark_waits_for_what_another_distributor_has(app: psycopg.Connection, open_filled: Open) -> None:
    """A change that was committed is in another distributor's hands: a mark that is taken now is above its number."""
    index = open_filled()
    change(app, 1, "edited")
    marking: list[Future[int]] = []

    def take_mark() -> int:
        with index.connection() as conn:
            return dual_write.distributor(index).take_mark(conn)

    def meanwhile() -> None:
        marking.append(pool.submit(take_mark))
        with pytest.raises(TimeoutError):
            marking[0].result(timeout=0.5)

    at("inbox.announced", meanwhile)
    with ThreadPoolExecutor(1) as pool:
        distribute(index)
        mark = marking[0].result(timeout=60)
    with index.connection() as conn:
        assert queue.pending(conn, "docs", "v1", mark) == 1


def test_no_mark_is_taken_over_what_cannot_be_distributed(
    app: psycopg.Connection, second_app: psycopg.Connection, open_filled: Open
) -> None:
    """A mark that leaves out what was committed before it would let a cutover pass over it."""
    index = open_filled()
    change(app, 1, "edited")
    second_app.execute("SELECT FROM embed_pipeline.inbox FOR UPDATE")
    with index.connection() as conn, pytest.raises(DatabaseUnavailable, match="could not be handed to its versions"):
        dual_write.distributor(index).take_mark(conn, deadline_seconds=0.1)


def test_the_first_change_that_waits_counts_and_not_the_last(app: psycopg.Connection, open_served: Open) -> None:
    """An edit that v1 has written and v2 has not; another one after the mark. The pointer moves to v2 only when it has the first."""
    index = open_served("v1", "v2")
    fill(index, "v2")
    gate.run(index, "v2")
    change(app, 41, "first")
    distribute(index)
    with working(index, "v1") as work:
        work.batch()

    def again() -> None:
        change(app, 41, "second")
        distribute(index)

    at("cutover.marked", again)
    before = stored(app, "v1")["41"]
    cutover.cutover(index, "v2")
    assert before == text_hash("title 41\n\nfirst")
    assert stored(app, "v2")["41"] in (before, text_hash("title 41\n\nsecond"))
    settle(index)


def test_text_from_before_a_truncate(app: psycopg.Connection, open_filled: Open) -> None:
    """A worker has read a text when the table is truncated. What it writes afterwards is announced as removed, and goes."""
    index = open_filled()
    app.execute("INSERT INTO articles (id, title, body) VALUES (100, 'new', 'one')")

    def truncated() -> None:
        app.execute("TRUNCATE articles")
        distribute(index)

    at("dual_write.embedded", truncated)
    with working(index) as work:
        distribute(index)
        work.batch()
    assert "100" in stored(app, "v1")
    assert "100" in removed(index)
    settle(index)
    assert stored(app, "v1") == {}


def test_write_between_two_slices_of_a_truncate(app: psycopg.Connection, open_filled: Open) -> None:
    """The expansion has looked at what is known to be under way when a worker writes such a text for the first time: it is stored by the
    time that the store is looked at. The other way round nobody would announce it."""
    index = open_filled()
    app.execute("INSERT INTO articles (id, title, body) VALUES (100, 'new', 'one')")
    distribute(index)
    held = claim(index)
    with index.connection() as conn:
        version = index.version(conn, "v1")
        current = slices.read_current(conn, index.source, list(held.seqs))
        batch = embed_documents(index.embedder_of(version), [DocumentText("100", *current["100"])]).batch
        app.execute("TRUNCATE articles")
        at("inbox.known", lambda: index.store(version).replace(conn, held, batch))
        distribute(index)
        queue.end_claim(conn, held)
    settle(index)
    assert stored(app, "v1") == {}


def test_distributor_dies_in_the_middle_of_a_truncate(app: psycopg.Connection, open_filled: Open) -> None:
    """Its row stays until the last slice, so the next one begins anew."""
    index = open_filled()
    app.execute("TRUNCATE articles")

    def die() -> None:
        raise KeyboardInterrupt

    at("inbox.known", die)
    with pytest.raises(KeyboardInterrupt):
        distribute(index)
    settle(index)
    assert stored(app, "v1") == {}


def test_truncate_beside_a_worker_that_holds_a_document(
    app: psycopg.Connection, second_app: psycopg.Connection, open_docs: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker is frozen with a row of the queue: the expansion gives way, ends no run, and comes again."""
    monkeypatch.setattr(inbox, "LOCK_WAIT_MS", 50)
    index = open_docs("v1")
    fill(index, "v1")
    change(app, 1, "edited")
    distribute(index)
    second_app.execute("SELECT FROM embed_pipeline.pending FOR UPDATE")
    app.execute("TRUNCATE articles")
    distribute(index)
    assert app.execute("SELECT count(*) FROM embed_pipeline.inbox").fetchone() == (1,)
    second_app.rollback()
    settle(index)
    assert stored(app, "v1") == {}


def test_key_that_the_queue_cannot_hold_is_set_aside(app: psycopg.Connection, open_docs: Open) -> None:
    """Near 2.7 kB the documents' own key holds it and that of the queue does not. It is named, and the others of its statement go on."""
    drawn = random.Random(7)
    long = "".join(drawn.choices(string.ascii_letters + string.digits + string.punctuation, k=2_690))
    app.execute("DROP TABLE articles")
    app.execute("CREATE TABLE articles (id text PRIMARY KEY, title text, body text)")
    app.execute("INSERT INTO articles SELECT 'key ' || n, 'title', 'body ' || n FROM generate_series(1, 20) AS n")
    index = open_docs("v1")
    fill(index, "v1")
    app.execute("INSERT INTO articles VALUES ('a', 't', 'b'), (%s, 't', 'b'), ('z', 't', 'b')", (long,))
    change_all = "UPDATE articles SET body = body || ' edited' WHERE id LIKE 'key%'"
    app.execute(change_all)
    assert {"a", "z", "key 1"} <= set(queued(index))
    assert app.execute("SELECT doc_id FROM embed_pipeline.unwieldy_ids").fetchall() == [(long,)]
    assert app.execute("SELECT count(*) FROM embed_pipeline.inbox").fetchone() == (0,)
    for result in dual_write.sync(index):
        assert (result.error, result.pending) == ("", 0)
    assert {"a", "z"} <= stored(app, "v1").keys()


def test_numbers_and_claims_are_committed_synchronously(app: psycopg.Connection, open_filled: Open) -> None:
    """Whatever the session has set: a number that a crash could draw again would let an old batch acknowledge a new change."""
    index = open_filled()
    change(app, 1, "edited")
    seen: list[tuple[str, tuple[str, ...] | None]] = []
    with index.connection() as conn:
        conn.execute("SET synchronous_commit = off")
        for moment in ("inbox.announced", "queue.claiming"):
            at(moment, lambda moment=moment: seen.append((moment, conn.execute("SHOW synchronous_commit").fetchone())))  # type: ignore[misc]
        dual_write.distributor(index).distribute(conn)
        held = queue.claim(conn, "docs", "v1", limit=10)
        assert conn.execute("SHOW synchronous_commit").fetchone() == ("off",)
        queue.release(conn, held, held.seqs)
        queue.end_claim(conn, held)
    assert seen == [("inbox.announced", ("on",)), ("queue.claiming", ("on",))]
    settle(index)


def test_statement_over_many_rows_leaves_a_few_rows(app: psycopg.Connection, open_docs: Open) -> None:
    """One for each thousand ids, and none for a statement that changes nothing of ours."""
    index = open_docs("v1")
    app.execute("INSERT INTO articles (id, title, body) SELECT n, 'many', '' FROM generate_series(1001, 3500) AS n")
    app.execute("UPDATE articles SET views = views + 1")
    app.execute("DELETE FROM articles WHERE id > 100000")
    sizes = app.execute("SELECT cardinality(doc_ids) FROM embed_pipeline.inbox ORDER BY id").fetchall()
    assert sorted(size for (size,) in sizes) == [500, 1_000, 1_000]
    assert len(queued(index)) == 2_500


def test_low_number_commits_late(app: psycopg.Connection, second_app: psycopg.Connection, open_filled: Open) -> None:
    """A transaction that drew its number in the inbox early commits after later ones were worked off: no floor passes it by."""
    index = open_filled()
    hands = dual_write.distributor(index)
    with index.connection() as conn:
        second_app.execute("UPDATE articles SET body = 'early' WHERE id = 1")
        change(app, 2, "late")
        assert hands.distribute(conn) == 1
        second_app.commit()
        assert hands.distribute(conn) == 1
    settle(index)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nearly")
