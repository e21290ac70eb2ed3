"""A store that does not answer for a while: what is paid for is kept in hand, and the locks in PostgreSQL are kept too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from embed_pipeline.catalog import versions
from embed_pipeline.documents import queue
from embed_pipeline.errors import StoreUnavailable
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, dual_write
from embed_pipeline.postgres import session
from embed_pipeline.stores.pgvector import PgvectorStore
from tests.harness.articles import change, fill, stored, text_hash
from tests.harness.clock import Clock
from tests.races.hands import distribute, working

Open = Callable[..., OpenIndex]


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], list[int]]:
    """Makes a method of the store fail that often, as a store over a network does; returns who was asked (server processes)."""

    def fail(method: str, times: int) -> list[int]:
        real, asked = getattr(PgvectorStore, method), []

        def unanswered(store: PgvectorStore, conn: psycopg.Connection, *given: Any, **options: Any) -> Any:
            asked.append(conn.info.backend_pid)
            if len(asked) <= times:
                raise StoreUnavailable("connection refused by 127.0.0.1:6333.")
            return real(store, conn, *given, **options)

        monkeypatch.setattr(PgvectorStore, method, unanswered)
        return asked

    return fail


def test_backfill_waits_for_its_store(open_docs: Open, away: Callable[[str, int], list[int]]) -> None:
    index = open_docs("v1")
    asked = away("insert_new", 2)
    said: list[str] = []
    report = backfill.fill_partition(index, "v1", "00", lambda progress: said.append(progress.waiting))
    assert report.written == report.documents
    assert "the store does not answer: connection refused by 127.0.0.1:6333" in said
    assert len(asked) >= 3
    assert len(set(asked)) == 1, "the connection to PostgreSQL was sound"


def test_backfill_says_when_it_gives_up_on_its_store(
    open_docs: Open, away: Callable[[str, int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "GIVE_UP_SECONDS", 0.05)
    index = open_docs("v1")
    away("insert_new", 10**6)
    with pytest.raises(
        StoreUnavailable, match=r"The store has not answered for .* bring the store back and run the same command"
    ):
        backfill.fill_partition(index, "v1", "00")


def test_dual_write_of_a_store_that_is_away_loses_nothing(
    app: psycopg.Connection, open_filled: Open, away: Callable[[str, int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = open_filled()
    app.execute("UPDATE articles SET body = 'edited' WHERE id = 3")
    with monkeypatch.context() as patched:
        patched.setattr(session, "GIVE_UP_SECONDS", 0.05)
        away("replace", 2)
        (result,) = dual_write.sync(index)
    assert result.error.startswith("The store has not answered for")
    assert result.pending == 1
    (row,) = app.execute("SELECT last_error FROM embed_pipeline.queue").fetchall()
    assert row[0].startswith("The store has not answered for")
    with index.connection() as conn:
        assert [version.state for version in versions.live_versions(conn, "docs")] == ["ready"]
    (result,) = dual_write.sync(index)
    assert (result.error, result.pending) == ("", 0)
    assert stored(app, "v1")["3"] == text_hash("title 3\n\nedited")


def test_one_try_that_took_long_is_no_stall(open_docs: Open, app: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch waited for a store that was away, and was given back: the next one gets it done."""
    index = open_docs("v1")
    fill(index, "v1")
    change(app, 1, "edited")
    distribute(index)
    clock = Clock.of(dual_write, monkeypatch)
    with working(index) as work:
        batch, tries = work.batch, 0

        def late(*args: Any, **options: Any) -> int:
            nonlocal tries
            tries += 1
            if tries <= 2:
                clock.sleep(2 * dual_write.STALL_SECONDS if tries == 2 else 0.0)
                return 0
            return batch(*args, **options)

        monkeypatch.setattr(work, "batch", late)
        assert work.until(queue.EVERYTHING, None) == 0
    assert tries > 2
