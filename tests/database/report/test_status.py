"""What the status of a real index shows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embed_pipeline.cli import status_lines
from embed_pipeline.documents import queue
from embed_pipeline.errors import DatabaseUnavailable, DocumentsTableError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import cutover, gate, retire
from embed_pipeline.migrate.opening import open_index
from embed_pipeline.postgres import connection
from embed_pipeline.report.plan import plan
from embed_pipeline.report.status import status, status_of
from tests.harness.articles import DOCUMENTS, declared, fill, serve


def test_an_index_before_its_first_command(database_url: str, app: psycopg.Connection[Any], holdout: Path) -> None:
    app.execute("DROP SCHEMA embed_pipeline CASCADE")
    shown = status_of(declared(database_url, holdout, "v1"))
    assert (shown.documents, shown.serving.version, shown.versions[0].state) == (DOCUMENTS, None, "declared")
    assert shown.next.command == "embed-pipeline backfill docs v1"
    row = app.execute("SELECT to_regnamespace('embed_pipeline') IS NULL").fetchone()
    assert row == (True,)


def test_the_whole_state_of_an_index(
    database_url: str, app: psycopg.Connection[Any], open_docs: Callable[..., OpenIndex], holdout: Path
) -> None:
    index = open_docs("v1", "v2")
    serve(index, "v1")
    fill(index, "v2")
    app.execute("UPDATE articles SET body = 'another' WHERE id <= 3")
    shown = status(index)
    assert (shown.serving.version, shown.serving.generation, shown.control.state) == ("v1", 1, "running")
    first, second = shown.versions
    assert (first.state, first.pending, first.ann_index, first.stored) == ("active", 3, "valid", DOCUMENTS)
    assert (second.state, second.partitions_done, second.partitions, second.gate) == ("ready", 2, 2, None)
    assert (second.coverage, shown.coverage, shown.phase, shown.attention) == (1.0, 1.0, "judging", ())
    assert first.gate is not None
    assert (first.gate.outcome, first.gate.stale) == ("pass", None)
    assert shown.next.command == "embed-pipeline gate docs v2"
    assert [event.event for event in shown.events][:2] == ["ready", "cutover"]
    assert len(shown.events) <= 10

    gate.run(index, "v2")
    assert status(index).next.command == "embed-pipeline cutover docs v2"
    holdout.write_text(holdout.read_text().splitlines()[0])
    stale = status(index).versions[1].gate
    assert stale is not None
    assert stale.stale == "the held-out set has changed"
    holdout.unlink()
    unreadable = status(index).versions[1].gate
    assert unreadable is not None
    assert "There is no held-out set at" in str(unreadable.stale)


def test_a_retired_version_has_nothing_left_to_count(open_docs: Callable[..., OpenIndex]) -> None:
    index = open_docs("v1", "v2")
    serve(index, "v1")
    fill(index, "v2")
    gate.run(index, "v2")
    cutover.cutover(index, "v2")
    retire.retire(index, "v1", "v1")
    shown = status(index)
    gone = shown.versions[0]
    assert (gone.state, gone.dropped, gone.stored, gone.bytes, gone.ann_index) == ("retired", True, 0, 0, "none")
    assert shown.next.command == "embed-pipeline sync docs --watch"


def test_a_version_that_is_no_longer_declared_is_shown(
    database_url: str, open_docs: Callable[..., OpenIndex], holdout: Path
) -> None:
    open_docs("v1", "v2")
    shown = status_of(declared(database_url, holdout, "v2"))
    assert [(each.name, each.is_declared) for each in shown.versions] == [("v1", False), ("v2", True)]


def test_a_documents_table_that_is_gone_is_an_error(database_url: str, app: psycopg.Connection[Any], holdout: Path) -> None:
    app.execute("DROP TABLE articles")
    with pytest.raises(DocumentsTableError, match=r"public\.articles does not exist"):
        status_of(declared(database_url, holdout, "v1"))


def test_an_accepted_pgvector_is_warned_of_each_time(
    database_url: str,
    app: psycopg.Connection[Any],
    holdout: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    row = app.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
    assert row is not None
    monkeypatch.setattr(connection, "MINIMUM_VECTOR", (99, 0, 0))
    monkeypatch.setattr(connection, "_warned", set())
    spec = declared(database_url, holdout, "v1", pgvector={})
    for verb in (open_index, status_of):
        with pytest.raises(DatabaseUnavailable, match=rf'write pgvector: {{accept: "{row[0]}"}} into the index'):
            verb(spec)
    accepting = declared(database_url, holdout, "v1", pgvector={"accept": row[0]})
    (warning,) = status_of(accepting).warnings
    assert warning.startswith(f"pgvector {row[0]} can damage an HNSW index in VACUUM")
    assert f"  warning: {warning}" in status_lines.status_lines(status_of(accepting))
    assert plan(accepting, "v1").warnings[-1] == warning
    for _ in range(2):
        open_index(accepting).close()
    assert [record.getMessage() for record in caplog.records if record.name == connection.__name__] == [warning]


def test_who_works_on_an_index_is_shown_whoever_has_started_it(
    app: psycopg.Connection[Any], open_served: Callable[..., OpenIndex], database_url: str
) -> None:
    index = open_served("v1", "v2")
    shown = status(index)
    assert shown.running == ()
    assert shown.next.command == "embed-pipeline backfill docs v2"
    with psycopg.connect(database_url, autocommit=True, application_name="a run elsewhere") as other:
        for key in index.spec.partition_keys():
            other.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (f"embed_pipeline.backfill.docs.v2.{key}",))
        other.execute("SELECT pg_advisory_lock(hashtextextended('of somebody else', 0))")
        shown = status(index)
        (backfill,) = shown.running
        assert (backfill.work, backfill.version, backfill.amount) == ("backfill", "v2", 2)
        assert backfill.who.startswith("a run elsewhere role ")
        assert shown.next.command == "embed-pipeline status docs --watch"
    with index.connection() as conn:
        queue.enqueue(conn, "docs", "v1", ["1", "2", "3"])
        queue.claim(conn, "docs", "v1", limit=2)
        (writer,) = status(index).running
        assert (writer.work, writer.version, writer.amount) == ("dual-write", "v1", 2)
        assert str(os.getpid()) in writer.who
