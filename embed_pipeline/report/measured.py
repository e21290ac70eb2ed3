"""What a monitor asks of an index every few seconds: numbers by the catalog alone, and what of it needs a person.

No documents are counted and no store is asked, as in the view `embed_pipeline.health`: coverage is what the last exact comparison found.
Beyond the view it looks at the triggers and at the declaration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from embed_pipeline.accounts import terms
from embed_pipeline.accounts.terms import Kind as Work
from embed_pipeline.catalog import evidence, searchers, serving
from embed_pipeline.catalog.route import KINDS, Kind
from embed_pipeline.catalog.serving import Pointer
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents.queue import Pending
from embed_pipeline.embedders.metering import Spent
from embed_pipeline.postgres import holders
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.report.attention import attention
from embed_pipeline.report.index_status import Attention, Comparison, IndexStatus
from embed_pipeline.report.look import Look, look
from embed_pipeline.report.next_command import Next
from embed_pipeline.report.status import (
    OLD_TRANSACTION_SECONDS,
    capture_off_of,
    doubts_of,
    held_of,
    last_comparison,
    pending_of,
    watched_of,
)
from embed_pipeline.report.version_status import GateState, VersionStatus
from embed_pipeline.spec import IndexSpec

queries = Queries(__file__, "measured.sql")


@dataclass(frozen=True)
class Facts:
    """What the catalog knows of one version.

    `coverage`: the share of the documents that were as they should be when it was last compared with all of them; dead letters and changes
    that waited are.
    """

    version: str
    state: str
    fingerprint: str
    model: str
    dimensions: int
    dropped: bool
    partitions: int
    filled: int
    dead_letters: int
    model_checked: datetime | None
    model_changed: datetime | None
    coverage: float | None
    coverage_at: datetime | None
    readers: int
    left_behind: int


@dataclass(frozen=True)
class Measured:
    """One index. Retired versions are in `facts` and `spent` alone: nothing waits for them."""

    index: str
    facts: tuple[Facts, ...] = ()
    pending: Mapping[str, Pending] = field(default_factory=dict)
    spent: Mapping[str, Mapping[Work, Spent]] = field(default_factory=dict)
    gates: Mapping[tuple[str, Kind], GateState] = field(default_factory=dict)
    pointer: Pointer = field(default_factory=lambda: Pointer(None, None, 0))
    comparison: Comparison | None = None
    doubts: int = 0
    held: bool = False
    attention: tuple[Attention, ...] = ()


def measured(spec: IndexSpec) -> Measured:
    """The numbers of a declared index; only its name while nothing of it is registered. Changes nothing."""
    with look(spec, even_if_unusable=True) as seen:
        if not seen.registered:
            return Measured(spec.name)
        conn = seen.conn
        asked = {"index": spec.name, "gone": searchers.GONE_SECONDS}
        facts = tuple(Facts(*row) for row in conn.execute(queries("versions"), asked))
        live = [each for each in facts if each.state != "retired"]
        found = Measured(
            spec.name,
            facts,
            pending_of(seen),
            terms.spending(conn, spec.name),
            _gates(seen, {each.version for each in live}),
            serving.read(conn, spec.name),
            last_comparison(conn, spec.name),
        )
        return _judged(seen, found)


def _gates(seen: Look, live: set[str]) -> dict[tuple[str, Kind], GateState]:
    found = {}
    for version in live:
        for kind in KINDS:
            latest = evidence.latest(seen.conn, seen.spec.name, version, kind)
            if latest is not None:
                found[version, kind] = GateState(latest.outcome, latest.sentence, latest.created_at)
    return found


def _judged(seen: Look, found: Measured) -> Measured:
    """By the one list of what is wrong, as far as it goes without documents and stores: what is not known is left as if it were well."""
    held, doubts = held_of(seen), doubts_of(seen)
    status = IndexStatus(
        index=found.index,
        documents_table=seen.spec.source().table,
        documents=0,
        serving=found.pointer,
        control=held,
        versions=tuple(_version(seen, found, facts) for facts in found.facts),
        events=(),
        next=Next(None, ""),
        comparison=found.comparison,
        watch=watched_of(seen.conn, seen.spec.name),
        doubts=doubts,
        capture_off=capture_off_of(seen),
        unusable="" if seen.unusable is None else str(seen.unusable),
        declared_otherwise=tuple(map(str, seen.differences)),
        left_behind=_left_behind(seen),
        old_transactions=tuple(map(str, holders.old(seen.conn, OLD_TRANSACTION_SECONDS))),
    )
    return replace(
        found,
        doubts=len(doubts),
        held=held.state != "running",
        attention=attention(status, seen.spec.gate.max_dead_letters),
    )


def _version(seen: Look, found: Measured, facts: Facts) -> VersionStatus:
    pending = found.pending.get(facts.version, Pending(0, 0.0))
    return VersionStatus(
        name=facts.version,
        state=next(version.state for version in seen.registered if version.name == facts.version),
        model=facts.model,
        dimensions=facts.dimensions,
        pending=pending.rows,
        oldest_pending_seconds=pending.oldest_seconds,
        dead_letters=facts.dead_letters,
        dropped=facts.dropped,
        gate=found.gates.get((facts.version, "direct")),
        refine_gate=found.gates.get((facts.version, "refine")),
        bridge_gate=found.gates.get((facts.version, "bridge")),
        ever_passed=evidence.ever_passed(seen.conn, found.index, facts.version),
        model_changed=facts.model_changed,
    )


def _left_behind(seen: Look) -> tuple[str, ...]:
    def of(version: Version) -> list[str]:
        return [f"{each.version}: {each}" for each in searchers.left_behind(seen.conn, version)]

    return tuple(said for version in seen.registered if version.is_live for said in of(version))
