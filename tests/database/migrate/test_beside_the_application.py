"""A backfill beside the application: it waits for no row, leaves changes to the dual-write, and pays for every text once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, verify
from embed_pipeline.signals import listen
from tests.harness.articles import DOCUMENTS, fill, settle
from tests.harness.fakes import asked_texts

Open = Callable[..., OpenIndex]


@pytest.fixture
def paid(tmp_path: Path) -> Path:
    return tmp_path / "calls"


@pytest.fixture
def open_counted(open_docs: Open, paid: Path) -> Open:
    """Opens index `docs` with v1, whose model writes down what it is asked for."""

    def open_with(**overrides: Any) -> OpenIndex:
        options = {"salt": "v1", "calls_file": str(paid)}
        v1 = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "one", "dimensions": 16, "options": options}
        return open_docs("v1", versions={"v1": v1}, **overrides)

    return open_with


def test_a_document_that_is_edited_all_the_time_is_left_to_the_dual_write(
    app: psycopg.Connection, open_counted: Open, paid: Path
) -> None:
    """Each edit has its row in the queue; a backfill that ran after it would pay at every pass and never be done."""
    index = open_counted()
    edits = 0

    def edit() -> None:
        nonlocal edits
        edits += 1
        app.execute("UPDATE articles SET body = %s WHERE id = 5", (f"edit {edits}",))

    listen("backfill.embedded", edit)
    for key in index.spec.partition_keys():
        backfill.fill_partition(index, "v1", key)
    mine = [text for text in asked_texts(paid) if text.startswith("title 5 ")]
    assert len(mine) == 1, mine
    settle(index)


def test_documents_that_the_application_has_locked_are_no_obstacle(
    second_app: psycopg.Connection, open_counted: Open, paid: Path
) -> None:
    index = open_counted()
    second_app.execute("SELECT FROM articles WHERE id <= 30 FOR UPDATE")
    second_app.execute("UPDATE articles SET body = 'not committed yet' WHERE id = 40")
    fill(index, "v1")
    texts = asked_texts(paid)
    assert len(texts) == len(set(texts)) == DOCUMENTS, "each as it is committed, once"
    second_app.commit()
    settle(index)


def test_full_comparison_leaves_unfilled_partitions_to_the_backfill(app: psycopg.Connection, open_docs: Open) -> None:
    """Queued, a whole new version would be embedded by the dual-write, outside any throttle."""
    fill(open_docs("v1", partitions=4), "v1")
    index = open_docs("v1", "v2", partitions=4)
    backfill.fill_partition(index, "v2", "00")
    backfill.fill_partition(index, "v2", "02")
    app.execute("ALTER TABLE articles DISABLE TRIGGER USER")
    app.execute("UPDATE articles SET body = 'unseen' WHERE id IN (1, 20)")
    app.execute("DELETE FROM articles WHERE id = 2")
    app.execute("DELETE FROM embed_pipeline.docs__v2 WHERE doc_id = '35'")
    # v1: both edits and the delete. v2: the edit and the delete in the filled partition, and the document missing from it.
    assert verify.reconcile(index).queued == {"v1": 3, "v2": 3}
    queued = app.execute("SELECT doc_id, removed FROM embed_pipeline.pending WHERE version = 'v2' ORDER BY doc_id").fetchall()
    assert queued == [("1", False), ("2", True), ("35", False)]
    fill(index, "v2")
    settle(index)
