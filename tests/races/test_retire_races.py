"""Rollback and retire: wholly or not at all, whatever comes in between."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import psycopg
import pytest

from embed_pipeline import signals
from embed_pipeline.catalog import serving, versions
from embed_pipeline.errors import CutoverRefused, RetireRefused, VersionRetired
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, cutover, dual_write, retire
from embed_pipeline.stores.protocol import EmbeddedBatch
from tests.harness.articles import (
    require_consistent,
    settle,
    stored,
    text_hash,
)
from tests.races.hands import distribute, working

Open = Callable[..., OpenIndex]


def pointer(app: psycopg.Connection) -> tuple[str | None, int]:
    now = serving.read(app, "docs")
    return now.version, now.generation


def test_rollback_after_writes_is_current(app: psycopg.Connection, judged: OpenIndex) -> None:
    cutover.cutover(judged, "v2")
    app.execute("UPDATE articles SET body = 'after cutover' WHERE id = 41")
    app.execute("DELETE FROM articles WHERE id = 42")
    app.execute("INSERT INTO articles (id, title, body) VALUES (500, 'born', 'after cutover')")
    # Standby is dual-written like the version that serves: a rollback has nothing to catch up with.
    dual_write.sync(judged)
    assert stored(app, "v1")["41"] == text_hash("title 41\n\nafter cutover")
    moved = cutover.rollback(judged)
    assert moved.version == "v1"
    found = stored(app, "v1")
    assert found["41"] == text_hash("title 41\n\nafter cutover")
    assert "42" not in found
    assert "500" in found
    settle(judged)
    # And forward again on the evidence that is still fresh, by a word that says so.
    assert cutover.cutover(judged, "v2", again=True).generation == 4
    require_consistent(judged)


def test_rollback_needs_a_version_that_served(app: psycopg.Connection, open_served: Open) -> None:
    index = open_served()
    with pytest.raises(CutoverRefused, match="nothing to roll docs back to"):
        cutover.rollback(index)


def test_retire_refuses_what_serves_and_a_wrong_confirmation(judged: OpenIndex) -> None:
    with pytest.raises(RetireRefused, match="does not name the version"):
        retire.retire(judged, "v1", "v2")
    with pytest.raises(RetireRefused, match="v1 serves docs"):
        retire.retire(judged, "v1", "v1")


def test_retire_refuses_before_the_soak_and_a_recent_reader(app: psycopg.Connection, open_docs: Open, judged: OpenIndex) -> None:
    cutover.cutover(judged, "v2")
    patient = open_docs("v1", "v2", retire={"soak_seconds": 3600, "unread_seconds": 0})
    with pytest.raises(RetireRefused, match="of the 3600 s in retire.soak_seconds"):
        retire.retire(patient, "v1", "v1")
    careful = open_docs("v1", "v2", retire={"soak_seconds": 0, "unread_seconds": 3600})
    app.execute("SELECT embed_pipeline.note_read('docs', 'v1')")
    with pytest.raises(RetireRefused, match="was read"):
        retire.retire(careful, "v1", "v1")


def test_retire_fails_no_writer(app: psycopg.Connection, judged: OpenIndex) -> None:
    cutover.cutover(judged, "v2")
    signals.listen("retire.detached", lambda: app.execute("DELETE FROM articles WHERE id = 9"))
    retire.retire(judged, "v1", "v1")
    app.execute("DELETE FROM articles WHERE id = 10")
    settle(judged)
    assert app.execute("SELECT to_regclass('embed_pipeline.docs__v1')").fetchone() == (None,)
    assert stored(app, "v1") == {}


@pytest.mark.parametrize("moment", ["dual_write.claimed", "dual_write.read", "dual_write.embedded"])
def test_retire_under_a_dual_write_worker(app: psycopg.Connection, judged: OpenIndex, moment: str) -> None:
    """The tables go while a worker has a batch for them in hand: its work is over, and that is no failure."""
    cutover.cutover(judged, "v2")
    app.execute("UPDATE articles SET body = 'edited' WHERE id = 1")
    done: list[retire.Retired] = []

    def gone() -> None:
        signals.forget_all()
        done.append(retire.retire(judged, "v1", "v1"))

    signals.listen(moment, gone)
    distribute(judged)
    # By the time that it writes nothing is its own any more.
    with suppress(VersionRetired), working(judged, "v1") as work:
        work.batch()
    assert work.result.written == 0
    assert [each.version for each in done] == ["v1"]
    settle(judged)
    assert app.execute("SELECT count(*) FROM embed_pipeline.pending").fetchone() == (0,)


def test_retire_under_a_sync_is_no_failure(app: psycopg.Connection, judged: OpenIndex) -> None:
    cutover.cutover(judged, "v2")
    app.execute("UPDATE articles SET body = 'edited' WHERE id = 1")
    # So that it is the worker of v1 that comes to the moment.
    distribute(judged)
    assert dual_write.drain(judged, "v2", 2**62).left == 0

    def gone() -> None:
        signals.forget_all()
        retire.retire(judged, "v1", "v1")

    signals.listen("dual_write.read", gone)
    assert {each.version: each.error for each in dual_write.sync(judged)} == {"v1": "", "v2": ""}
    settle(judged)


def test_retire_under_a_backfill_leaves_nothing_behind(app: psycopg.Connection, judged: OpenIndex, open_docs: Open) -> None:
    """A version is given up while it is being filled; the worker finds out and says so, and no dead letter of it stays."""
    app.execute("UPDATE articles SET title = NULL, body = NULL WHERE id = 4")
    index = open_docs("v1", "v2", "v3")

    def gone() -> None:
        signals.forget_all()
        retire.retire(index, "v3", "v3")

    signals.listen("backfill.embedded", gone)
    with pytest.raises(VersionRetired, match="v3 of docs was retired meanwhile"):
        backfill.fill_partition(index, "v3", "00")
    assert app.execute("SELECT count(*) FROM embed_pipeline.dead_letters WHERE version = 'v3'").fetchone() == (0,)


def test_retire_is_finished_by_the_same_command_after_a_crash(app: psycopg.Connection, judged: OpenIndex) -> None:
    cutover.cutover(judged, "v2")

    def crash() -> None:
        raise KeyboardInterrupt

    signals.listen("retire.detached", crash)
    with pytest.raises(KeyboardInterrupt):
        retire.retire(judged, "v1", "v1")
    signals.forget_all()
    assert retire.retire(judged, "v1", "v1").freed_bytes > 0
    with pytest.raises(RetireRefused, match="retired already"):
        retire.retire(judged, "v1", "v1")


def test_audit_has_each_transition_once(app: psycopg.Connection, judged: OpenIndex) -> None:
    cutover.cutover(judged, "v2")
    cutover.rollback(judged, "looked odd")
    rows = app.execute(
        "SELECT event, version, from_state, to_state, reason FROM embed_pipeline.events WHERE to_state IS NOT NULL AND version = 'v2' ORDER BY id"
    ).fetchall()
    assert [row[:4] for row in rows] == [
        ("register", "v2", None, "building"),
        ("ready", "v2", "building", "ready"),
        ("cutover", "v2", "ready", "active"),
        ("rollback", "v2", "active", "standby"),
    ]
    assert rows[-1][4] == "looked odd"
    assert versions.get(app, "docs", "v1").state == "active"


@pytest.mark.parametrize("read", ["holds", "count", "labels"])
def test_version_that_is_retired_under_its_reader_says_so(app: psycopg.Connection, open_docs: Open, read: str) -> None:
    """A worker that lost its connection looks what it holds by now, when the version may be gone: it ends, and reports no error of SQL."""
    index = open_docs("v1")
    with index.connection() as conn:
        version = index.version(conn, "v1")
        store = index.store(version)
        batch = EmbeddedBatch(["1"], [b"hash"], [1], np.zeros((1, version.dimensions), dtype=np.float32))
        app.execute("DROP TABLE embed_pipeline.docs__v1 CASCADE")
        with pytest.raises(VersionRetired, match="was retired meanwhile"):
            store.holds(conn, batch) if read == "holds" else getattr(store, read)(conn)
