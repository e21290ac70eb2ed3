"""The serving pointer: one row per index that names the route of its queries, moved by compare-and-set on its generation."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

import psycopg

from embed_pipeline.catalog import versions
from embed_pipeline.catalog.route import Kind, Route
from embed_pipeline.catalog.versions import Version, queries
from embed_pipeline.documents import queue
from embed_pipeline.errors import ChangesOvertook, CutoverRefused
from embed_pipeline.postgres.storable import storable
from embed_pipeline.signals import signal

Move = Literal["cutover", "rollback"]

# Only another move, or a person at a prompt, holds the rows that a flip locks.
LOCK_WAIT_MS = 5_000


@dataclass(frozen=True)
class Pointer:
    """The version that serves and the one before, and the whole route of each; all None before the first cutover."""

    version: str | None
    previous: str | None
    generation: int
    route: Route | None = None
    previous_route: Route | None = None

    @classmethod
    def of(cls, row: tuple[Any, ...] | None) -> Pointer:
        """A row of the queries `pointer` and `lock_pointer`. An index that never served has no version and generation 0."""
        now, before, generation = (row[:5], row[5:10], row[10]) if row else ((None,), (None,), 0)
        route, previous = (None if each[0] is None else Route(*each) for each in (now, before))
        return cls(now[0], before[0], generation, route, previous)


@dataclass(frozen=True)
class RolledBack:
    """A person's decision against a version: the rollback by which it was last left. `judged_since`: a gate has spoken about it after that."""

    at: datetime
    actor: str
    reason: str
    judged_since: bool

    def __str__(self) -> str:
        return f"rolled back from at {self.at:%Y-%m-%d %H:%M} UTC by {self.actor}{f': {self.reason}' if self.reason else ''}"


@dataclass(frozen=True)
class Flip:
    """Everything that one move of the pointer stands on. `mark` and `coverage_id` are of the version that is taken into service; None where
    the move leaves it in service."""

    index: str
    target: Route
    move: Move
    generation: int
    mark: int | None
    coverage_id: int | None
    evidence_id: int | None
    reason: str
    accept_stale: int = 0
    """How many documents the target may still have to bring up to date; of a rollback only."""


def read(conn: psycopg.Connection, index: str) -> Pointer:
    """Where the pointer stands; an index that never served has no version and generation 0."""
    row = conn.execute(queries("pointer"), {"index": index}).fetchone()
    return Pointer.of(row)


def last_move(conn: psycopg.Connection, index: str) -> Move | None:
    """By which kind of move the pointer came to where it stands."""
    row = conn.execute(queries("last_move"), {"index": index}).fetchone()
    return None if row is None else row[0]


def rolled_back(conn: psycopg.Connection, index: str, version: str, route: Kind = "direct") -> RolledBack | None:
    """The rollback that last took the version off such a route; None where it never was on one, or a cutover took it off."""
    row = conn.execute(queries("rolled_back"), {"index": index, "version": version, "route": route}).fetchone()
    return None if row is None else RolledBack(row[0].astimezone(timezone.utc), *row[1:])


def flip(conn: psycopg.Connection, wanted: Flip) -> list[str]:
    """Move the pointer in one short transaction, or leave everything as it was; returns the documents that were taken along stale.

    Re-checks under the pointer's row lock that nobody moved it and that no more than was accepted is pending up to the mark: the trigger of
    the pointer looks as well, and names in the audit what it lets pass. It never reads the documents: no application waits for it. The caller
    has compared the judged texts with what they are.
    """
    with conn.transaction():
        conn.execute(queries("begin_flip"), {"milliseconds": str(LOCK_WAIT_MS), "actor": storable(conn, versions.actor())})
        now = Pointer.of(conn.execute(queries("lock_pointer"), {"index": wanted.index}).fetchone())
        if now.generation != wanted.generation:
            raise CutoverRefused(
                f"Somebody else moved the serving pointer of {wanted.index} meanwhile.",
                next_step=f"Run: embed-pipeline status {wanted.index}",
                reason="another_move",
            )
        version = wanted.target.version
        stale = [] if wanted.mark is None else _stale(conn, wanted, wanted.mark)
        if now.version not in (None, version):
            versions.transition(conn, wanted.index, str(now.version), "standby", event=wanted.move, reason=wanted.reason)
        if now.version != version:
            versions.transition(
                conn, wanted.index, version, "active", event=wanted.move, reason=wanted.reason, evidence_id=wanted.evidence_id
            )
        versions.say_why(conn, event=wanted.move, reason=wanted.reason, evidence_id=wanted.evidence_id)
        if wanted.evidence_id is not None:
            conn.execute(queries("say_that_texts_were_read"), {"evidence_id": wanted.evidence_id})
        signal("cutover.half_moved")
        moved = conn.execute(
            queries("move_pointer"),
            {
                "index": wanted.index,
                "version": version,
                "refine": wanted.target.refine,
                "depth": wanted.target.depth,
                "queries": wanted.target.queries,
                "adapter": wanted.target.adapter,
                "generation": wanted.generation,
                "move": wanted.move,
                "evidence_id": wanted.evidence_id,
                "coverage_id": wanted.coverage_id,
                "mark": wanted.mark,
                "stale": None if wanted.mark is None else len(stale),
            },
        )
        if moved.rowcount != 1:
            raise CutoverRefused(
                f"The serving pointer of {wanted.index} was not moved.",
                next_step="Run the same command again.",
                reason="another_move",
            )
        notify(conn, wanted.index)
    return stale


def notify(conn: psycopg.Connection, index: str) -> None:
    """Make every searcher of the index look at the pointer again, once the caller's transaction has committed."""
    conn.execute(queries("notify_serving"), {"index": index})


def forget_previous(conn: psycopg.Connection, version: Version) -> None:
    """Clear the version as a rollback's target."""
    conn.execute(queries("forget_previous"), {"index": version.index, "version": version.name})


def _stale(conn: psycopg.Connection, wanted: Flip, mark: int) -> list[str]:
    stale = queue.ids_up_to(conn, wanted.index, wanted.target.version, mark)
    if len(stale) > wanted.accept_stale:
        raise ChangesOvertook(
            f"Changes up to the mark {mark} are pending again for {wanted.target.version}.",
            next_step="Run the same command again.",
            reason="changes_overtook",
            waiting=len(stale),
        )
    return stale


def already_done(conn: psycopg.Connection, wanted: Flip) -> bool:
    """After a lost answer: whether this very flip was committed.

    Asked under the pointer's row lock: the server may still be at that commit, and then it is waited for.
    """
    with conn.transaction():
        now = Pointer.of(conn.execute(queries("lock_pointer"), {"index": wanted.index}).fetchone())
    return now.generation == wanted.generation + 1 and now.route == wanted.target
