"""The state of an index: the serving version, the progress of each version, what blocks it, and the next command."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Literal

import psycopg

from embed_pipeline.accounts import terms
from embed_pipeline.accounts.terms import AccountState, Kind
from embed_pipeline.adapt import age
from embed_pipeline.catalog import (
    adapters,
    control,
    dead_letters,
    evidence,
    model_samples,
    partitions,
    route,
    searchers,
    serving,
    versions,
    watch_looks,
)
from embed_pipeline.catalog.control import Control
from embed_pipeline.catalog.evidence import Evidence
from embed_pipeline.catalog.serving import Pointer, RolledBack
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import capture, census, inbox, queue, shape
from embed_pipeline.documents.queue import Pending
from embed_pipeline.embedders.metering import Spent
from embed_pipeline.errors import AnotherLedger, EmbedPipelineError, StoreRefused, StoreUnavailable, VectorsGone, VersionRetired
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import judged, standing
from embed_pipeline.migrate.standing import vectors_gone
from embed_pipeline.postgres import holders
from embed_pipeline.report.attention import attention
from embed_pipeline.report.index_status import Comparison, Event, IndexStatus, Watched
from embed_pipeline.report.look import Look, look, queries
from embed_pipeline.report.next_command import Next, next_command, phase, put_back
from embed_pipeline.report.running import Running, filling, running
from embed_pipeline.report.version_status import GateState, VersionStatus
from embed_pipeline.spec import IndexSpec, VersionSpec

EVENTS = 10
# No move waits for it; VACUUM does, and the build of an ANN index, and searches walk past what could not be cleaned up.
OLD_TRANSACTION_SECONDS = 3_600.0


def watched_of(conn: psycopg.Connection, index: str) -> Watched | None:
    """What the newest look after the cutover has found, where that is a loss or could not be known."""
    newest = watch_looks.last(conn, index)
    return (
        None
        if newest is None or newest.outcome not in ("fail", "unknown")
        else Watched(newest.sentence, newest.outcome == "fail")
    )


def status(index: OpenIndex) -> IndexStatus:
    """The state of an open index."""
    return status_of(index.spec)


def status_of(spec: IndexSpec) -> IndexStatus:
    """The state of a declared index, registered or not. Changes nothing."""
    with look(spec, even_if_unusable=True) as seen:
        found = _found(seen)
        if any(each.missing for each in found.versions):
            # Documents were counted before vectors: what came or went between is no lack. What lacks in two looks does.
            again = _found(seen)
            found = again if not any(each.missing for each in again.versions) else found
        return replace(found, attention=attention(found, spec.gate.max_dead_letters))


def _found(seen: Look) -> IndexStatus:
    conn, spec = seen.conn, seen.spec
    documents = 0 if seen.index is None or seen.unusable is not None else census.count(conn, seen.index.source)
    found = _versions(seen, documents)
    held, doubts, off = held_of(seen), doubts_of(seen), capture_off_of(seen)
    pointer = serving.read(conn, spec.name) if seen.has_catalog else Pointer(None, None, 0)
    under_way = running(conn, spec.name) if seen.has_catalog else ()
    serves = next((each for each in found if each.name == pointer.version), None)
    return IndexStatus(
        index=spec.name,
        documents_table=spec.source().table,
        documents=documents,
        serving=pointer,
        control=held,
        versions=found,
        events=_events(conn, "last_events", spec.name) if seen.has_catalog else (),
        next=next_of(seen, found, held, (doubts, off), pointer, under_way, documents),
        phase=phase(found),
        coverage=None if serves is None or seen.unusable is not None else serves.coverage,
        served_since=next(iter(_events(conn, "last_move", spec.name)), None) if pointer.version else None,
        running=under_way,
        comparison=last_comparison(conn, spec.name) if seen.has_catalog else None,
        doubts=doubts,
        capture_off=off,
        unusable="" if seen.unusable is None else str(seen.unusable),
        throttle=control.throttle_states(conn, spec.name) if seen.has_catalog else (),
        declared_otherwise=tuple(map(str, seen.differences)),
        not_yet_set=tuple(map(str, seen.not_yet_set)),
        left_behind=tuple(
            f"{each.version}: {each}"
            for version in seen.registered
            if version.is_live
            for each in searchers.left_behind(conn, version)
        ),
        old_transactions=tuple(map(str, holders.old(conn, OLD_TRANSACTION_SECONDS))),
        adapters=() if seen.unusable is not None else _adapters(conn, seen),
        accounts=_accounts(conn, seen),
        warnings=seen.warnings,
        watch=watched_of(conn, spec.name) if seen.has_catalog else None,
    )


def _versions(seen: Look, documents: int) -> tuple[VersionStatus, ...]:
    """Those that are registered, and after them those that are only declared."""
    conn, spec, pending = seen.conn, seen.spec, pending_of(seen)
    spent = terms.spending(conn, spec.name) if seen.has_catalog else {}
    found = []
    for version in seen.registered if seen.index is not None else ():
        assert seen.index is not None
        own = _version(
            conn,
            seen.index,
            version,
            pending.get(version.name, Pending(0, 0.0)),
            spent.get(version.name, {}),
            unusable=seen.unusable is not None,
        )
        found.append(own.against(documents) if seen.unusable is None else own)
    return (*found, *declared_only(spec, {each.name for each in found}))


def next_of(
    seen: Look,
    found: tuple[VersionStatus, ...],
    held: Control,
    missed: tuple[tuple[str, ...], str],
    pointer: Pointer,
    under_way: tuple[Running, ...],
    documents: int,
) -> Next:
    """The next command. `missed`: what is doubted, and what of change capture is off."""
    spec = seen.spec
    if seen.differences:
        return put_back(spec.name, seen.differences)
    if seen.unusable is not None:
        return Next(None, seen.unusable.next_step or "the documents cannot be read")
    return next_command(
        spec.name,
        found,
        held,
        documents=documents,
        own_table=not spec.makes_table,
        max_dead_letters=spec.gate.max_dead_letters,
        soak_seconds=spec.retire.soak_seconds,
        doubts=missed[0],
        capture_off=missed[1],
        route=pointer.route,
        may_refine=spec.while_building.refine,
        filling={each.name for each in found if filling(under_way, each.name)},
    )


def declared_only(spec: IndexSpec, registered: Collection[str]) -> list[VersionStatus]:
    """The versions that are declared and not registered yet."""
    return [
        VersionStatus(
            name=name, state="declared", model=version.model_name, dimensions=version.dimensions, chunker=_chunker(version)
        )
        for name, version in spec.versions.items()
        if name not in registered
    ]


def pending_of(seen: Look) -> dict[str, Pending]:
    """What each live version has to do: what it was told of, and what no version was told of yet."""
    if not seen.has_catalog:
        return {}
    told, untold = queue.pending_by_version(seen.conn, seen.spec.name), inbox.waiting(seen.conn, seen.spec.name)
    found = {}
    for version in seen.registered:
        own = told.get(version.name, Pending(0, 0.0))
        if version.is_live:
            own = Pending(own.rows + untold.ids, max(own.oldest_seconds, untold.oldest_seconds))
        found[version.name] = own
    return found


def doubts_of(seen: Look) -> tuple[str, ...]:
    """Why changes may have been missed: what is open, and what a look at the documents table would add now."""
    if not seen.has_catalog or seen.index is None:
        return ()
    still_open = [doubt.reason for doubt in shape.open_doubts(seen.conn, seen.spec.name)]
    if seen.unusable is not None:
        still_open.insert(0, seen.unusable.message.rstrip("."))
    return tuple(dict.fromkeys([*still_open, *shape.differences(seen.conn, seen.index.source, seen.spec.name)]))


def capture_off_of(seen: Look) -> str:
    """What of change capture does not fire. Nothing before capture was armed at all, and of documents that cannot be read: that says it already."""
    if seen.index is None or seen.unusable is not None or not seen.registered or seen.differences:
        return ""
    return ", ".join(capture.disarmed(seen.conn, seen.index.source, seen.spec.name))


def held_of(seen: Look) -> Control:
    """Whether a person holds its backfills."""
    # Without a version there may be no control row yet, and nothing that it could hold up.
    return control.read(seen.conn, seen.spec.name) if seen.registered else Control("running", "", "")


def last_comparison(conn: psycopg.Connection, index: str) -> Comparison | None:
    """What the last full comparison has found; None before the first."""
    row = conn.execute(queries("last_comparison"), {"index": index}).fetchone()
    if row is None:
        return None
    at, sentence, detail = row
    # Before the first release that compared by schedule, the count stood alone.
    queued = detail.get("queued", 0)
    return Comparison(at, sentence, sum(queued.values()) if isinstance(queued, dict) else int(queued))


def _events(conn: psycopg.Connection, asked: str, index: str) -> tuple[Event, ...]:
    return tuple(Event(*row) for row in conn.execute(queries(asked), {"index": index, "limit": EVENTS}))


def _accounts(conn: psycopg.Connection, seen: Look) -> tuple[AccountState, ...]:
    used = [version.declared for version in seen.registered if version.is_live]
    declared = {spec.account_name: seen.spec.account(spec) for spec in used}
    return tuple(terms.account_state(conn, name, account) for name, account in declared.items() if name is not None)


def _adapters(conn: psycopg.Connection, seen: Look) -> tuple[str, ...]:
    serves = serving.read(conn, seen.spec.name).version if seen.registered else None
    if serves is None or seen.index is None:
        return ()
    found = []
    for version in seen.registered:
        if version.is_live and adapters.latest(conn, seen.spec.name, version.name, serves) is not None:
            try:
                found.append(age.adapter_fresh(seen.index, version.name).sentence)
            except EmbedPipelineError as problem:
                found.append(problem.message)
    return tuple(found)


def _version(
    conn: psycopg.Connection,
    index: OpenIndex,
    version: Version,
    pending: Pending,
    spent: Mapping[Kind, Spent],
    *,
    unusable: bool = False,
) -> VersionStatus:
    listed = partitions.listed(conn, index.name, version.name)
    store = index.store(version)
    gone, another, unasked, stored, ann, size = "", "", "", 0, None, 0
    try:
        if version.is_live and not unusable:
            _require_standing(conn, index, version)
        stored = store.count(conn) if version.dropped_at is None else 0
    except AnotherLedger as problem:
        another = str(problem)
    except VectorsGone as problem:
        gone = str(problem)
    except VersionRetired:
        gone = str(vectors_gone(conn, version)) if version.is_live else ""
    except (StoreUnavailable, StoreRefused) as problem:
        unasked = str(problem)
    has_vectors = version.dropped_at is None and not gone and not another and not unasked
    if has_vectors:
        ann, size = store.ann_index(conn), store.size_bytes(conn)
    ann_state: Literal["valid", "invalid", "missing", "none"] = "none"
    if has_vectors:
        ann_state = "missing" if ann is None else "valid" if ann.valid else "invalid"
    letters = dead_letters.first(conn, index.name, version.name)
    return VersionStatus(
        name=version.name,
        state=version.state,
        model=f"{version.model_name} ({version.model_version})",
        dimensions=version.dimensions,
        since=version.state_since,
        seconds=versions.seconds_in_state(conn, version),
        fingerprint=version.fingerprint[:12],
        is_declared=version.name in index.spec.versions,
        partitions=len(listed),
        partitions_done=sum(each.completed_at is not None for each in listed),
        stored=stored,
        pending=pending.rows,
        oldest_pending_seconds=pending.oldest_seconds,
        dead_letters=dead_letters.count(conn, index.name, version.name),
        first_dead_letters=tuple(f"{letter.shown_id}: {letter.reason}" for letter in letters),
        ann_index=ann_state,
        ann_index_bytes=0 if ann is None else ann.bytes or 0,
        bytes=size,
        dropped=version.dropped_at is not None,
        gone=gone,
        another=another,
        unasked=unasked,
        untold=standing.untold(index, version) if has_vectors else "",
        gate=_gate_state(conn, index, version, evidence.latest(conn, index.name, version.name), unusable=unusable),
        refine_gate=_gate_state(
            conn, index, version, evidence.latest(conn, index.name, version.name, "refine"), unusable=unusable or not has_vectors
        ),
        bridge_gate=_gate_state(
            conn, index, version, evidence.latest(conn, index.name, version.name, "bridge"), unusable=unusable or not has_vectors
        ),
        rolled_back=rolled_back_of(conn, version),
        ever_passed=evidence.ever_passed(conn, index.name, version.name),
        model_changed=model_samples.changed_at(conn, index.name, version.name) if version.is_live else None,
        chunker=_chunker(version.declared),
        spent=spent,
    )


def rolled_back_of(conn: psycopg.Connection, version: Version) -> Mapping[route.Kind, RolledBack]:
    """Of a version that could serve so at once: one that serves already is no such decision's any more."""
    kinds: dict[str, route.Kind] = {"standby": "direct", "building": "refine"}
    kind = kinds.get(version.state)
    found = None if kind is None else serving.rolled_back(conn, version.index, version.name, kind)
    return {} if kind is None or found is None else {kind: found}


def _require_standing(conn: psycopg.Connection, index: OpenIndex, version: Version) -> None:
    index.store(version).require_ours(conn)
    with standing.unless_dropped(index, version):
        standing.require(conn, index, version)


def _chunker(declared: VersionSpec) -> str:
    return "" if declared.chunker is None else str(declared.chunker)


def _gate_state(
    conn: psycopg.Connection, index: OpenIndex, version: Version, latest: Evidence | None, *, unusable: bool
) -> GateState | None:
    if latest is None:
        return None
    stale = "the documents cannot be read" if unusable else None
    if not unusable and (version.state in ("ready", "standby") or (latest.route != "direct" and version.state == "building")):
        try:
            stale = judged.staleness(conn, index, version, latest)
        except EmbedPipelineError as problem:
            # A held-out set that cannot be read must not hide the rest of the status.
            stale = problem.message.rstrip(".")
    return GateState(latest.outcome, latest.sentence, latest.created_at, stale, latest.measures.get("queries_needed"), latest.id)
