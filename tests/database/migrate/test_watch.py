"""`sync --watch`: each version by itself, removals without a model, comparisons by schedule and by doubt."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embed_pipeline.documents.shape import Doubt
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import follow_changes
from embed_pipeline.migrate.dual_write import VersionSync
from tests.harness.articles import change, fill, require_consistent, stored, text_hash
from tests.harness.postgres.seen import wait_until

Open = Callable[..., OpenIndex]
FAKE = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "m", "dimensions": 16}


class Heard:
    """What a watch tells."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.doubts: list[list[str]] = []

    def report(self, results: list[VersionSync]) -> None:
        self.errors += [f"{each.version}: {each.error}" for each in results if each.error]

    def doubted(self, doubts: list[Doubt]) -> None:
        self.doubts.append([doubt.reason for doubt in doubts])


@contextmanager
def watched(index: OpenIndex) -> Iterator[Heard]:
    """A watch for the length of the block."""
    stop, heard = threading.Event(), Heard()
    thread = threading.Thread(
        target=follow_changes.follow_changes, args=(index, stop, heard.report), kwargs={"doubted": heard.doubted}, daemon=True
    )
    thread.start()
    try:
        yield heard
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()


def hash_of(app: psycopg.Connection, version: str, doc_id: str) -> str | None:
    return stored(app, version).get(doc_id)


def test_removals_go_on_while_a_provider_is_down(
    open_docs: Open, app: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = tmp_path / "down"
    index = open_docs(versions={"v1": FAKE | {"options": {"raise_while": str(down)}}})
    fill(index, "v1")
    down.touch()
    with watched(index) as heard:
        change(app, 1, "edited while it is down")
        wait_until(lambda: bool(heard.errors), "the provider fails")
        app.execute("DELETE FROM articles WHERE id <= 20 AND id > 1")
        wait_until(lambda: len(stored(app, "v1")) == 41, "what is gone is removed")
        assert down.exists()
        assert hash_of(app, "v1", "1") == text_hash("title 1\n\nbody 1")
        monkeypatch.setattr(follow_changes, "RETRY_SECONDS", 0.1)
        down.unlink()
        wait_until(lambda: hash_of(app, "v1", "1") == text_hash("title 1\n\nedited while it is down"), "the edit when it is back")
    assert all("the provider is down" in error for error in heard.errors)
    require_consistent(index)


def test_a_slow_version_does_not_hold_up_another(open_docs: Open, app: psycopg.Connection, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    index = open_docs(versions={"v1": FAKE | {"options": {"salt": "v1"}}, "v2": FAKE | {"options": {"wait_while": str(slow)}}})
    fill(index, "v1")
    fill(index, "v2")
    slow.touch()
    try:
        with watched(index) as heard:
            for number in range(1, 6):
                change(app, number, f"edit {number}")
                wanted = text_hash(f"title {number}\n\nedit {number}")
                wait_until(lambda number=number, wanted=wanted: hash_of(app, "v1", str(number)) == wanted, "v1 goes on")
            assert hash_of(app, "v2", "1") == text_hash("title 1\n\nbody 1"), "v2 is at its first batch"
            slow.unlink()
            wait_until(lambda: hash_of(app, "v2", "5") == text_hash("title 5\n\nedit 5"), "v2 comes after")
            waiting = "SELECT FROM embed_pipeline.pending"
            wait_until(lambda: app.execute(waiting).fetchone() is None, "nothing is left")
    finally:
        slow.unlink(missing_ok=True)
    assert heard.errors == []
    require_consistent(index)


class Ticks:
    """Due once at once, and then not any more."""

    asked: list[str]

    def __init__(self, schedule: str, start: datetime, ret_type: Any) -> None:
        Ticks.asked = [schedule]
        self._left = [datetime.now(timezone.utc) - timedelta(seconds=1)]

    def get_next(self) -> datetime:
        return self._left.pop() if self._left else datetime.now(timezone.utc) + timedelta(days=1)


def test_it_compares_by_schedule(open_docs: Open, app: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    index = open_docs("v1", reconcile={"schedule": "0 3 * * *"})
    fill(index, "v1")
    app.execute("DELETE FROM embed_pipeline.docs__v1 WHERE doc_id = '7'")
    monkeypatch.setattr(follow_changes, "croniter", Ticks)
    with watched(index) as heard:
        wait_until(lambda: hash_of(app, "v1", "7") is not None, "the comparison has queued it")
    assert Ticks.asked == ["0 3 * * *"]
    assert heard.doubts == [], "nothing was doubted"


def test_the_next_tick_of_the_schedule_is_in_utc(open_docs: Open) -> None:
    index = open_docs("v1", reconcile={"schedule": "0 3 * * *"})
    comparing = follow_changes._Comparing(index, threading.Event(), lambda results: None)
    assert (comparing._due.hour, comparing._due.minute, comparing._due.tzinfo) == (3, 0, timezone.utc)
    assert timedelta(0) < comparing._due - datetime.now(timezone.utc) <= timedelta(days=1)


def test_a_doubt_is_told_and_compared_at_once_and_its_end_is_told(open_filled: Open, app: psycopg.Connection) -> None:
    index = open_filled()
    with watched(index) as heard:
        app.execute("ALTER TABLE articles DISABLE TRIGGER USER")
        app.execute("UPDATE articles SET body = 'unseen' WHERE id = 1")
        app.execute("DELETE FROM articles WHERE id = 2")
        app.execute("ALTER TABLE articles ENABLE TRIGGER USER")
        app.execute("ALTER TABLE articles ENABLE REPLICA TRIGGER embed_pipeline_docs_row")
        app.execute("ALTER TABLE articles ENABLE ALWAYS TRIGGER embed_pipeline_docs_truncate")
        wait_until(lambda: hash_of(app, "v1", "1") == text_hash("title 1\n\nunseen"), "what nobody saw is written")
        wait_until(lambda: hash_of(app, "v1", "2") is None, "and removed")
        wait_until(lambda: bool(heard.doubts) and heard.doubts[-1] == [], "the end of the doubt")
    assert "the documents table has changed since capture was armed: triggers" in heard.doubts[0]
    assert heard.doubts.count([]) == 1, "its end is told once"
    assert heard.errors == []
    require_consistent(index)


def test_a_version_that_is_registered_or_retired_meanwhile(open_docs: Open, open_filled: Open, app: psycopg.Connection) -> None:
    index = open_filled()
    with watched(index) as heard:
        open_docs("v1", "v2")
        change(app, 1, "for both")
        wanted = text_hash("title 1\n\nfor both")
        wait_until(lambda: hash_of(app, "v1", "1") == wanted and hash_of(app, "v2", "1") == wanted, "both have it")
        app.execute("UPDATE embed_pipeline.index_versions SET state = 'retired' WHERE version = 'v2'")
        app.execute("DELETE FROM embed_pipeline.pending WHERE version = 'v2'")
        change(app, 1, "for one")
        wait_until(lambda: hash_of(app, "v1", "1") == text_hash("title 1\n\nfor one"), "v1 goes on")
    assert heard.errors == []
