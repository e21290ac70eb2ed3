"""The throttle against a real streaming standby, real slots, real roles and a real VACUUM."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from embed_pipeline import signals
from embed_pipeline.cli import status_lines
from embed_pipeline.errors import Stopped
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill
from embed_pipeline.migrate.backfill import Progress
from embed_pipeline.migrate.opening import open_index
from embed_pipeline.report.plan import plan
from embed_pipeline.report.status import status_of
from embed_pipeline.spec import ThrottleSpec
from embed_pipeline.throttle import pressure
from tests.harness.articles import DOCUMENTS, declared
from tests.harness.postgres.standby import NAME, Replicated, eventually, replicated, replicated_servers  # noqa: F401  (fixtures)

ARTICLES = "CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text)"
FILLED = "INSERT INTO articles SELECT n, 'title ' || n, 'body ' || n FROM generate_series(1, %s) AS n"
EVENTS = "SELECT from_state, to_state, reason FROM embed_pipeline.events WHERE event = 'throttle' ORDER BY id"

Open = Callable[..., OpenIndex]


@pytest.fixture
def open_replicated(replicated: Replicated, holdout: Path) -> Iterator[Open]:  # noqa: F811
    """Opens index `docs` on the primary, with `throttle` as given, one partition."""
    opened: list[OpenIndex] = []
    with replicated.database() as url:
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(ARTICLES)
            conn.execute(FILLED, (DOCUMENTS,))

        def open_with(**throttle: Any) -> OpenIndex:
            opened.append(open_index(declared(url, holdout, "v1", partitions=1, throttle=throttle)))
            eventually(replicated.has_caught_up, "the standby has the tables")
            return opened[-1]

        yield open_with
        for index in opened:
            index.close()


class Filling:
    """A backfill that runs in a thread, and the reasons it gave while it waited."""

    def __init__(self, pool: ThreadPoolExecutor, index: OpenIndex) -> None:
        self.reasons: list[str] = []
        self._waits = threading.Event()
        signals.listen("throttle.waiting", self._waits.set)
        self.done: Future[backfill.PartitionReport] = pool.submit(backfill.fill_partition, index, "v1", "00", self._listen)

    def _listen(self, progress: Progress) -> None:
        if progress.waiting:
            self.reasons.append(progress.waiting)

    def waits(self) -> str:
        """The last reason, when it waits."""
        assert self._waits.wait(20), "the backfill did not wait"
        assert not self.done.done()
        return self.reasons[-1]


@contextmanager
def filling(index: OpenIndex) -> Iterator[Filling]:
    with ThreadPoolExecutor(1) as pool:
        yield Filling(pool, index)


def events(index: OpenIndex) -> list[tuple[str, str, str]]:
    with index.connection() as conn:
        return conn.execute(EVENTS).fetchall()


def test_backfill_waits_for_a_lagging_standby_and_goes_on(replicated: Replicated, open_replicated: Open) -> None:  # noqa: F811
    index = open_replicated(standbys=[NAME], max_lag_bytes=256 * 1024, max_lag_seconds=3600)
    replicated.hold()
    replicated.write(1024)
    eventually(lambda: replicated.lag() > 2**20, "there is lag")
    with filling(index) as running:
        assert running.waits().startswith(f"replication lag: standby {NAME!r} is 1.0 MB behind (limit 256.0 kB")
        assert index_count(index) == 0, "nothing is written while the standby lags"
        (shown,) = status_of(index.spec).throttle
        assert (shown.answer, shown.signal) == ("wait", "replication lag")
        assert any(
            "backfill of v1 waits for" in line and "replication lag" in line
            for line in status_lines.status_lines(status_of(index.spec))
        )
        replicated.release()
        assert running.done.result(30).written == DOCUMENTS
    assert [(before, after) for before, after, _ in events(index)] == [("go", "wait"), ("wait", "go")]
    assert events(index)[0][2].startswith("replication lag")
    assert status_of(index.spec).throttle[0].answer == "go"


def index_count(index: OpenIndex) -> int:
    with index.connection() as conn:
        return index.store(index.version(conn, "v1")).count(conn)


def test_time_behind_holds_too_and_no_bytes_are_no_lag(replicated: Replicated, open_replicated: Open) -> None:  # noqa: F811
    index = open_replicated(standbys=[NAME], max_lag_seconds=0.2)
    replicated.hold()
    replicated.write(1)
    eventually(lambda: replicated.sql("SELECT replay_lag > '0.3 s' FROM pg_stat_replication"), "the time behind has grown")
    with filling(index) as running:
        assert running.waits().endswith("s behind (limit 0.2 s)")
        replicated.release()
        running.done.result(30)
    eventually(replicated.has_caught_up, "all is replayed")
    with index.connection() as conn:
        assert index.throttle(index.version(conn, "v1")).look(conn).answer == "go"


def test_a_dead_standby_means_wait_and_its_return_means_go(replicated: Replicated, open_replicated: Open) -> None:  # noqa: F811
    index = open_replicated(standbys=[NAME])
    replicated.stop()
    with filling(index) as running:
        assert running.waits() == f"standby missing: {NAME!r} is declared in throttle.standbys and is not connected"
        replicated.start()
        assert running.done.result(30).written == DOCUMENTS


def test_wal_retained_for_a_dead_standby_stops_the_backfill(replicated: Replicated, open_replicated: Open) -> None:  # noqa: F811
    index = open_replicated(standbys=[NAME], slots=[NAME], max_slot_bytes=2**18, stop_slot_bytes=2**20)
    replicated.stop()
    replicated.write(512)
    with filling(index) as running:
        # Two waits are due; the one with the fixed precedence is told.
        assert running.waits().startswith("standby missing")
        replicated.write(1024)
        problem = running.done.exception(30)
    assert isinstance(problem, Stopped)
    assert f"slot {NAME!r} (nobody reads it) retains 1." in str(problem)
    assert "more than stop_slot_bytes 1.0 MB" in str(problem)
    assert problem.next_step is not None
    assert problem.next_step.endswith("embed-pipeline backfill docs v1")
    assert index_count(index) == 0
    assert events(index)[-1][1] == "stop"
    assert any("backfill of v1 was stopped: slot" in line for line in status_lines.status_lines(status_of(index.spec)))


def test_slots_alone_hold_the_backfill(replicated: Replicated, open_replicated: Open) -> None:  # noqa: F811
    index = open_replicated(slots=[NAME, "elsewhere"], max_slot_bytes=2**18)
    with index.connection() as conn:
        throttle = index.throttle(index.version(conn, "v1"))
        assert throttle.look(conn).reason == "unknown: replication slot 'elsewhere' does not exist"
    index = open_replicated(slots=[NAME], max_slot_bytes=2**18)
    replicated.stop()
    replicated.write(512)
    with filling(index) as running:
        assert running.waits().startswith(f"slot {NAME!r} (nobody reads it) retains ")
        replicated.start()
        assert running.done.result(30).written == DOCUMENTS


def test_a_plan_names_the_standbys_that_nobody_waits_for(open_replicated: Open) -> None:
    found = plan(open_replicated().spec, "v1").warnings
    assert found == (f"connected, and not named in throttle.standbys, so no backfill waits for it: {NAME}",)
    assert plan(open_replicated(standbys=[NAME]).spec, "v1").warnings == ()


@pytest.fixture
def powerless(replicated: Replicated, open_replicated: Open) -> Iterator[psycopg.Connection]:  # noqa: F811
    """A connection of a role that may see nothing of other roles' sessions."""
    url = open_replicated().url
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute('CREATE ROLE "Nobody"')
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute('SET ROLE "Nobody"')
            yield conn
        admin.execute('DROP ROLE "Nobody"')


def test_missing_rights_are_unknown_and_say_the_grant(powerless: psycopg.Connection) -> None:
    rules = ThrottleSpec(standbys=[NAME], max_active_backends=1000, max_wal_bytes_per_second=10**12)
    found = pressure.read(powerless, rules, (), None)
    grant = 'run as administrator: GRANT pg_monitor TO "Nobody";'
    assert found.unknown == (
        f"replication lag cannot be read: {grant}",
        f"active backends cannot be counted: {grant}",
    )
    powerless.execute("RESET ROLE")
    powerless.execute("REVOKE EXECUTE ON FUNCTION pg_current_wal_lsn() FROM PUBLIC")
    powerless.execute('SET ROLE "Nobody"')
    (refused,) = pressure.read(powerless, ThrottleSpec(max_wal_bytes_per_second=1), (), None).unknown
    assert refused == f"WAL rate cannot be read: permission denied for function pg_current_wal_lsn; {grant}"
    powerless.execute("RESET ROLE")
    powerless.execute('GRANT pg_monitor TO "Nobody"')
    powerless.execute('GRANT EXECUTE ON FUNCTION pg_current_wal_lsn() TO "Nobody"')
    powerless.execute('SET ROLE "Nobody"')
    found = pressure.read(powerless, rules, (), found)
    assert found.unknown == ()
    assert [standby.name for standby in found.standbys] == [NAME]
    powerless.execute("RESET ROLE")
    powerless.execute('REVOKE EXECUTE ON FUNCTION pg_current_wal_lsn() FROM "Nobody"')


def test_wal_rate_and_active_backends_are_measured(replicated: Replicated, open_replicated: Open) -> None:  # noqa: F811
    index = open_replicated()
    rules = ThrottleSpec(max_wal_bytes_per_second=1, max_active_backends=0)
    with psycopg.connect(index.url, autocommit=True) as conn, psycopg.connect(index.url, autocommit=True) as other:
        first = pressure.read(conn, rules, (), None)
        assert (first.wal_rate, first.active_backends) == (None, 0)
        replicated.write(1024)
        other.execute("SELECT pg_advisory_lock(1)")
        with ThreadPoolExecutor(1) as pool, psycopg.connect(index.url, autocommit=True) as third:
            working = pool.submit(third.execute, "SELECT pg_advisory_lock(1)")
            eventually(lambda: pressure.read(conn, rules, (), None).active_backends == 1, "one session is at work")
            other.execute("SELECT pg_advisory_unlock(1)")
            working.result(20)
        second = pressure.read(conn, rules, (), first)
        assert first.wal_position is not None
        assert second.wal_position is not None
        assert second.wal_rate == pytest.approx(
            (second.wal_position[0] - first.wal_position[0]) / (second.wal_position[1] - first.wal_position[1])
        )
        assert second.wal_position[0] - first.wal_position[0] >= 2**20


def test_a_vacuum_of_the_tables_is_seen(open_replicated: Open) -> None:
    index = open_replicated()
    rules = ThrottleSpec(wait_for_autovacuum=True)
    with index.connection() as conn, psycopg.connect(index.url, autocommit=True) as vacuuming, ThreadPoolExecutor(1) as pool:
        version = index.version(conn, "v1")
        tables = (index.source.identifier, version.table)
        conn.execute("INSERT INTO public.articles SELECT n, repeat('x', 500), '' FROM generate_series(1000, 4000) AS n")
        conn.execute("DELETE FROM public.articles WHERE id > 1000")
        assert pressure.read(conn, rules, tables, None).vacuumed == ()
        vacuuming.execute("SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1")
        running = pool.submit(vacuuming.execute, sql.SQL("VACUUM {}").format(index.source.identifier))
        eventually(
            lambda: pressure.read(conn, rules, tables, None).vacuumed == ("VACUUM of public.articles",),
            "the vacuum of the table is seen",
        )
        assert pressure.read(conn, rules, tables[1:], None).vacuumed == (), "another table's vacuum is none of ours"
        vacuuming.cancel()
        with pytest.raises(psycopg.errors.QueryCanceled):
            running.result(20)
