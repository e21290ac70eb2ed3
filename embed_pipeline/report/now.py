"""What is true of an index now, by the catalog alone: what serves, since when, by whom and why; what waits, what is lacking, what to do next.

For who looks each minute, so documents and vectors are not counted: `status` does that for who looks once. It is a few indexed queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import psycopg

from embed_pipeline.catalog import dead_letters, evidence, model_samples, serving
from embed_pipeline.catalog.route import Kind
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents.queue import Pending
from embed_pipeline.migrate import standing
from embed_pipeline.migrate.standing import Stands
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.report.attention import attention
from embed_pipeline.report.index_status import Attention, IndexStatus
from embed_pipeline.report.look import Look, look
from embed_pipeline.report.status import (
    capture_off_of,
    declared_only,
    doubts_of,
    held_of,
    last_comparison,
    next_of,
    pending_of,
    rolled_back_of,
    watched_of,
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
    """What the catalog itself knows of a version."""

    seconds: float
    filled: tuple[str, ...]
    dead_letters: int


@dataclass(frozen=True)
class Now:
    """An index as it is. `filled`: of each version the partitions that are."""

    status: IndexStatus
    """The same facts as `status` has, but those that are counted: documents, vectors, the ANN index, what has moved under the evidence."""
    moved: Move | None
    filled: Mapping[str, tuple[str, ...]]
    coverage: Covered | None
    """Of the version that serves."""
    max_dead_letters: int

    @property
    def serves(self) -> VersionStatus | None:
        """The version whose vectors are searched."""
        return self.version(self.status.serving.version)

    def version(self, name: str | None) -> VersionStatus | None:
        """The version of that name."""
        return next((each for each in self.status.versions if each.name == name), None)

    @property
    def attention(self) -> tuple[Attention, ...]:
        """What needs a person, by the list of `status`."""
        return attention(self.status, self.max_dead_letters)


def now_of(spec: IndexSpec) -> Now | None:
    """The index as it is; None while nothing of it is registered. Changes nothing."""
    with look(spec, even_if_unusable=True) as seen:
        if not seen.registered:
            return None
        conn, facts = seen.conn, _facts(seen.conn, spec.name)
        found = _status(seen, facts)
        return Now(
            status=found,
            moved=_move(conn, spec.name),
            filled={name: each.filled for name, each in facts.items()},
            coverage=_coverage(conn, spec.name, found.serving.version),
            max_dead_letters=spec.gate.max_dead_letters,
        )


def _facts(conn: psycopg.Connection, index: str) -> Mapping[str, Facts]:
    return {row[0]: Facts(row[1], tuple(row[2]), row[3]) for row in conn.execute(queries("versions"), {"index": index})}


def _status(seen: Look, facts: Mapping[str, Facts]) -> IndexStatus:
    conn, spec, pending = seen.conn, seen.spec, pending_of(seen)
    registered = [
        _version(seen, version, facts[version.name], pending.get(version.name, Pending(0, 0.0))) for version in seen.registered
    ]
    found = (*registered, *declared_only(spec, {version.name for version in registered}))
    held, doubts, off, pointer = held_of(seen), doubts_of(seen), capture_off_of(seen), serving.read(conn, spec.name)
    return IndexStatus(
        index=spec.name,
        documents_table=spec.source().table,
        documents=0,
        serving=pointer,
        control=held,
        versions=found,
        events=(),
        # Whoever registered a version has documents, or their own table: what is to be loaded first, `status` says.
        next=next_of(seen, found, held, (doubts, off), pointer, (), documents=1),
        comparison=last_comparison(conn, spec.name),
        watch=watched_of(conn, spec.name),
        doubts=doubts,
        capture_off=off,
        unusable="" if seen.unusable is None else str(seen.unusable),
        declared_otherwise=tuple(map(str, seen.differences)),
    )


def _version(seen: Look, version: Version, facts: Facts, pending: Pending) -> VersionStatus:
    """As far as the catalog and a few look-ups in its store go: whether the ANN index of a version that was ready still stands, they do not say."""
    conn, spec = seen.conn, seen.spec
    stands = Stands() if seen.index is None or seen.unusable is not None else standing.stands(conn, seen.index, version)
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
        gone=stands.gone,
        another=stands.another,
        unasked=stands.unasked,
        untold=stands.untold,
        gate=_gate(conn, version, "direct"),
        refine_gate=_gate(conn, version, "refine"),
        bridge_gate=_gate(conn, version, "bridge"),
        rolled_back=rolled_back_of(conn, version),
        ever_passed=evidence.ever_passed(conn, version.index, version.name),
        model_changed=model_samples.changed_at(conn, version.index, version.name) if version.is_live else None,
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
