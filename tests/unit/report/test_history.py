"""The audit as a chain: a move is one step, whatever rows the database wrote of it."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from embed_pipeline.report.history import Row, Step, chain

AT = datetime(2024, 5, 1, tzinfo=timezone.utc)


def row(event: str, version: str | None = None, was: str | None = None, becomes: str | None = None, **detail: Any) -> Row:
    evidence = 7 if event == "cutover" and becomes == "active" else None
    return Row(1, AT, event, version, was, becomes, "anna", "why", detail, evidence, None, None)


def route(version: str | None, refine: str | None = None) -> dict[str, Any]:
    return {"version": version, "refine": refine, "depth": refine and 100, "queries": None, "adapter": None}


def moved(steps: list[Step]) -> list[tuple[Any, ...]]:
    return [(each.event, each.before, each.after, each.generation, each.evidence_id) for each in steps]


def test_a_move_is_one_step_and_all_else_is_its_own() -> None:
    rows = [
        row("register", "v1", None, "building"),
        row("cutover", "v1", "ready", "active"),
        row("route", "v1", move="cutover", generation=2, before=route("v1"), route=route("v1", "v2")),
        # The version changes and the route with it.
        row("cutover", "v1", "active", "standby"),
        row("cutover", "v2", "ready", "active"),
        row("route", "v2", move="cutover", generation=3, before=route("v1", "v2"), route=route("v2")),
        row("control", None, "running", "paused"),
        row("rollback", "v2", "active", "standby"),
        row("rollback", "v1", "standby", "active"),
        row("retire", "v2", "standby", "retired"),
    ]
    assert moved(list(chain(rows))) == [
        ("register", None, "building", None, None),
        ("cutover", None, "v1", 1, 7),
        ("cutover", "v1", "v1 refined by v2", 2, None),
        ("cutover", "v1 refined by v2", "v2", 3, 7),
        ("control", "running", "paused", None, None),
        ("rollback", "v2", "v1", 4, None),
        ("retire", "standby", "retired", None, None),
    ]


def test_the_last_row_is_told_too() -> None:
    assert moved(list(chain([row("cutover", "v1", "ready", "active")]))) == [("cutover", None, "v1", 1, 7)]
