"""The watch after a cutover: what it says where all is well, where a loss is proven, and where it cannot know."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import pytest

from embed_pipeline import status
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import cutover, gate
from embed_pipeline.migrate.after_cutover import Looked, is_watched, look
from embed_pipeline.migrate.dual_write import VersionSync
from embed_pipeline.migrate.follow_changes import follow_changes
from tests.harness.articles import fill
from tests.harness.postgres.seen import wait_until

Open = Callable[..., OpenIndex]


@pytest.fixture
def watched(open_served: Open) -> Callable[..., OpenIndex]:
    """v2 serves after v1, and is watched so."""

    def opened(**declared: object) -> OpenIndex:
        index = open_served("v1", "v2", watch=declared)
        fill(index, "v2")
        gate.run(index, "v2")
        cutover.cutover(index, "v2")
        return index

    return opened


def again(app: psycopg.Connection, index: OpenIndex) -> Looked:
    """Another look, as if its time had come."""
    app.execute("DELETE FROM embed_pipeline.watch_looks")
    found = look(index)
    assert found is not None
    return found


def test_a_watch_by_what_it_says(watched: Callable[..., OpenIndex], app: psycopg.Connection) -> None:
    index = watched()
    found = look(index)
    assert found is not None
    assert found.outcome == "well"
    assert "look 1 of 144" in found.sentence
    assert "against v1 on 30 queries" in found.sentence
    assert found.measures["p95_ms"] > 0
    assert look(index) is None, "the next one is due in ten minutes"

    # Its vectors are gone: no query has a hit. Told, and left as it is.
    app.execute("CREATE TABLE kept AS TABLE embed_pipeline.docs__v2; DELETE FROM embed_pipeline.docs__v2")
    found = again(app, index)
    assert found.outcome == "fail"
    assert "difference -1.000" in found.sentence
    assert "queries with a hit -1.000" in found.sentence
    assert (found.rolled_back, found.lines[-1]) == (None, "next: embed-pipeline rollback docs")
    assert [(each.severity, each.sentence) for each in status(index.spec).attention if each.code == "watch"] == [
        ("critical", found.sentence)
    ]
    reasons = app.execute(
        "SELECT reason, detail -> 'generation' FROM embed_pipeline.audit_events WHERE event = 'watch fail'"
    ).fetchall()
    assert reasons == [(found.sentence, 2)]

    # The version before is broken as well: then it is compared with what its gate saw.
    app.execute("INSERT INTO embed_pipeline.docs__v2 SELECT * FROM kept; DELETE FROM embed_pipeline.docs__v1")
    found = again(app, index)
    assert (found.outcome, found.measures["before"]) == ("well", "v2 as its gate saw it")

    # It cannot be asked: that is no loss, and no reason to move anything.
    app.execute("INSERT INTO embed_pipeline.doubts (index_name, kind, reason) VALUES ('docs', 'capture', 'x')")
    app.execute("DELETE FROM articles WHERE id < 20")
    found = again(app, index)
    assert found.outcome == "unknown"
    app.execute("UPDATE embed_pipeline.serving_pointer SET changed_at = changed_at - interval '2 days'")
    app.execute("DELETE FROM embed_pipeline.watch_looks")
    assert look(index) is None
    assert not is_watched(index)


def test_sync_watch_looks_and_rolls_back(watched: Callable[..., OpenIndex], app: psycopg.Connection) -> None:
    """Once a loss is proven; the reports say so, and the audit has the evidence."""
    index = watched(rollback="auto", for_seconds=300, every_seconds=1)
    stop, reports = threading.Event(), list[VersionSync]()
    thread = threading.Thread(target=follow_changes, args=(index, stop, reports.extend), daemon=True)
    thread.start()

    def looked(outcome: str) -> bool:
        return app.execute("SELECT FROM embed_pipeline.watch_looks WHERE outcome = %s", (outcome,)).fetchone() is not None

    wait_until(lambda: looked("well"), "all is well")
    app.execute(
        "UPDATE embed_pipeline.docs__v2 v SET embedding = o.embedding FROM embed_pipeline.docs__v2 o "
        "WHERE o.doc_id = (1 + v.doc_id::integer % 60)::text"
    )
    wait_until(lambda: looked("fail"), "a loss is proven")
    serves = "SELECT version, generation FROM embed_pipeline.serving_pointer"
    wait_until(lambda: app.execute(serves).fetchone() == ("v1", 3), "v1 serves again")
    wait_until(lambda: any(each.error.startswith("fail: look") for each in reports), "it is reported")
    stop.set()
    thread.join()
    (reason,) = (
        app.execute("SELECT reason FROM embed_pipeline.audit_events WHERE event = 'rollback' AND version = 'v1'").fetchone() or ()
    )
    assert reason.startswith("watch, look ")
    assert not is_watched(index)


def test_an_index_that_declares_no_watch(open_served: Open) -> None:
    with pytest.raises(ConfigurationError, match="declares no watch"):
        look(open_served("v1"))
