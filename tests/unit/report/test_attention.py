"""What needs a person: every word of the list, from a state that has it and no other."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from embed_pipeline.catalog.control import Control
from embed_pipeline.catalog.route import Route
from embed_pipeline.catalog.serving import Pointer
from embed_pipeline.report.attention import CODES, attention
from embed_pipeline.report.index_status import Comparison, IndexStatus, Watched
from embed_pipeline.report.next_command import Next
from embed_pipeline.report.running import Running
from embed_pipeline.report.version_status import GateState, VersionStatus

ROOT = Path(__file__).parents[3]
NOW = datetime(2024, 5, 1, tzinfo=timezone.utc)
PASSED = GateState("pass", "pass: fine", NOW)
V1 = VersionStatus(
    "v1", "active", "m", 8, partitions=2, partitions_done=2, stored=10, ann_index="valid", gate=PASSED, ever_passed=True
)
V2 = replace(V1, name="v2", state="building", partitions_done=1, stored=4, ann_index="missing", gate=None, ever_passed=False)
BY_V2 = Pointer("v1", None, 2, Route("v1", refine="v2", depth=10))
WELL = IndexStatus(
    "docs", "public.docs", 10, Pointer("v1", None, 1, Route("v1")), Control("running", "", ""), (V1, V2), (), Next(None, "")
)


def v1(**changes: Any) -> dict[str, Any]:
    return {"versions": (replace(V1, **changes).against(10), V2)}


def v2(**changes: Any) -> dict[str, Any]:
    return {"versions": (V1, replace(V2, **changes).against(10))}


ROWS: list[tuple[str, str, str | None, dict[str, Any]]] = [
    ("documents_unusable", "critical", None, {"unusable": "public.docs is not there.", "doubts": ("no table",)}),
    ("capture_off", "critical", "sync docs --full", {"capture_off": "docs.capture"}),
    ("doubt", "critical", "sync docs --full", {"doubts": ("triggers", "columns")}),
    ("vectors_gone", "critical", "backfill docs v1", v1(gone="v1 is gone", stored=0)),
    ("vectors_gone", "warning", "backfill docs v2", v2(gone="v2 is gone")),
    ("another_ledger", "critical", "take-over docs", v1(another="another's")),
    ("coverage", "critical", "verify docs v1", v1(stored=9)),
    ("coverage", "critical", "verify docs v1", v1(stored=7, pending=1, dead_letters=1)),
    ("model_changed", "critical", "check-model docs v1", v1(model_changed=NOW)),
    ("model_changed", "warning", "check-model docs v2", v2(model_changed=NOW)),
    ("model_changed", "critical", "check-model docs v2", v2(model_changed=NOW, refine_gate=PASSED) | {"serving": BY_V2}),
    ("no_evidence", "critical", "gate docs v1", v1(ever_passed=False, gate=None)),
    ("no_evidence", "critical", "gate docs v2 --route refine", v2(refine_gate=None) | {"serving": BY_V2}),
    (
        "no_evidence",
        "critical",
        "gate docs v2 --route refine",
        v2(refine_gate=replace(PASSED, outcome="fail")) | {"serving": BY_V2},
    ),
    (
        "evidence_stale",
        "warning",
        "gate docs v2 --route refine",
        v2(refine_gate=replace(PASSED, stale="old")) | {"serving": BY_V2},
    ),
    ("store_away", "critical", "status docs", v1(unasked="no answer")),
    ("ann_index", "critical", "backfill docs v1", v1(ann_index="invalid")),
    ("queue", "critical", "sync docs", v1(pending=3, oldest_pending_seconds=61.0)),
    ("queue", "warning", "sync docs", v2(pending=3, oldest_pending_seconds=61.0)),
    ("dead_letters", "critical", "dead-letters docs v1", v1(stored=8, dead_letters=2)),
    ("dead_letters", "warning", "dead-letters docs v2", v2(stored=8, dead_letters=2)),
    ("readers_told_otherwise", "critical", "sync docs", v1(untold="the alias names v0")),
    ("reader_left_behind", "warning", None, {"left_behind": ("v2: web-7",)}),
    ("declared_otherwise", "warning", None, {"declared_otherwise": ("versions.v1.model",)}),
    ("held", "warning", "resume docs", {"control": Control("aborted", "wrong", "ada")}),
    ("watch", "critical", "rollback docs", {"watch": Watched("fail: recall fell", is_loss=True)}),
    ("watch", "warning", "watch docs --once", {"watch": Watched("unknown: no held-out set is declared", is_loss=False)}),
    ("bypassed", "warning", "sync docs --full", {"comparison": Comparison(NOW, "2 differ", 2)}),
    ("old_transaction", "warning", None, {"old_transactions": ("pid 7",)}),
    ("retire_unfinished", "warning", "retire docs v2", v2(state="retired", dropped=False)),
]


@pytest.mark.parametrize(("code", "severity", "command", "changes"), ROWS)
def test_each_thing_that_is_wrong_is_said_once(code: str, severity: str, command: str | None, changes: dict[str, Any]) -> None:
    (found,) = attention(replace(WELL, **changes), max_dead_letters=1)
    assert (found.code, found.severity) == (code, severity)
    assert found.next == (None if command is None else f"embed-pipeline {command}")


def test_every_word_has_its_state_and_a_state_without_any_is_well() -> None:
    assert {row[0] for row in ROWS} == set(CODES)
    assert attention(WELL, max_dead_letters=0) == ()


@pytest.mark.parametrize(
    "changes",
    [
        v1(stored=9, dead_letters=1),
        v1(stored=8, pending=2, oldest_pending_seconds=59.0),
        v1(gate=replace(PASSED, outcome="fail")),  # Judged on standby, and taken back to since.
        v2(gate=replace(PASSED, outcome="undecided")),
        {"comparison": Comparison(NOW, "nothing", 0)},
    ],
)
def test_what_is_allowed_or_merely_due_needs_nobody(changes: dict[str, Any]) -> None:
    assert attention(replace(WELL, **changes), max_dead_letters=1) == ()


def test_the_reference_has_every_word() -> None:
    page = (ROOT / "docs/reference/cli.md").read_text()
    rows = page[page.index("## What needs a person") :].splitlines()
    documented = [(cells[1].strip(" `"), cells[2].strip()) for row in rows if len(cells := row.split("|")) == 6][2:]
    worst = {code: min(row[1] for row in ROWS if row[0] == code) for code in CODES}
    assert documented == list(worst.items())


def test_what_is_critical_comes_first() -> None:
    held = {"control": Control("paused", "", "ada"), "doubts": ("triggers",), "left_behind": ("v2: web-7",)}
    assert [each.code for each in attention(replace(WELL, **held), 0)] == ["doubt", "reader_left_behind", "held"]


def test_who_holds_what_waits_is_named() -> None:
    behind = v1(pending=3, oldest_pending_seconds=61.0)
    (free,) = attention(replace(WELL, **behind), 0)
    assert free.sentence.endswith("nobody has claimed any.")
    (claimed,) = attention(replace(WELL, **behind, running=(Running("dual-write", "v1", "host-3:77", 2),)), 0)
    assert claimed.sentence.endswith("the oldest for 61 s, claimed by host-3:77.")
