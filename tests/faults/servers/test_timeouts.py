"""A role's statement_timeout: our long statements do not die of it, the others say so in one sentence and lose nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql

from embed_pipeline.documents import census, ranges
from embed_pipeline.documents.ranges import ALL_KEYS
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import ann_index, backfill, verify
from embed_pipeline.postgres import failures
from tests.faults.servers.conftest import DOCUMENTS, Calls, Open
from tests.harness.postgres.seen import require_all_true, wait_until, waits

VERSION, LETTERS, DOCUMENTS_TABLE = "embed_pipeline.docs__v1", "embed_pipeline.dead_letters", "articles"
TIMEOUT_MS = 300
LONGER_SECONDS = 0.6


@pytest.fixture
def hurried_url(fragile_url: str) -> str:
    """Everybody's statements on this database are ended after TIMEOUT_MS; the application of the test lifts that for itself."""
    with psycopg.connect(fragile_url, autocommit=True) as admin:
        name = sql.Identifier(admin.info.dbname)
        admin.execute(sql.SQL("ALTER DATABASE {} SET statement_timeout = {}").format(name, sql.Literal(f"{TIMEOUT_MS}ms")))
        admin.execute(sql.SQL("ALTER DATABASE {} SET lock_timeout = {}").format(name, sql.Literal("10min")))
    return fragile_url


@contextmanager
def held_until_too_long(url: str, hold: str, begins: str) -> Iterator[None]:
    """Hold a lock until the package's statement that `begins` so has run for longer than the timeout, or the block is over."""
    over = threading.Event()
    with psycopg.connect(url) as holder, psycopg.connect(url, autocommit=True) as watcher:
        for each in (holder, watcher):
            each.execute("SET statement_timeout = 0")
        holder.commit()
        holder.execute(hold)  # type: ignore[arg-type]

        def let_go() -> None:
            wait_until(lambda: over.is_set() or waits(watcher, begins, LONGER_SECONDS), begins)
            holder.rollback()

        letting = threading.Thread(target=let_go)
        letting.start()
        try:
            yield
        finally:
            over.set()
            letting.join()


def test_writing(hurried_url: str, open_fragile: Open, calls: Calls) -> None:
    index = open_fragile("v1")
    lock = "LOCK TABLE embed_pipeline.docs__v1 IN SHARE MODE"
    with held_until_too_long(hurried_url, lock, "no such statement"), pytest.raises(psycopg.errors.QueryCanceled) as caught:
        backfill.fill_partition(index, "v1", "00")
    said = failures.sentence(caught.value)
    assert said is not None
    assert str(said) == (
        "PostgreSQL cancelled a statement: canceling statement due to statement timeout. "
        "Everything that was committed is kept; raise statement_timeout for this role, and run the same command again."
    )
    assert sum(backfill.fill_partition(index, "v1", key).written for key in ("00", "01")) == DOCUMENTS
    require_all_true(hurried_url, index, "v1")


def test_building_the_index(hurried_url: str, open_fragile: Open) -> None:
    index = open_fragile("v1")
    for key in ("00", "01"):
        backfill.fill_partition(index, "v1", key)
    # CONCURRENTLY waits for every transaction that has written the table, however long that takes.
    with held_until_too_long(hurried_url, "LOCK TABLE embed_pipeline.docs__v1 IN ROW EXCLUSIVE MODE", "CREATE INDEX"):
        assert ann_index.build(index, "v1").valid


@pytest.mark.parametrize(
    ("locked", "begins", "work"),
    [
        (LETTERS, "-- Every document of a slice", verify.verify),
        (VERSION, "SELECT doc_id, source_hash, array_agg", verify.reconcile),
        (VERSION, "SELECT count(*) FILTER", lambda index: compared(index)),
        (VERSION, "-- NULL: from the first one", lambda index: all_stored(index)),
        (DOCUMENTS_TABLE, "-- The key that ends a slice", lambda index: counted(index)),
        (DOCUMENTS_TABLE, "-- The next keys in order", lambda index: spread(index)),
    ],
    ids=["coverage", "whether it is emptied", "full comparison", "stored", "count", "key ranges"],
)
def test_statements_that_read_a_whole_table(
    hurried_url: str, open_fragile: Open, locked: str, begins: str, work: Callable[[OpenIndex], object]
) -> None:
    """Each is a slice; but what waits for a lock of the application, or reads from a cold disk, may take any time."""
    index = open_fragile("v1")
    for key in ("00", "01"):
        backfill.fill_partition(index, "v1", key)
    with held_until_too_long(hurried_url, f"LOCK TABLE {locked} IN ACCESS EXCLUSIVE MODE", begins):
        work(index)


def compared(index: OpenIndex) -> None:
    with index.connection() as conn:
        assert index.store(index.version(conn, "v1")).compare(conn, [ALL_KEYS], orphans=True).different == {}


def all_stored(index: OpenIndex) -> None:
    with index.connection() as conn:
        assert sum(len(ids) for ids in index.store(index.version(conn, "v1")).stored_ids(conn)) == DOCUMENTS


def counted(index: OpenIndex) -> None:
    with index.connection() as conn:
        assert census.count(conn, index.source) == DOCUMENTS


def spread(index: OpenIndex) -> None:
    with index.connection() as conn:
        assert len(ranges.cut(conn, index.source, 4)) == 4
