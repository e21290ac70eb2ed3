"""From the inbox to the queue: whatever commits when, each version is told of every change, and a mark means what it says."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from embed_pipeline.documents import inbox
from embed_pipeline.migrate import dual_write
from embed_pipeline.migrate.open_index import OpenIndex
from tests.harness.articles import at, change, fill, settle, stored

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
        at("inbox.noting", lambda: second_app.execute("DELETE FROM articles WHERE id = 1"))
        change(app, 2, "another")
        for _ in range(3):
            hands.distribute(conn)
        second_app.commit()
        assert hands.distribute(conn) == 1
    settle(index)
    assert "1" not in stored(app, "v1")
