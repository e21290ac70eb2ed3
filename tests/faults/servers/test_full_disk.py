"""The disk of the server is full, really: a small file system under the version's tables. What is done is kept; more room and the same
command go on."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from embed_pipeline.errors import DatabaseUnavailable
from embed_pipeline.migrate import ann_index, backfill, dual_write
from embed_pipeline.postgres import failures
from tests.faults.servers.conftest import DOCUMENTS, Calls, Open
from tests.harness.articles import fill
from tests.harness.postgres.seen import require_all_true
from tests.harness.postgres.small_disk import Room

# 4 KB for a vector: two of them fill a page, so that a small file system is soon full.
DIMENSIONS = 1000


@pytest.fixture
def full_url(room: Room, fragile_url: str) -> str:
    """The database's new tables and indexes go to the small file system; the documents are elsewhere."""
    room(1)
    with psycopg.connect(fragile_url, autocommit=True) as admin:
        name = admin.info.dbname
        admin.execute(sql.SQL("ALTER DATABASE {} SET default_tablespace = tiny").format(sql.Identifier(name)))
    return fragile_url


def test_writing(full_url: str, room: Room, open_fragile: Open, calls: Calls) -> None:
    index = open_fragile("v1", dimensions=DIMENSIONS)
    with pytest.raises(psycopg.errors.DiskFull) as caught:
        backfill.fill_partition(index, "v1", "00")
    said = failures.sentence(caught.value)
    assert said is not None
    assert said.message.startswith("PostgreSQL has no disk space left: ")
    assert said.next_step is not None
    assert said.next_step.endswith("make room on the server and run the same command again.")
    with psycopg.connect(full_url, autocommit=True) as app:
        kept = {f"title {n} body {n}" for (n,) in app.execute("SELECT doc_id FROM embed_pipeline.docs__v1")}
        app.execute("UPDATE articles SET body = 'the application goes on' WHERE id = 150")
    assert kept, "some batches fitted"
    before = len(calls.paid("v1"))
    room(16)
    assert sum(backfill.fill_partition(index, "v1", key).written for key in ("00", "01")) + len(kept) == DOCUMENTS
    assert kept.isdisjoint(calls.paid("v1")[before:])
    require_all_true(full_url, index, "v1")


def test_building_the_index(full_url: str, room: Room, open_fragile: Open) -> None:
    """The failed build leaves no invalid index behind: nothing would use it, and every write would pay for it."""
    room(16)
    index = open_fragile("v1", dimensions=DIMENSIONS)
    for key in ("00", "01"):
        backfill.fill_partition(index, "v1", key)
    room(0)
    with pytest.raises(psycopg.errors.DiskFull):
        ann_index.build(index, "v1")
    with psycopg.connect(full_url, autocommit=True) as app:
        assert app.execute("SELECT to_regclass('embed_pipeline.docs__v1__hnsw')").fetchone() == (None,)
        assert app.execute("SELECT state FROM embed_pipeline.versions").fetchall() == [("building",)]
    room(16)
    assert ann_index.build(index, "v1").valid
    require_all_true(full_url, index, "v1")


@pytest.mark.parametrize("handed_over", [True, False])
def test_dual_write_reports_it_and_loses_nothing(full_url: str, room: Room, open_fragile: Open, handed_over: bool) -> None:
    """The disk is full when changes are handed over, or when they are written."""
    room(16)
    index = open_fragile("v1", dimensions=DIMENSIONS)
    fill(index, "v1")
    with psycopg.connect(full_url, autocommit=True) as app:
        app.execute("INSERT INTO articles SELECT n, 'new', 'text ' || n FROM generate_series(1001, 1500) AS n")
        if handed_over:
            with index.connection() as conn:
                assert dual_write.distributor(index).distribute(conn) == 500
        room(0)
        if handed_over:
            (result,) = dual_write.sync(index)
            assert result.error.startswith("PostgreSQL has no disk space left: ")
            assert result.pending > 0
        else:
            with pytest.raises(DatabaseUnavailable, match="^PostgreSQL has no disk space left: "):
                dual_write.sync(index)
    room(20)
    require_all_true(full_url, index, "v1")
