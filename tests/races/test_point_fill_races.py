"""Points of Qdrant that a backfill inserts: beside changes, and while partitions are closed, truncated and compared. Local mode, as
test_point_races.py.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from embed_pipeline import signals
from embed_pipeline.catalog import dead_letters, partitions
from embed_pipeline.errors import FencedOff
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill
from tests.harness.articles import DOCUMENTS, at, change, fill, require_consistent, settle, text_hash
from tests.harness.stores import Declared
from tests.races.hands import by_another
from tests.stores.holding import hashes, points

Open = Callable[..., OpenIndex]


@pytest.fixture(params=["local-collections", pytest.param("local-named_vectors", marks=pytest.mark.soak)])
def store(request: pytest.FixtureRequest, qdrant_at: Callable[[str], Declared]) -> Declared:
    """Local mode: nothing here needs a server, and a test has no other process to wait for."""
    return qdrant_at(request.param)


def test_a_backfill_inserts_after_a_newer_write(app: psycopg.Connection, open_stored: Open) -> None:
    """The backfill has looked, the text changes and is dual-written, the backfill inserts: what is newer stays, and it is told so."""
    index = open_stored("v1")

    def overtake() -> None:
        change(app, 1, "newer")
        by_another(app, index)

    at("points.decided", overtake)
    report = backfill.fill_partition(index, "v1", "00")
    assert report.written == report.documents - 1
    assert hashes(index, app, "v1")["1"] == text_hash("title 1\n\nnewer")


def test_a_backfill_inserts_a_deleted_document(app: psycopg.Connection, open_stored: Open) -> None:
    """The backfill has looked, the document goes and that is worked off: the insert finds the tombstone."""
    index = open_stored("v1")

    def overtake() -> None:
        app.execute("DELETE FROM articles WHERE id = 1")
        by_another(app, index)

    at("points.decided", overtake)
    fill(index, "v1")
    assert "1" not in hashes(index, app, "v1")
    require_consistent(index)


def test_a_backfill_sets_aside_a_text_that_has_changed(app: psycopg.Connection, open_stored: Open) -> None:
    """The same in a backfill, which holds no claim: its letter would be of no text that there is."""
    index = open_stored("v1")
    app.execute("UPDATE articles SET title = '', body = '' WHERE id = 1")

    def overtake() -> None:
        change(app, 1, "words")
        by_another(app, index)

    at("reject.emptied", overtake)
    backfill.fill_partition(index, "v1", "00")
    with index.connection() as conn:
        assert dead_letters.count(conn, "docs", "v1") == 0
    assert hashes(index, app, "v1")["1"] == text_hash("words")


def test_a_comparison_waits_for_an_insert_that_is_on_its_way(app: psycopg.Connection, open_stored: Open) -> None:
    """Closing the partition waits until the request was answered: what it brings is compared."""
    index = open_stored("v1", partitions=1)
    tried: list[str] = []

    def close() -> None:
        with index.connection() as conn:
            conn.execute("SET lock_timeout = '100ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                partitions.close(conn, "docs", "v1", "00")
        tried.append("closed")

    at("qdrant.written", close)
    fill(index, "v1")
    assert tried == ["closed"]


def test_nothing_is_inserted_into_a_partition_that_was_closed(app: psycopg.Connection, open_stored: Open) -> None:
    """A run that was away for so long that another one has filled its partition: it is told so, and sends nothing."""
    index = open_stored("v1", partitions=1)
    sent: list[str] = []

    def close() -> None:
        with index.connection() as conn:
            partitions.close(conn, "docs", "v1", "00")
        signals.listen("points.decided", lambda: sent.append("a request"))

    at("points.read", close)
    with pytest.raises(FencedOff, match="Partition 00 of docs.v1 was closed"):
        backfill.fill_partition(index, "v1", "00")
    assert sent == []
    assert points(index, "v1") == []


@pytest.mark.parametrize("dies", [False, True])
def test_a_truncate_between_two_looks_of_a_backfill(app: psycopg.Connection, open_stored: Open, dies: bool) -> None:
    """The backfill has looked at its documents, all of them go, and that is announced of everything that is stored; then it writes.

    It announces them itself; where it dies before it can, the next run at the partition finds what is left.
    """
    index = open_stored("v1", partitions=1)

    def truncate() -> None:
        app.execute("TRUNCATE articles")
        by_another(app, index)

    def die() -> None:
        raise KeyboardInterrupt

    at("points.decided", truncate)
    if dies:
        at("store.committed", die)
        with pytest.raises(KeyboardInterrupt):
            backfill.fill_partition(index, "v1", "00")
        assert len(hashes(index, app, "v1")) == DOCUMENTS
    backfill.fill_partition(index, "v1", "00")
    settle(index)
    assert hashes(index, app, "v1") == {}
