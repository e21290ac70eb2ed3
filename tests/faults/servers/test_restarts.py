"""PostgreSQL is killed and comes back, and connections are cut: work goes on, and nothing that was paid for is paid for again."""

from __future__ import annotations

import signal as os_signals
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from embed_pipeline.documents.slices import SliceSize
from embed_pipeline.errors import DatabaseUnavailable, Stopped
from embed_pipeline.flow import reading
from embed_pipeline.migrate import ann_index, backfill, dual_write, follow_changes
from embed_pipeline.migrate.backfill import Progress
from embed_pipeline.postgres import session
from embed_pipeline.signals import listen
from embed_pipeline.stores.pgvector import PgvectorStore
from tests.faults.servers.conftest import BATCH, DOCUMENTS, Calls, Fragile, Open
from tests.harness.articles import fill
from tests.harness.postgres.proxy import Proxy
from tests.harness.postgres.seen import any_row, cut, require_all_true, wait_until


def once(moment: str, nth: int, action: Callable[[], object]) -> threading.Event:
    """Run `action` the nth time that the moment is reached, and never again."""
    reached, done = 0, threading.Event()

    def count() -> None:
        nonlocal reached
        reached += 1
        if reached == nth:
            action()
            done.set()

    listen(moment, count)
    return done


def fill_all(index: object, heard: list[str]) -> int:
    """Backfill v1 and v1's partitions; returns how many documents were written. `heard` gets the reasons of waiting."""

    def listener(progress: Progress) -> None:
        if progress.waiting:
            heard.append(progress.waiting)

    return sum(backfill.fill_partition(index, "v1", key, listener).written for key in ("00", "01"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("backfill.embedded", os_signals.SIGQUIT),
        ("store.copying", os_signals.SIGKILL),
        ("store.committed", os_signals.SIGQUIT),
    ],
)
def test_backfill_outlives_a_restart(
    fragile: Fragile, fragile_url: str, open_fragile: Open, calls: Calls, moment: str, number: int
) -> None:
    index, heard = open_fragile("v1"), list[str]()
    starting: list[threading.Thread] = []
    struck = once(moment, 3, lambda: starting.append(fragile.restart(number)))
    assert fill_all(index, heard) == DOCUMENTS
    assert struck.is_set()
    starting[0].join()
    assert any(reason.startswith("PostgreSQL does not answer: ") for reason in heard)
    assert calls.twice("v1") == []
    ann_index.build(index, "v1")
    require_all_true(fragile_url, index, "v1")


@pytest.mark.parametrize(
    ("moment", "condition"),
    [("store.copying", "query LIKE 'COPY %docs__v1%'"), ("backfill.embedded", "true"), ("store.committed", "true")],
)
def test_backfill_outlives_cut_connections(
    fragile_url: str, open_fragile: Open, calls: Calls, moment: str, condition: str
) -> None:
    index = open_fragile("v1")
    ended: list[int] = []
    once(moment, 3, lambda: ended.append(cut(fragile_url, condition)))
    assert fill_all(index, []) == DOCUMENTS
    assert ended[0] >= 1
    assert calls.twice("v1") == []
    require_all_true(fragile_url, index, "v1")


def test_a_paused_backfill_outlives_cut_connections(fragile_url: str, open_fragile: Open) -> None:
    """It waits for a person by asking the catalog; over a connection that is gone it would hear nothing for ever."""
    index, heard = open_fragile("v1"), list[str]()
    with psycopg.connect(fragile_url, autocommit=True) as app:
        app.execute("UPDATE embed_pipeline.control SET state = 'paused', reason = 'peak'")
        working = threading.Thread(target=fill_all, args=(index, heard), daemon=True)
        working.start()
        wait_until(lambda: any("paused" in reason for reason in heard), "the backfill waits")
        cut(fragile_url)
        wait_until(lambda: any("does not answer" in reason for reason in heard), "it notices")
        app.execute("UPDATE embed_pipeline.control SET state = 'running'")
        working.join(timeout=30)
        assert not working.is_alive()
    require_all_true(fragile_url, index, "v1")


def test_backfill_says_when_it_gives_up_and_resumes(
    fragile: Fragile, fragile_url: str, open_fragile: Open, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "GIVE_UP_SECONDS", 0.3)
    index = open_fragile("v1")

    def kill() -> None:
        # A backfill commits lazily; this commit is on the disk, and with it all before.
        with psycopg.connect(fragile_url, autocommit=True) as app:
            app.execute("UPDATE articles SET body = body WHERE id = 1")
        fragile.kill()

    once("backfill.embedded", 4, kill)
    with pytest.raises(
        DatabaseUnavailable, match=r"has not answered for \d+ s: .*Everything that was committed is kept; start the"
    ):
        fill_all(index, [])
    fragile.start()
    with psycopg.connect(fragile_url) as app:
        kept = {f"title {n} body {n}" for (n,) in app.execute("SELECT doc_id FROM embed_pipeline.docs__v1")}
    assert len(kept) >= 30
    before = len(calls.paid("v1"))
    fill_all(index, [])
    assert kept.isdisjoint(calls.paid("v1")[before:]), "what is stored is not paid for again"
    require_all_true(fragile_url, index, "v1")


class OneBatch(SliceSize):
    """Reads as many documents as are embedded at once."""

    def __init__(self, **_: int) -> None:
        super().__init__(BATCH)

    @contextmanager
    def timed(self) -> Iterator[None]:
        yield


def test_batches_in_flight_are_kept_when_reading_fails(
    fragile_url: str, open_fragile: Open, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches are answered when the third cannot be read; the first is being written, the second waits."""
    monkeypatch.setattr(reading, "SliceSize", OneBatch)
    index, reads, read = open_fragile("v1"), 0, PgvectorStore.missing
    failed = threading.Event()
    listen("backfill.embedded", lambda: failed.wait(20))
    listen("in_flight.failed", failed.set)

    def cancelled(*arguments: Any, **options: Any) -> Any:
        nonlocal reads
        reads += 1
        if reads == 3:
            wait_until(lambda: len(calls.paid("v1")) == 20, "two batches are asked for")
            raise psycopg.errors.QueryCanceled("canceling statement due to user request")
        return read(*arguments, **options)

    monkeypatch.setattr(PgvectorStore, "missing", cancelled)
    with pytest.raises(psycopg.errors.QueryCanceled):
        fill_all(index, [])
    with psycopg.connect(fragile_url) as app:
        kept = {f"title {n} body {n}" for (n,) in app.execute("SELECT doc_id FROM embed_pipeline.docs__v1")}
    assert kept == set(calls.paid("v1"))
    assert len(kept) == 20


def test_a_partition_taken_by_another_run_meanwhile_is_left_to_it(fragile_url: str, open_fragile: Open) -> None:
    index = open_fragile("v1")
    with psycopg.connect(fragile_url, autocommit=True) as other:

        def lose_it() -> None:
            cut(fragile_url)
            other.execute("SELECT pg_advisory_lock(hashtextextended('embed_pipeline.backfill.docs.v1.00', 0))")

        once("backfill.embedded", 2, lose_it)
        with pytest.raises(Stopped, match=r"Partition 00 of docs.v1 is being filled by another run"):
            fill_all(index, [])


def test_the_servers_own_leftover_session_does_not_keep_the_partition(fragile_url: str, proxy: Proxy, open_fragile: Open) -> None:
    """A cable is cut: the server does not know, and our old session still holds the partition's lock."""
    index = open_fragile("v1", url=proxy.url)
    once("backfill.embedded", 2, proxy.hang_up)
    assert fill_all(index, []) == DOCUMENTS
    require_all_true(fragile_url, index, "v1")


@pytest.mark.parametrize("times", [1, 2])
def test_an_index_is_opened_over_another_connection_once(fragile_url: str, open_fragile: Open, times: int) -> None:
    """Its first work is read and registered over a connection that nobody watches yet. Twice is no accident, and is said."""
    left = times

    def cut_it() -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            cut(fragile_url)

    listen("register.registering", cut_it)
    if times == 2:
        with pytest.raises(psycopg.errors.AdminShutdown):
            open_fragile("v1")
    index = open_fragile("v1")
    fill_all(index, [])
    require_all_true(fragile_url, index, "v1")


def test_index_build_outlives_cut_connections(fragile_url: str, open_fragile: Open) -> None:
    """The build dies with its connection; it is begun anew and leaves one valid index, and the version is ready."""
    index = open_fragile("v1")
    fill_all(index, [])
    with psycopg.connect(fragile_url, autocommit=True) as watcher, psycopg.connect(fragile_url) as writer:
        # A transaction older than the build makes it wait, so that it can be cut in the middle.
        writer.execute("DELETE FROM embed_pipeline.docs__v1 WHERE false")
        writer.execute("LOCK TABLE embed_pipeline.docs__v1 IN ROW EXCLUSIVE MODE")

        def cut_it() -> None:
            wait_until(
                lambda: any_row(watcher, "SELECT FROM pg_stat_progress_create_index WHERE phase <> 'initializing'"), "build"
            )
            cut(fragile_url, "query LIKE 'CREATE INDEX%'")
            writer.rollback()

        cutter = threading.Thread(target=cut_it)
        cutter.start()
        said: list[str] = []
        assert ann_index.build(index, "v1", lambda phase, _: said.append(phase)).valid
        cutter.join()
        assert any("PostgreSQL does not answer" in phase for phase in said)
        states = watcher.execute("SELECT state FROM embed_pipeline.versions WHERE version = 'v1'").fetchall()
        assert states == [("ready",)]


def test_two_index_builds_do_not_meet(fragile_url: str, open_fragile: Open) -> None:
    """The second one would take the first one's unfinished index for the remains of a dead build, and drop it."""
    index = open_fragile("v1")
    fill_all(index, [])
    with psycopg.connect(fragile_url, autocommit=True) as watcher, psycopg.connect(fragile_url) as writer:
        writer.execute("LOCK TABLE embed_pipeline.docs__v1 IN ROW EXCLUSIVE MODE")
        first = threading.Thread(target=ann_index.build, args=(index, "v1"))
        first.start()
        unfinished = "SELECT FROM pg_index WHERE indexrelid = to_regclass('embed_pipeline.docs__v1__hnsw') AND NOT indisvalid"
        wait_until(lambda: any_row(watcher, unfinished), "the first build")
        with pytest.raises(Stopped, match=r"The ANN index of docs.v1 is being built by another run"):
            ann_index.build(index, "v1")
        writer.rollback()
        first.join()
        assert any_row(
            watcher, "SELECT FROM pg_index WHERE indexrelid = 'embed_pipeline.docs__v1__hnsw'::regclass AND indisvalid"
        )


@pytest.mark.parametrize("moment", ["dual_write.claimed", "dual_write.embedded", "replace.written", "store.committed"])
def test_dual_write_outlives_cut_connections(fragile_url: str, open_fragile: Open, calls: Calls, moment: str) -> None:
    index = open_fragile("v1")
    fill(index, "v1")
    with psycopg.connect(fragile_url, autocommit=True) as app:
        app.execute("UPDATE articles SET body = 'edited ' || id WHERE id <= 20")
    once(moment, 1, lambda: cut(fragile_url))
    (result,) = dual_write.sync(index)
    assert (result.error, result.pending, result.written) == ("", 0, 20)
    assert calls.twice("v1") == []
    require_all_true(fragile_url, index, "v1")


def test_watch_outlives_a_restart_and_says_so(fragile: Fragile, fragile_url: str, open_fragile: Open, calls: Calls) -> None:
    index = open_fragile("v1")
    fill(index, "v1")
    stop, heard, written = threading.Event(), list[str](), list[int]()
    watching = threading.Thread(
        target=follow_changes.follow_changes,
        args=(index, stop, lambda results: written.extend(each.written for each in results), heard.append),
    )
    watching.start()
    fragile.kill()
    wait_until(lambda: bool(heard), "the watch notices")
    assert heard[0].startswith("PostgreSQL does not answer: ")
    fragile.start()
    with psycopg.connect(fragile_url, autocommit=True) as app:
        app.execute("UPDATE articles SET body = 'after the restart' WHERE id = 1")
    wait_until(lambda: sum(written) == 1, "the watch goes on")
    assert "" in heard, "that it answers again is said as well"
    # And it ends when told to while the server is away.
    fragile.kill()
    wait_until(lambda: bool(heard[-1]), "the watch notices again")
    stop.set()
    watching.join(timeout=20)
    assert not watching.is_alive()
    fragile.start()
    require_all_true(fragile_url, index, "v1")
