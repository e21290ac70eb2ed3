"""A comparison does not remove in bulk what only looks as if it were gone, until a person has said how much may go."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embed_pipeline.documents import shape
from embed_pipeline.errors import LossRefused
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, dual_write, loading, verify
from embed_pipeline.migrate.dual_write import VersionSync
from embed_pipeline.migrate.follow_changes import follow_changes
from embed_pipeline.migrate.loss import is_too_much
from embed_pipeline.report.status import status_of
from embed_pipeline.spec import IndexSpec
from tests.harness.articles import at, declared, fill, settle, stored

Open = Callable[..., OpenIndex]


@pytest.fixture
def open_docs(open_docs: Open) -> Open:
    """In four partitions, so that one of them is neither the first nor the last."""
    return lambda *names, **overrides: open_docs(*names, **{"partitions": 4} | overrides)


MANY = 120


@pytest.fixture
def full(app: psycopg.Connection[Any], open_docs: Open) -> OpenIndex:
    """v1 holds MANY documents."""
    app.execute("INSERT INTO articles (id, title, body) SELECT n, 't ' || n, 'b' FROM generate_series(61, %s) AS n", (MANY,))
    index = open_docs("v1")
    fill(index, "v1")
    return index


def swap_for_an_empty_one(app: psycopg.Connection[Any]) -> None:
    app.execute("ALTER TABLE articles RENAME TO articles_before; CREATE TABLE articles (LIKE articles_before INCLUDING ALL)")


def test_what_is_too_much() -> None:
    assert [is_too_much(*each) for each in ((100, 100, 0.1), (12, 120, 0.1), (13, 120, 0.1), (1, 101, 0.0))] == [
        False,
        False,
        True,
        True,
    ]
    assert [is_too_much(13, 120, 0.1, accepted) for accepted in (12, 13, 14)] == [True, False, False]


def test_table_that_was_swapped_for_an_empty_one(app: psycopg.Connection[Any], full: OpenIndex, open_docs: Open) -> None:
    """The number that was said has to be at least the number that would go. Until then all of it stays, and is doubted."""
    swap_for_an_empty_one(app)
    index = open_docs("v1")
    for accepted in (None, MANY - 1):
        with pytest.raises(LossRefused) as refused:
            verify.reconcile(index, accepted)
        assert (
            f"remove {MANY} of the {MANY} documents of v1: public.articles does not show them any more" in refused.value.message
        )
        assert f"sync docs --full --accept-loss {MANY}" in str(refused.value)
    doubts = status_of(index.spec).doubts
    assert f"a comparison would have removed {MANY} of the {MANY} documents of v1" in doubts[-1]
    with index.connection() as conn:
        assert not shape.asks_for_comparison(shape.open_doubts(conn, "docs")), "a further comparison says the same"
    assert len(stored(app, "v1")) == MANY
    settle_nothing(index)
    # The new table is armed meanwhile, and the other one no more.
    app.execute("INSERT INTO articles (id, title, body) VALUES (1, 'title 1', 'body 1')")
    app.execute("DELETE FROM articles_before WHERE id > 60")
    assert app.execute("SELECT doc_ids FROM embed_pipeline.inbox").fetchall() == [(["1"],)]
    assert verify.reconcile(index, MANY - 1).queued == {"v1": MANY - 1}
    settle(index)
    assert set(stored(app, "v1")) == {"1"}
    assert status_of(index.spec).doubts == ()


def settle_nothing(index: OpenIndex) -> None:
    (found,) = dual_write.sync(index)
    assert (found.settled, found.written, found.error) == (0, 0, "")


def test_table_that_was_swapped_back(app: psycopg.Connection[Any], full: OpenIndex, open_docs: Open) -> None:
    swap_for_an_empty_one(app)
    with pytest.raises(LossRefused):
        verify.reconcile(open_docs("v1"))
    app.execute("DROP TABLE articles; ALTER TABLE articles_before RENAME TO articles")
    index = open_docs("v1")
    assert verify.reconcile(index).queued == {"v1": 0}
    assert status_of(index.spec).doubts == ()
    settle(index)
    assert len(stored(app, "v1")) == MANY


def test_partitioned_table_that_was_swapped_is_no_rotation(app: psycopg.Connection[Any], open_docs: Open) -> None:
    """Its partitions were not detached: nothing says that their rows may go."""
    app.execute("DROP TABLE articles")
    for name in ("articles", "other"):
        app.execute(f"CREATE TABLE {name} (id bigint PRIMARY KEY, title text, body text) PARTITION BY RANGE (id)")  # type: ignore[arg-type]
        app.execute(f"CREATE TABLE {name}_low PARTITION OF {name} DEFAULT")  # type: ignore[arg-type]
    app.execute("INSERT INTO articles SELECT n, 't ' || n, 'b' FROM generate_series(1, %s) AS n", (MANY,))
    index = open_docs("v1")
    fill(index, "v1")
    app.execute("ALTER TABLE articles RENAME TO articles_before; ALTER TABLE other RENAME TO articles")
    settle_nothing(open_docs("v1"))
    with pytest.raises(LossRefused):
        verify.reconcile(open_docs("v1"))
    assert len(stored(app, "v1")) == MANY


def test_truncate_and_delete_are_the_applications_word(app: psycopg.Connection[Any], full: OpenIndex) -> None:
    app.execute("DELETE FROM articles WHERE id > 20")
    settle(full)
    assert len(stored(app, "v1")) == 20
    app.execute("TRUNCATE articles")
    settle(full)
    verify.reconcile(full)
    assert stored(app, "v1") == {}


def test_comparison_of_a_partition_removes_nothing_in_bulk(
    app: psycopg.Connection[Any], full: OpenIndex, open_docs: Open
) -> None:
    """The table is swapped while the partition is being filled: what it held is no orphan by that, for a backfill."""
    index = open_docs("v1", "v2")
    at("backfill.closed", lambda: swap_for_an_empty_one(app))
    backfill.fill_partition(index, "v2", "00")
    assert len(stored(app, "v2")) == MANY // 4
    with pytest.raises(LossRefused):
        verify.reconcile(open_docs("v1", "v2"))


def test_watch_reports_it_and_goes_on(app: psycopg.Connection[Any], full: OpenIndex, open_docs: Open) -> None:
    swap_for_an_empty_one(app)
    index = open_docs("v1")
    stop, told = threading.Event(), []

    def report(results: list[VersionSync]) -> None:
        told.extend(results)
        if any("A comparison would remove" in each.error for each in results):
            app.execute("INSERT INTO articles (id, title, body) VALUES (900, 'new', 'one')")
        if any(each.written for each in results):
            stop.set()

    watching = threading.Thread(target=follow_changes, args=(index, stop, report))
    watching.start()
    watching.join(timeout=60)
    assert stop.is_set()
    stop.set()
    assert set(stored(app, "v1")) == {*map(str, range(1, MANY + 1)), "900"}


def test_stump_of_a_file(database_url: str, tmp_path: Path, holdout: Path) -> None:
    whole, stump = tmp_path / "whole.jsonl", tmp_path / "stump.jsonl"
    rows = [f'{{"id": "{n}", "text": "text {n}"}}' for n in range(MANY)]
    whole.write_text("\n".join(rows))
    stump.write_text("\n".join(rows[:100]))
    spec = declared(database_url, holdout, "v1")
    spec = IndexSpec.model_validate(spec.model_dump() | {"documents": None})
    index = loading.open_to_load(spec)
    assert loading.load(index, whole, full=True).inserted == MANY
    with pytest.raises(
        LossRefused, match=r"lacks 20 of the 120 documents of public\.docs, and --full would delete these"
    ) as refused:
        loading.load(index, stump, full=True)
    assert "--full --accept-loss 20" in str(refused.value)
    assert loading.load(index, stump, full=False).deleted == 0
    assert loading.load(index, stump, full=True, accept_loss=20).deleted == 20
