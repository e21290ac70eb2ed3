"""A partition that is filled is compared with its documents: what came in between, and what was altered behind the back of capture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread

import psycopg
import pytest

from embed_pipeline.catalog import partitions
from embed_pipeline.errors import FencedOff
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill
from tests.harness.articles import DOCUMENTS, at, change, fill, settle, stored, text_hash
from tests.races.hands import end, queued, removed

Open = Callable[..., OpenIndex]
Gated = tuple[OpenIndex, Callable[[int], Thread]]


@pytest.fixture
def open_docs(open_docs: Open) -> Open:
    """In four partitions, so that one of them is neither the first nor the last."""
    return lambda *names, **overrides: open_docs(*names, **{"partitions": 4} | overrides)


def test_comparison_that_dies_and_a_partition_that_is_opened_again(app: psycopg.Connection, open_docs: Open) -> None:
    """What died between closing and marking left the partition closed and unfilled; the next run opens it under another epoch."""
    index = open_docs("v1")
    at("backfill.compared", end)
    with pytest.raises(KeyboardInterrupt):
        backfill.fill_partition(index, "v1", "00")
    assert "00" in backfill.unfilled(app, index, "v1")
    app.execute("DELETE FROM embed_pipeline.docs__v1 WHERE doc_id = '1'")
    assert backfill.fill_partition(index, "v1", "00").written == 1
    assert "00" not in backfill.unfilled(app, index, "v1")
    fill(index, "v1")
    settle(index)


def test_partition_is_opened_again_while_it_is_compared(app: psycopg.Connection, open_docs: Open) -> None:
    """The mark belongs to the comparison that took the epoch: what was inserted since, it has not seen."""
    index = open_docs("v1")

    def reopened() -> None:
        assert partitions.open_to_fill(app, "docs", "v1", "00") is not None

    at("backfill.compared", reopened)
    with pytest.raises(FencedOff, match="opened or closed by another run"):
        backfill.fill_partition(index, "v1", "00")
    assert "00" in backfill.unfilled(app, index, "v1")


def test_filled_partition_is_compared_and_queued_and_never_inserted_into(app: psycopg.Connection, open_docs: Open) -> None:
    """A version that serves is mended by the queue alone: an insert past it could bring back what is deleted."""
    index = open_docs("v1")
    fill(index, "v1")
    app.execute("DELETE FROM embed_pipeline.docs__v1 WHERE doc_id = '1'")
    app.execute("UPDATE embed_pipeline.docs__v1 SET doc_id = '700' WHERE doc_id = '2'")
    report = backfill.fill_partition(index, "v1", "00")
    assert (report.written, report.documents) == (0, DOCUMENTS // 4)
    assert set(queued(index)) == {"1", "2", "700"}
    assert removed(index) == {"700"}
    settle(index)
    assert {"1", "2"} <= stored(app, "v1").keys()


@contextmanager
def unseen(app: psycopg.Connection) -> Iterator[None]:
    """What is done meanwhile leaves nothing in the inbox, and the shape of the table as it is."""
    with app.transaction():
        yield
        app.execute("DELETE FROM embed_pipeline.inbox")


def test_document_that_changes_while_its_partition_is_filled_is_hashed_again(app: psycopg.Connection, open_docs: Open) -> None:
    """The comparison need not hash what this run has hashed, unless the row is younger than the run."""
    index = open_docs("v1")

    def meanwhile() -> None:
        with unseen(app):
            change(app, 1, "unseen")

    at("backfill.embedded", meanwhile)
    backfill.fill_partition(index, "v1", "00")
    assert queued(index) == ["1"]
    fill(index, "v1")
    settle(index)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nunseen")


ALTERED = {
    "gone": "DELETE FROM embed_pipeline.docs__v1 WHERE doc_id = '1'",
    "of a dual-write, and of another text": "UPDATE embed_pipeline.docs__v1 SET source_hash = sha256('other'), epoch = NULL WHERE doc_id = '1'",
    "set aside": "INSERT INTO embed_pipeline.dead_letters VALUES ('docs', 'v1', '1', sha256('other'), 'a zombie wrote it')",
}


@pytest.mark.parametrize("row", ALTERED)
def test_what_a_fill_wrote_and_somebody_altered_is_seen_by_its_comparison(
    app: psycopg.Connection, open_docs: Open, row: str
) -> None:
    """A slice counts as it was written only where every document has its row, of this fill, and none a dead letter."""
    index = open_docs("v1")
    at("backfill.closed", lambda: app.execute(ALTERED[row]))  # type: ignore[arg-type]
    backfill.fill_partition(index, "v1", "00")
    assert queued(index) == ["1"]
    fill(index, "v1")
    settle(index)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nbody 1")


def test_row_of_a_subtransaction_that_runs_when_the_fill_begins_is_hashed_again(
    app: psycopg.Connection, second_app: psycopg.Connection, open_docs: Open
) -> None:
    """A savepoint's rows carry its own id, of which a snapshot says too little: only what is older than all that ran then is settled."""
    index = open_docs("v1")
    second_app.execute("SAVEPOINT s")
    second_app.execute("UPDATE articles SET body = 'unseen' WHERE id = 20")
    second_app.execute("RELEASE SAVEPOINT s")
    second_app.execute("DELETE FROM embed_pipeline.inbox")
    at("backfill.embedded", second_app.commit)
    backfill.fill_partition(index, "v1", "01")
    assert queued(index) == ["20"]
    fill(index, "v1")
    settle(index)
    assert stored(app, "v1")["20"] == text_hash("title 20\n\nunseen")


def test_columns_that_are_swapped_while_a_partition_is_filled(app: psycopg.Connection, open_docs: Open) -> None:
    """New texts in old rows: another shape, and every row of the partition is hashed again."""
    index = open_docs("v1")
    at("backfill.embedded", lambda: swap_columns(app))
    backfill.fill_partition(index, "v1", "00")
    assert len(queued(index)) == DOCUMENTS // 4
    fill(index, "v1")
    settle(index)
    assert stored(app, "v1")["1"] == text_hash("body 1\n\ntitle 1")


def test_partition_of_the_table_that_is_exchanged_while_it_is_filled(app: psycopg.Connection, open_docs: Open) -> None:
    """The new partition was loaded before the run began: its rows are old, and their texts are others."""
    app.execute(
        "DROP TABLE articles;"
        "CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text) PARTITION BY RANGE (id);"
        "CREATE TABLE one PARTITION OF articles FOR VALUES FROM (0) TO (100);"
        "INSERT INTO articles SELECT n, 'title ' || n, 'body ' || n FROM generate_series(1, 60) AS n;"
        "CREATE TABLE two (LIKE articles INCLUDING ALL);"
        "INSERT INTO two SELECT n, 'title ' || n, 'exchanged ' || n FROM generate_series(1, 60) AS n"
    )
    index = open_docs("v1")

    def exchange() -> None:
        with app.transaction():
            app.execute(
                "ALTER TABLE articles DETACH PARTITION one; ALTER TABLE articles ATTACH PARTITION two FOR VALUES FROM (0) TO (100)"
            )

    at("backfill.embedded", exchange)
    backfill.fill_partition(index, "v1", "00")
    with index.connection() as conn:
        (waiting,) = conn.execute("SELECT count(*) FROM embed_pipeline.queue").fetchone() or (0,)
    assert waiting == DOCUMENTS // 4
    fill(index, "v1")
    settle(index)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nexchanged 1")


def swap_columns(app: psycopg.Connection) -> None:
    with app.transaction():
        app.execute(
            "ALTER TABLE articles RENAME COLUMN title TO other; ALTER TABLE articles RENAME COLUMN body TO title;"
            "ALTER TABLE articles RENAME COLUMN other TO body"
        )
