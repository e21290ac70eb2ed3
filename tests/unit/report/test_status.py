"""What to run next, over every state."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest

from embed_pipeline.catalog.control import Control
from embed_pipeline.catalog.route import Route
from embed_pipeline.catalog.serving import RolledBack
from embed_pipeline.catalog.states import STATES
from embed_pipeline.report.next_command import Next, next_command, phase
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
        ([version("v1", "declared")], "backfill docs v1"),
        ([version("v1", "building", partitions_done=3)], "backfill docs v1"),
        ([version("v1", "building", ann_index="missing")], "backfill docs v1"),
        ([version("v1", "ready", ann_index="invalid")], "backfill docs v1"),
        ([version("v1", "ready", gate=None)], "gate docs v1"),
        ([version("v1", "ready", gate=replace(PASSED, stale="it expired"))], "gate docs v1"),
        ([version("v1", "ready", gate=replace(PASSED, outcome="undecided"))], None),
        ([version("v1", "ready", gate=replace(PASSED, outcome="fail"))], None),
        ([version("v1", "active"), version("v2", "ready", gate=replace(PASSED, outcome="fail"))], "retire docs v2"),
        ([version("v1", "ready", gate=replace(PASSED, outcome="fail", stale="it expired"))], "gate docs v1"),
        ([version("v1", "ready", dead_letters=1)], "dead-letters docs v1"),
        ([version("v1", "ready")], "cutover docs v1"),
        ([version("v1", "ready", pending=5)], "cutover docs v1"),
        ([version("v1", "active")], "sync docs --watch"),
        ([version("v1", "active", pending=2)], "sync docs"),
        ([version("v1", "retired")], None),
        ([version("v1", "retired", dropped=False)], "retire docs v1"),
        ([version("v1", "standby", seconds=50), version("v2", "active")], "sync docs --watch"),
        ([version("v1", "standby", seconds=150), version("v2", "active")], "retire docs v1"),
        ([version("v1", "active"), version("v2", "declared")], "backfill docs v2"),
        ([version("v1", "active"), version("v2", "building", partitions_done=0)], "backfill docs v2"),
        ([version("v1", "active", pending=9, oldest_pending_seconds=90), version("v2", "ready")], "sync docs"),
        ([version("v1", "active", pending=9, oldest_pending_seconds=9), version("v2", "ready")], "cutover docs v2"),
        ([version("v1", "standby", seconds=150), version("v2", "active"), version("v3", "declared")], "backfill docs v3"),
        ([version("v2", "ready"), version("v3", "declared")], "cutover docs v2"),
        ([version("v2", "ready", gate=replace(PASSED, outcome="fail")), version("v3", "declared")], "backfill docs v3"),
        ([version("v1", "active"), version("v2", "building"), version("v3", "building", partitions_done=1)], "backfill docs v2"),
        ([version("v1", "active"), *(version(name, "building", partitions_done=1) for name in ("v2", "v3"))], "backfill docs v3"),
        # Nothing serves: the first version first.
        ([version("v1", "declared"), version("v2", "declared")], "backfill docs v1"),
        ([version("v1", "building", partitions_done=0), version("v2", "building", partitions_done=0)], "backfill docs v1"),
        ([version("v1", "building", partitions_done=3), version("v2", "building", partitions_done=0)], "backfill docs v1"),
        ([version("v1", "ready"), version("v2", "ready")], "cutover docs v1"),
    ],
)
def test_next_command(found: list[VersionStatus], command: str | None) -> None:
    expected = None if command is None else f"embed-pipeline {command}"
    assert ask(*found).command == expected


LEFT = RolledBack(NOW, "anna", "complaints", judged_since=False)
JUDGED = replace(LEFT, judged_since=True)


@pytest.mark.parametrize("seconds", [10, 1_000_000])
@pytest.mark.parametrize(
    ("by", "outcome", "stale", "command"),
    [
        (LEFT, "pass", None, "gate docs v2"),
        (LEFT, "pass", "it expired", "gate docs v2"),
        (LEFT, "fail", None, "gate docs v2"),
        (JUDGED, "pass", None, "cutover docs v2"),
        (JUDGED, "pass", "it expired", "gate docs v2"),
        (JUDGED, "fail", None, None),
        (JUDGED, "undecided", None, None),
    ],
)
def test_what_was_rolled_back_from_is_not_offered_for_retire(
    by: RolledBack, outcome: str, stale: str | None, command: str | None, seconds: float
) -> None:
    left = version(
        "v2", "standby", seconds=seconds, rolled_back={"direct": by}, gate=replace(PASSED, outcome=outcome, stale=stale)
    )
    # Also where another version has been standby for long.
    said = ask(version("v0", "standby", seconds=1_000), version("v1", "active"), left)
    assert said.command == (None if command is None else f"embed-pipeline {command}")
    assert said.why.startswith("v2 was rolled back from at 2024-05-01 00:00 UTC by anna: complaints; ")
    assert "to give it up, retire it" in said.why


def test_how_long_a_version_is_kept_is_said_as_a_person_says_it() -> None:
    def why(seconds: float) -> str:
        return ask(version("v1", "standby", seconds=seconds), version("v2", "active"), soak_seconds=86_400.0).why

    assert why(52.0) == "v1 is kept for a rollback, for 23 h 59 min more at least"
    assert why(90_000.0) == "v1 has been standby for 1 d 1 h and may go, for good"


def test_a_refinement_that_was_rolled_back_from_is_not_offered_again() -> None:
    half = version("v2", "building", partitions_done=2, refine_gate=PASSED)
    asked = {"route": Route("v1"), "may_refine": True}
    assert ask(version("v1", "active"), half, **asked).command == "embed-pipeline cutover docs v2 --route refine"
    assert (
        ask(version("v1", "active"), replace(half, rolled_back={"refine": LEFT}), **asked).command
        == "embed-pipeline backfill docs v2"
    )


def test_what_would_decide_an_undecided_gate_is_said() -> None:
    undecided = replace(PASSED, outcome="undecided", queries_needed=1_200)
    assert "about 1200 would probably decide" in ask(version("v1", "active"), version("v2", "ready", gate=undecided)).why


def test_why_changes_may_have_been_missed_is_said() -> None:
    said = ask(version("v1", "active"), version("v2", "ready"), doubts=("capture was off: triggers",))
    assert said.command == "embed-pipeline sync docs --full"
    assert said.why.startswith("changes may have been missed (capture was off: triggers)")


def test_vectors_that_are_gone_come_before_a_comparison_that_cannot_pass_without_them() -> None:
    said = ask(version("v1", "active", gone="the collection is not there"), version("v2", "ready"), doubts=("restored",))
    assert said.command == "embed-pipeline backfill docs v1"


def test_what_a_run_fills_now_is_not_offered_to_be_filled_again() -> None:
    """By Dagster, say. Another version is merely registered, and waits for the first."""
    said = ask(version("v1", "building", partitions_done=3), version("v2", "building", partitions_done=0), filling=("v1",))
    assert said == Next("embed-pipeline status docs --watch", "v1 is being filled by a run that is under way: 3 of 4 partitions")


@pytest.mark.parametrize("state", ["declared", *STATES])
def test_a_hold_comes_before_everything(state: Any) -> None:
    assert ask(version("v1", state), held=Control("paused", "lunch", "ada")) == Next(
        "embed-pipeline resume docs", "the index is paused by ada: lunch"
    )
    assert ask(version("v1", state), held=Control("aborted", "", "ada")).command == "embed-pipeline resume docs"


def test_documents_come_before_a_version_only_where_we_made_the_table() -> None:
    empty = version("v1", "declared")
    assert ask(empty, documents=0, own_table=False).command == "embed-pipeline load docs FILE"
    assert ask(empty, documents=0, own_table=True).command == "embed-pipeline backfill docs v1"
    assert ask(version("v1", "active"), documents=0, own_table=False).command == "embed-pipeline sync docs --watch"


def test_dead_letters_are_named() -> None:
    dead = version("v1", "ready", dead_letters=1, first_dead_letters=("7: empty text",))
    assert "dead letters of v1: 1 (7: empty text), and max_dead_letters is 0" in ask(dead).why
    assert ask(dead, max_dead_letters=1).command == "embed-pipeline cutover docs v1"


@pytest.mark.parametrize(
    ("found", "word"),
    [
        ([version("v1", "declared")], "declared"),
        ([version("v1", "building", partitions_done=1)], "backfilling"),
        ([version("v1", "ready", gate=None)], "judging"),
        ([version("v1", "ready", gate=replace(PASSED, outcome="undecided"))], "judging"),
        ([version("v1", "ready", gate=replace(PASSED, outcome="fail"))], "failed"),
        ([version("v1", "ready")], "ready"),
        ([version("v1", "active")], "serving"),
        ([version("v1", "active"), version("v2", "building", partitions_done=0, stored=0)], "serving"),
        ([version("v1", "standby"), version("v2", "active")], "soaking"),
        ([version("v1", "standby", rolled_back={"direct": LEFT}), version("v2", "active")], "rolled_back"),
        ([version("v1", "retired")], "retired"),
    ],
)
def test_how_far_a_migration_is_in_one_word(found: list[VersionStatus], word: str) -> None:
    assert phase(found) == word
