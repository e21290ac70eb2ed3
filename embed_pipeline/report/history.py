"""The audit of an index as a chain: who moved what, when, why, from where to where, on what evidence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from embed_pipeline.catalog.route import Route
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.report.look import look
from embed_pipeline.spec import IndexSpec

queries = Queries(__file__, "history.sql")

MOVES = ("cutover", "rollback")
# These come and go by themselves, and would hide what people did.
DAILY = ("throttle", "reconcile")


@dataclass(frozen=True)
class Step:
    """One thing that happened. Of a move `before` and `after` are the routes of queries, and `generation` counts the moves; of any other step they
    are the states, of a version or of the index."""

    at: datetime
    event: str
    version: str | None
    before: str | None
    after: str | None
    actor: str
    reason: str
    generation: int | None = None
    evidence_id: int | None = None
    outcome: str | None = None
    evidence: str | None = None
    detail: Mapping[str, Any] | None = None

    @property
    def is_move(self) -> bool:
        return self.generation is not None


@dataclass(frozen=True)
class Row:
    """A row of the audit, with the evidence that it names."""

    id: int
    at: datetime
    event: str
    version: str | None
    from_state: str | None
    to_state: str | None
    actor: str
    reason: str
    detail: Mapping[str, Any]
    evidence_id: int | None
    outcome: str | None
    evidence: str | None


def history(spec: IndexSpec, *, everything: bool = False) -> tuple[Step, ...]:
    """All that happened, the oldest first. `everything`: also each wait of a throttle and each full comparison."""
    with look(spec, even_if_unusable=True) as seen:
        if not seen.has_catalog:
            return ()
        values = {"index": spec.name, "without": [] if everything else list(DAILY)}
        return tuple(chain(Row(*row) for row in seen.conn.execute(queries("events"), values)))


def chain(rows: Iterable[Row]) -> Iterator[Step]:
    """A move is one step: the database writes a row for each version whose state it changes, and one for a route. Pure."""
    serves: str | None = None
    generation = 0
    left: Row | None = None
    moved: Step | None = None
    for row in rows:
        if moved is not None and not (row.event == "route" and row.detail["generation"] == moved.generation):
            yield moved
            moved = None
        if row.event == "route":
            generation = int(row.detail["generation"])
            step = moved or _step(row, None, None)
            before, serves = _route(row.detail["before"]), _route(row.detail["route"])
            yield replace(step, event=str(row.detail["move"]), before=before, after=serves, generation=generation)
            moved, left = None, None
        elif row.event in MOVES and row.to_state == "standby":
            left = row
        elif row.event in MOVES and row.to_state == "active":
            generation += 1
            before, serves = serves if left is None else (serves or left.version), row.version
            moved, left = replace(_step(row, before, serves), generation=generation), None
        else:
            yield _step(row, row.from_state, row.to_state)
    if moved is not None:
        yield moved


def _step(row: Row, before: str | None, after: str | None) -> Step:
    return Step(
        row.at,
        row.event,
        row.version,
        before,
        after,
        row.actor,
        row.reason,
        evidence_id=row.evidence_id,
        outcome=row.outcome,
        evidence=row.evidence,
        detail=row.detail or None,
    )


def _route(said: Mapping[str, Any]) -> str | None:
    """A route as the audit has it, in the words of a route."""
    if said["version"] is None:
        return None
    return str(Route(said["version"], said["refine"], said["depth"], said["queries"], said["adapter"]))
