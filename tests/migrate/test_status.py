"""What to run next, over every state, and what the status of a real index shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embed_pipeline.catalog.control import Control
from embed_pipeline.catalog.states import STATES
from embed_pipeline.errors import DocumentsTableError
from embed_pipeline.evaluate import gate
from embed_pipeline.migrate import cutover, retire
from embed_pipeline.migrate.open_index import OpenIndex
from embed_pipeline.migrate.status import GateState, Next, VersionStatus, next_command, status, status_of
from tests.articles import DOCUMENTS, declared, fill, serve

NOW = datetime(2024, 5, 1, tzinfo=timezone.utc)
RUNNING = Control("running", "", "ada")
PASSED = GateState("pass", "pass: fine", NOW)


def version(name: str, state: Any, **overrides: Any) -> VersionStatus:
    """A version with nothing left to do in its state."""
    base = VersionStatus(
        name=name,
        state=state,
        model="m",
        dimensions=8,
        partitions=4,
        partitions_done=4,
        stored=10,
        ann_index="valid",
        gate=PASSED,
    )
    if state == "declared":
        base = replace(base, partitions=0, partitions_done=0, ann_index="none", gate=None)
    if state == "retired":
        base = replace(base, dropped=True)
    return replace(base, **overrides)


def ask(*found: VersionStatus, held: Control = RUNNING, **overrides: Any) -> Next:
    values: dict[str, Any] = {"documents": 10, "own_table": True, "max_dead_letters": 0, "soak_seconds": 100.0}
    return next_command("docs", found, held, **(values | overrides))


@pytest.mark.parametrize(
    ("found", "command"),
    [
        ([version("v1", "declared")], "plan docs v1"),
        ([version("v1", "building", partitions_done=3)], "backfill docs v1"),
        ([version("v1", "building", ann_index="missing")], "backfill docs v1"),
        ([version("v1", "ready", ann_index="invalid")], "backfill docs v1"),
        ([version("v1", "ready", gate=None)], "gate docs v1"),
        ([version("v1", "ready", gate=replace(PASSED, stale="it expired"))], "gate docs v1"),
        ([version("v1", "ready", gate=replace(PASSED, outcome="undecided"))], "gate docs v1"),
        ([version("v1", "ready", gate=replace(PASSED, outcome="fail"))], "retire docs v1 --confirm v1"),
        ([version("v1", "ready", gate=replace(PASSED, outcome="fail", stale="it expired"))], "gate docs v1"),
        ([version("v1", "ready", dead_letters=1)], "sync docs"),
        ([version("v1", "ready")], "cutover docs v1"),
        ([version("v1", "ready", pending=5)], "cutover docs v1"),
        ([version("v1", "active")], "sync docs --watch"),
        ([version("v1", "active", pending=2)], "sync docs"),
        ([version("v1", "retired")], None),
        ([version("v1", "retired", dropped=False)], "retire docs v1 --confirm v1"),
        ([version("v1", "standby", seconds=50), version("v2", "active")], "sync docs --watch"),
        ([version("v1", "standby", seconds=150), version("v2", "active")], "retire docs v1 --confirm v1"),
        ([version("v1", "active"), version("v2", "declared")], "plan docs v2"),
        ([version("v1", "active"), version("v2", "building", partitions_done=0)], "backfill docs v2"),
        ([version("v1", "active", pending=9, oldest_pending_seconds=90), version("v2", "ready")], "sync docs"),
        ([version("v1", "active", pending=9, oldest_pending_seconds=9), version("v2", "ready")], "cutover docs v2"),
        ([version("v1", "standby", seconds=150), version("v2", "active"), version("v3", "declared")], "plan docs v3"),
        ([version("v2", "ready"), version("v3", "declared")], "cutover docs v2"),
        ([version("v2", "ready", gate=replace(PASSED, outcome="fail")), version("v3", "declared")], "plan docs v3"),
        ([version("v2", "building"), version("v3", "building", partitions_done=1)], "backfill docs v3"),
    ],
)
def test_next_command(found: list[VersionStatus], command: str | None) -> None:
    expected = None if command is None else f"embed-pipeline {command}"
    assert ask(*found).command == expected


@pytest.mark.parametrize("state", ["declared", *STATES])
def test_a_hold_comes_before_everything(state: Any) -> None:
    assert ask(version("v1", state), held=Control("paused", "lunch", "ada")) == Next(
        "embed-pipeline resume docs", "the index is paused by ada: lunch"
    )
    assert ask(version("v1", state), held=Control("aborted", "", "ada")).command == "embed-pipeline resume docs"


def test_documents_come_before_a_version_only_where_we_made_the_table() -> None:
    empty = version("v1", "declared")
    assert ask(empty, documents=0, own_table=False).command == "embed-pipeline load docs FILE"
    assert ask(empty, documents=0, own_table=True).command == "embed-pipeline plan docs v1"
    assert ask(version("v1", "active"), documents=0, own_table=False).command == "embed-pipeline sync docs --watch"


def test_dead_letters_are_named() -> None:
    dead = version("v1", "ready", dead_letters=1, first_dead_letters=("7: empty text",))
    assert "dead letters of v1: 1 (7: empty text), and max_dead_letters is 0" in ask(dead).why
    assert ask(dead, max_dead_letters=1).command == "embed-pipeline cutover docs v1"


def test_an_index_before_its_first_command(database_url: str, app: psycopg.Connection[Any], holdout: Path) -> None:
    app.execute("DROP SCHEMA embed_pipeline CASCADE")
    shown = status_of(declared(database_url, holdout, "v1"))
    assert (shown.documents, shown.serving.version, shown.versions[0].state) == (DOCUMENTS, None, "declared")
    assert shown.next.command == "embed-pipeline plan docs v1"
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
    assert (second.state, second.partitions_done, second.partitions, second.gate) == ("ready", 4, 4, None)
    assert second.coverage(shown.documents) == 1.0
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
