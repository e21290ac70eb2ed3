"""What is true of an index now, by the catalog alone: what serves, since when, by whom and why; what waits, what is lacking, what to do next.

For who looks each minute, so documents and vectors are not counted: `status` does that for who looks once. It is a few indexed queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import psycopg

from embed_pipeline.catalog import dead_letters, evidence, serving
from embed_pipeline.catalog.control import Control
from embed_pipeline.catalog.route import Kind
from embed_pipeline.catalog.serving import Pointer
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents.queue import Pending
from embed_pipeline.migrate import standing
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.report.index_status import Comparison
from embed_pipeline.report.look import Look, look
from embed_pipeline.report.next_command import Next, next_command, put_back
from embed_pipeline.report.status import (
    declared_only,
    doubts_of,
    held_of,
    last_comparison,
    pending_of,
    rolled_back_of,
)
from embed_pipeline.report.version_status import GateState, VersionStatus
from embed_pipeline.spec import IndexSpec

queries = Queries(__file__, "now.sql")


@dataclass(frozen=True)
class Move:
    """The last move of the serving pointer."""

    at: datetime
    move: str
    actor: str
    reason: str


@dataclass(frozen=True)
class Covered:
    """What the last comparison of a version with every document has found."""

    documents: int
    dead_letters: int
    differences: int
    at: datetime


@dataclass(frozen=True)
class Facts:
    """What the catalog itself knows of a version. `changed_at`: since when its model is another one than its vectors were made by."""

    seconds: float
    filled: tuple[str, ...]
    dead_letters: int
    changed_at: datetime | None
    lowest_cosine: float | None


@dataclass(frozen=True)
class Now:
    """An index as it is."""

    index: str
    pointer: Pointer
    moved: Move | None
    versions: tuple[VersionStatus, ...]
    facts: Mapping[str, Facts]
    held: Control
    doubts: tuple[str, ...]
    comparison: Comparison | None
    coverage: Covered | None
    """Of the version that serves."""
    next: Next
    max_dead_letters: int
    broken: tuple[str, ...] = ()
    """Of each live version whose vectors are gone or another ledger's, what has happened and what to do."""

    @property
    def serves(self) -> VersionStatus | None:
        """The version whose vectors are searched."""
        return self.version(self.pointer.version)

    def version(self, name: str | None) -> VersionStatus | None:
        """The version of that name."""
        return next((each for each in self.versions if each.name == name), None)


def now_of(spec: IndexSpec) -> Now | None:
    """The index as it is; None while nothing of it is registered. Changes nothing."""
    with look(spec, even_if_unusable=True) as seen:
        if not seen.registered:
            return None
        conn, pending = seen.conn, pending_of(seen)
        facts = {
            row[0]: Facts(row[1], tuple(row[2]), *row[3:]) for row in conn.execute(queries("versions"), {"index": spec.name})
        }
        registered = [
            _version(conn, spec, version, facts[version.name], pending.get(version.name, Pending(0, 0.0)))
            for version in seen.registered
        ]
        found = (*registered, *declared_only(spec, {version.name for version in registered}))
        held, doubts, pointer = held_of(seen), doubts_of(seen), serving.read(conn, spec.name)
        return Now(
            index=spec.name,
            pointer=pointer,
            moved=_move(conn, spec.name),
            versions=found,
            facts=facts,
            held=held,
            doubts=doubts,
            comparison=last_comparison(conn, spec.name),
            coverage=_coverage(conn, spec.name, pointer.version),
            next=_next(spec, seen, found, held, doubts, pointer),
            max_dead_letters=spec.gate.max_dead_letters,
            broken=() if seen.index is None or seen.unusable is not None else standing.broken(conn, seen.index),
        )


def _version(conn: psycopg.Connection, spec: IndexSpec, version: Version, facts: Facts, pending: Pending) -> VersionStatus:
    """As far as the catalog goes: whether the vectors and the ANN index of a version that was ready still stand, it does not know."""
    letters = dead_letters.first(conn, version.index, version.name) if facts.dead_letters else []
    return VersionStatus(
        name=version.name,
        state=version.state,
        model=f"{version.model_name} ({version.model_version})",
        dimensions=version.dimensions,
        since=version.state_since,
        seconds=facts.seconds,
        is_declared=version.name in spec.versions,
        partitions=version.partitions,
        partitions_done=len(facts.filled),
        stored=len(facts.filled),
        pending=pending.rows,
        oldest_pending_seconds=pending.oldest_seconds,
        dead_letters=facts.dead_letters,
        first_dead_letters=tuple(f"{letter.shown_id}: {letter.reason}" for letter in letters),
        ann_index="none" if version.state in ("building", "retired") else "valid",
        dropped=version.dropped_at is not None,
        gate=_gate(conn, version, "direct"),
        refine_gate=_gate(conn, version, "refine"),
        bridge_gate=_gate(conn, version, "bridge"),
        rolled_back=rolled_back_of(conn, version),
    )


def _gate(conn: psycopg.Connection, version: Version, route: Kind) -> GateState | None:
    found = evidence.latest(conn, version.index, version.name, route)
    if found is None:
        return None
    stale = "it is older than gate.max_age_seconds" if found.expired and version.state != "active" else None
    return GateState(found.outcome, found.sentence, found.created_at, stale, found.measures.get("queries_needed"), found.id)


def _move(conn: psycopg.Connection, index: str) -> Move | None:
    row = conn.execute(queries("last_move"), {"index": index}).fetchone()
    return None if row is None else Move(*row)


def _coverage(conn: psycopg.Connection, index: str, version: str | None) -> Covered | None:
    row = conn.execute(queries("last_coverage"), {"index": index, "version": version}).fetchone()
    return None if row is None else Covered(*row)


def _next(
    spec: IndexSpec, seen: Look, found: tuple[VersionStatus, ...], held: Control, doubts: tuple[str, ...], pointer: Pointer
) -> Next:
    if seen.differences:
        return put_back(spec.name, seen.differences)
    if seen.unusable is not None:
        return Next(None, seen.unusable.next_step or "the documents cannot be read")
    return next_command(
        spec.name,
        found,
        held,
        # Whoever registered a version has documents, or their own table: what is to be loaded first, `status` says.
        documents=1,
        own_table=spec.documents is not None,
        max_dead_letters=spec.gate.max_dead_letters,
        soak_seconds=spec.retire.soak_seconds,
        doubts=doubts,
        route=pointer.route,
        may_refine=spec.while_building.refine,
    )
