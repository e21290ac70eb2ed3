"""What to run next, over every state."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest

from embed_pipeline.catalog.control import Control
from embed_pipeline.catalog.states import STATES
from embed_pipeline.report.next_command import Next, next_command
from embed_pipeline.report.version_status import GateState, VersionStatus

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
