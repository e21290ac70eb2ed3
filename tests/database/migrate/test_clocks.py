"""The database's clock is set back: nothing that waits for a time waits longer than it was told to."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from embed_pipeline.errors import RetireRefused
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import cutover, gate, retire
from embed_pipeline.report.status import status
from tests.harness.articles import change, fill, serve, settle

HOUR_BACK = "clock_timestamp() + interval '1 hour'"


def test_a_version_is_retired_as_long_after_its_last_read_as_declared(
    open_docs: Callable[..., OpenIndex], app: psycopg.Connection
) -> None:
    """Set back an hour, what was noted before is of the future."""
    serve(open_docs("v1"), "v1")
    index = open_docs("v1", "v2", retire={"soak_seconds": 0, "unread_seconds": 3_600})
    fill(index, "v2")
    gate.run(index, "v2")
    cutover.cutover(index, "v2")
    app.execute("SELECT embed_pipeline.note_read('docs', 'v1')")
    app.execute(f"UPDATE embed_pipeline.version_reads SET read_at = {HOUR_BACK}")
    app.execute(f"UPDATE embed_pipeline.index_versions SET state_since = {HOUR_BACK}")
    (v1,) = [each for each in status(index).versions if each.name == "v1"]
    assert v1.seconds == 0
    with pytest.raises(RetireRefused, match="was read 0 s ago"):
        retire.retire(index, "v1", "v1")
    app.execute("SELECT embed_pipeline.note_read('docs', 'v2')")
    reads = dict(
        app.execute("SELECT version, max(read_at) <= clock_timestamp() FROM embed_pipeline.version_reads GROUP BY 1").fetchall()
    )
    assert reads["v1"], "what is of the future counts from the first look on"
    app.execute("UPDATE embed_pipeline.version_reads SET read_at = read_at - interval '1 hour'")
    retire.retire(index, "v1", "v1")


def test_reads_are_noted_by_the_new_clock(open_docs: Callable[..., OpenIndex], app: psycopg.Connection) -> None:
    open_docs("v1")
    app.execute("SELECT embed_pipeline.note_read('docs', 'v1')")
    app.execute(f"UPDATE embed_pipeline.version_reads SET read_at = {HOUR_BACK}")
    for _ in range(2):
        app.execute("SELECT embed_pipeline.note_read('docs', 'v1')")
    assert app.execute("SELECT count(*) FROM embed_pipeline.version_reads").fetchone() == (2,)


def test_changes_of_the_future_are_written_and_counted_as_of_now(
    open_docs: Callable[..., OpenIndex], app: psycopg.Connection
) -> None:
    index = open_docs("v1")
    fill(index, "v1")
    change(app, 7, "changed before the clock was set back")
    app.execute(f"UPDATE embed_pipeline.inbox SET at = {HOUR_BACK}")
    (v1,) = status(index).versions
    assert (v1.pending, v1.oldest_pending_seconds) == (1, 0)
    settle(index)
