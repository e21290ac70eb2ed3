"""Cutover and rollback: move the serving pointer forward or back, wholly or not at all.

Nothing here locks the documents, renames anything or runs DDL. A failure at any step leaves exactly the state before.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psycopg

from embed_pipeline.catalog import searchers, serving, versions
from embed_pipeline.catalog.route import Kind, Route
from embed_pipeline.catalog.serving import Flip, Move, Pointer
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import queue, shape
from embed_pipeline.errors import ChangesOvertook, CutoverRefused
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import beside, cutover_checks, dual_write, readers, way_back
from embed_pipeline.migrate.dual_write import Drained
from embed_pipeline.postgres import holders, turns
from embed_pipeline.postgres.session import Line
from embed_pipeline.signals import signal

TRIES = 5
MOVED_TABLES = ("embed_pipeline.serving_pointer", "embed_pipeline.index_versions")


@dataclass(frozen=True)
class Moved:
    """A move of the pointer that happened. `doubts`: what was open at that moment, for a rollback is not held up by it."""

    index: str
    version: str
    previous: str | None
    generation: int
    evidence_id: int | None
    seconds: float
    doubts: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    """Documents that the version had not brought up to date when it was taken into service, longest waiting first: the queue has them."""
    left_behind: tuple[str, ...] = ()
    """Processes that search and lack its model: they go on with the version before while that is live, and then fail. Of a version that
    refines: they go on without it."""
    route: Route | None = None
    """The route of queries from now on."""
    before: Route | None = None


def cutover(
    index: OpenIndex, name: str, reason: str = "", *, anyway: bool = False, again: bool = False, route: Kind = "direct"
) -> Moved:
    """Serve `name` from now on. Needs a ready version, fresh passing evidence and complete coverage; there is no flag to skip any.

    `route`: what serves goes on to; refine: `name`, complete or not, puts in order what is found; bridge: queries are `name`'s, mapped by an
    adapter. Each needs passing evidence for that. The version that serves does so by itself again when it is named here, without new evidence.

    `anyway`: also where processes that search lack its model; the audit names them.
    `again`: also where somebody has rolled back from it and no gate has judged it since.
    AliasNotUpdated after the move: it stands, and readers who go by the store's alias hear of it from the same command.
    """
    with index.connection() as conn, only_mover(conn, index):
        version = index.version(conn, name)
        pointer = serving.read(conn, index.name)
        if route != "direct":
            return _beside(conn, index, version, route, pointer, reason, anyway=anyway, again=again)
        if pointer.version == name and pointer.route != Route(name):
            return _reroute(conn, index, pointer, Route(name), "cutover", None, reason or f"by itself, not {pointer.route}")
        if pointer.version == name:
            # The cutover before may have moved the pointer and died before it told anyone.
            readers.tell(index)
            raise CutoverRefused(
                f"{name} serves {index.name} already.",
                next_step=f"Run: embed-pipeline status {index.name}",
                reason="serves_already",
            )
        if version.state not in ("ready", "standby"):
            raise CutoverRefused(
                f"Version {name} of {index.name} is {version.state}; only a ready or standby version can be cut over to.",
                next_step=f"Run: embed-pipeline backfill {index.name} {name}",
                reason="not_ready",
                state=version.state,
            )
        cutover_checks.require_ann_index(conn, index, version)
        cutover_checks.refuse_doubts(conn, index)
        cutover_checks.refuse_changed_model(conn, index, version)
        passing = cutover_checks.require_evidence(conn, index, version)
        way_back.respect_rollback(conn, version, "direct", again=again)
        left_behind = cutover_checks.leave_behind(conn, version, pointer.version, anyway=anyway)
        moved = _move(conn, index, version, Route(name), "cutover", passing.id, reason)
        return replace(moved, left_behind=left_behind)


def _beside(
    conn: psycopg.Connection,
    index: OpenIndex,
    version: Version,
    kind: Kind,
    pointer: Pointer,
    reason: str,
    *,
    anyway: bool,
    again: bool,
) -> Moved:
    """What serves goes on to, and `version` with it: what is found is put in order by it, or its queries are what is asked."""
    route = beside.wanted(conn, index, version, kind)
    if pointer.route == route:
        raise CutoverRefused(
            f"{route} serves {index.name} already.",
            next_step=f"Run: embed-pipeline status {index.name}",
            reason="serves_already",
        )
    cutover_checks.refuse_doubts(conn, index)
    cutover_checks.refuse_changed_model(conn, index, version)
    passing = cutover_checks.require_evidence(conn, index, version, kind)
    way_back.respect_rollback(conn, version, kind, again=again)
    # Searchers without the model of a version that refines go on without it; on a bridge they have no other.
    left_behind = tuple(map(str, searchers.left_behind(conn, version)))
    if kind == "bridge":
        left_behind = cutover_checks.leave_behind(conn, version, pointer.version, anyway=anyway)
    moved = _reroute(conn, index, pointer, route, "cutover", passing.id, reason)
    return replace(moved, left_behind=left_behind)


def rollback(
    index: OpenIndex, reason: str = "", *, accept_stale: int = 0, to: str | None = None, generation: int | None = None
) -> Moved:
    """Serve the version that served before. It was dual-written all along, so nothing is lost. The gate is not asked.

    `to`: the version that it is to return to. Who names none goes back from a cutover only: after a rollback it would undo that.

    What waits for it is worked off first, as far as its model can. `accept_stale`: so many documents may still wait afterwards; it serves
    them as they were, the audit names them, and the dual-write goes on with them. CutoverRefused says how many there are.
    `generation`: only from this one, which is what the caller has judged.
    """
    with index.connection() as conn, only_mover(conn, index):
        pointer = serving.read(conn, index.name)
        _refuse_another(index, pointer, generation)
        if pointer.version is None or pointer.previous is None:
            raise CutoverRefused(
                f"There is nothing to roll {index.name} back to: no version served before, or it is retired.",
                next_step=f"Run: embed-pipeline status {index.name}",
                reason="nothing_before",
            )
        assert pointer.previous_route is not None
        way_back.require_target(conn, pointer, index.name, to)
        version, route = index.version(conn, pointer.previous), pointer.previous_route
        cutover_checks.require_ann_index(conn, index, version)
        doubts = tuple(doubt.reason for doubt in shape.look(conn, index.source, index.name))
        unable = tuple(map(str, searchers.left_behind(conn, version)))
        why = reason or f"rollback from {pointer.route}"
        if route.version == pointer.version:
            moved = _reroute(conn, index, pointer, route, "rollback", None, why)
        else:
            moved = _move(conn, index, version, route, "rollback", None, why, accept_stale, judged_generation=generation)
        return replace(moved, doubts=doubts, left_behind=unable)


def _refuse_another(index: OpenIndex, pointer: Pointer, generation: int | None) -> None:
    """Refuse if the pointer was moved since the judgement: that move has the last word."""
    if generation is not None and pointer.generation != generation:
        raise CutoverRefused(
            f"The serving pointer of {index.name} is of generation {pointer.generation} by now, and {generation} was judged.",
            next_step=f"Run: embed-pipeline status {index.name}",
            reason="another_move",
        )


def _move(
    conn: psycopg.Connection,
    index: OpenIndex,
    version: Version,
    route: Route,
    move: Move,
    evidence_id: int | None,
    reason: str,
    accept_stale: int = 0,
    judged_generation: int | None = None,
) -> Moved:
    """Mark, drain, cover, flip; again with a longer pause when changes overtook us. gh-ost's shape.

    Coverage comes after the drain: a change that was drained may have made a dead letter, and that one counts.
    """
    started = time.monotonic()
    for attempt in range(TRIES):
        cutover_checks.refuse_locked_documents(conn, index)
        generation = serving.read(conn, index.name)
        _refuse_another(index, generation, judged_generation)
        with cutover_checks.documents_as_armed(index):
            mark = dual_write.distributor(index).take_mark(conn)
            signal("cutover.marked")
            drained = dual_write.drain(index, version.name, mark, accepted=accept_stale)
            if drained.left > accept_stale:
                raise _not_drained(conn, index, version, move, mark, drained)
            signal("cutover.drained")
            coverage_id = cutover_checks.require_coverage(conn, index, version)
            if evidence_id is not None:
                # Once more: the drain may have taken minutes, in which the documents became others than those that were judged.
                evidence_id = cutover_checks.require_evidence(conn, index, version).id
        signal("cutover.covered")
        wanted = Flip(index.name, route, move, generation.generation, mark, coverage_id, evidence_id, reason, accept_stale)
        try:
            stale = _flip(conn, index, wanted)
        except ChangesOvertook:
            if attempt + 1 == TRIES:
                raise
            time.sleep(0.2 * 2**attempt)
            continue
        readers.tell(index)
        return Moved(
            index=index.name,
            version=version.name,
            previous=generation.version,
            generation=generation.generation + 1,
            evidence_id=evidence_id,
            seconds=time.monotonic() - started,
            stale=tuple(stale),
            route=route,
            before=generation.route,
        )
    raise AssertionError("unreachable: the last try returns or raises")


def _reroute(
    conn: psycopg.Connection, index: OpenIndex, pointer: Pointer, route: Route, move: Move, evidence_id: int | None, reason: str
) -> Moved:
    """Move the pointer to another route over the version that serves, which is as complete and as current as before."""
    started = time.monotonic()
    signal("cutover.rerouting")
    _flip(conn, index, Flip(index.name, route, move, pointer.generation, None, None, evidence_id, reason))
    readers.tell(index)
    return Moved(
        index=index.name,
        version=route.version,
        previous=pointer.version,
        generation=pointer.generation + 1,
        evidence_id=evidence_id,
        seconds=time.monotonic() - started,
        route=route,
        before=pointer.route,
    )


def _not_drained(
    conn: psycopg.Connection, index: OpenIndex, version: Version, move: Move, mark: int, drained: Drained
) -> CutoverRefused:
    again = "then the same command again"
    accept = (
        ""
        if move == "cutover"
        else f"; or, to serve them as they are: embed-pipeline rollback {index.name} --accept-stale {drained.left}"
    )
    waited = f"{drained.left} documents of {version.name} have waited since before the mark"
    # What all of them say is said once.
    common = "" if drained.problem is None else str(drained.problem)
    held = [
        replace(each, error="" if each.error == common else each.error)
        for each in queue.held_up(conn, index.name, version.name, mark)
    ]
    named = "; ".join(str(each) for each in held) + (f"; and {drained.left - len(held)} more" if drained.left > len(held) else "")
    if drained.problem is not None:
        mend = (drained.problem.next_step or "Mend what its model complains of.").rstrip(".")
        return CutoverRefused(
            f"{waited}, and it cannot embed them: {drained.problem.message.rstrip('.')}. They are: {named}.",
            next_step=f"{mend}; {again}{accept}.",
            reason="model_fails",
            waiting=drained.left,
        )
    if drained.is_slow:
        live = len(versions.live_versions(conn, index.name))
        changes = (queue.next_seq(conn) - mark) / live / drained.seconds
        return CutoverRefused(
            f"{waited}. It gets {drained.rate:.1f} a second done, and the application changes {changes:.1f}: the rest would take "
            f"{drained.left / drained.rate / 60:.0f} minutes. First: {named}.",
            next_step=f"Run: embed-pipeline sync {index.name} --watch, until status says that {version.name} is up to date; {again}{accept}.",
            reason="slower_than_the_application",
            waiting=drained.left,
        )
    return CutoverRefused(
        f"{waited}, and none of them was done for {dual_write.STALL_SECONDS:.0f} s: {named}.",
        next_step=f"Run: embed-pipeline sync {index.name}; {again}{accept}.",
        reason="no_progress",
        waiting=drained.left,
    )


def _flip(conn: psycopg.Connection, index: OpenIndex, wanted: Flip) -> list[str]:
    """Move the pointer; returns the documents that were taken along stale."""
    try:
        stale = serving.flip(conn, wanted)
        signal("cutover.flipped")
        return stale
    except psycopg.errors.LockNotAvailable as waited:
        held = holders.of_tables(conn, MOVED_TABLES, holders.OF_ROWS)
        raise CutoverRefused(
            f"Somebody holds the rows that the {wanted.move} of {index.name} has to change; nothing was moved: {holders.named(held)}.",
            next_step="End it, then run the same command again.",
            reason="rows_locked",
        ) from waited
    except psycopg.OperationalError as lost:
        # The answer is lost, not necessarily the commit: the generation knows.
        conn.close()
        with Line(index) as line:
            if not line.repeat(lambda again: serving.already_done(again, wanted)):
                raise CutoverRefused(
                    f"The connection broke during the {wanted.move} of {index.name}; nothing was moved.",
                    next_step="Run the same command again.",
                    reason="connection_lost",
                ) from lost
            mark = wanted.mark
            return (
                [] if mark is None else line.repeat(lambda again: queue.ids_up_to(again, index.name, wanted.target.version, mark))
            )
    except psycopg.errors.CheckViolation as refused:
        raise CutoverRefused(
            f"The database refused the {wanted.move}: {refused.diag.message_primary}.",
            next_step=refused.diag.message_hint or "Run the same command again.",
            reason="database_refused",
        ) from refused


@contextmanager
def only_mover(conn: psycopg.Connection, index: OpenIndex) -> Iterator[None]:
    """One cutover, rollback or retire at a time; the lock dies with the connection, the compare-and-set guards beyond it."""
    turns.take(
        conn,
        f"embed_pipeline.move.{index.name}",
        "of_session",
        seconds=0,
        refused=lambda by: CutoverRefused(
            f"Another cutover, rollback or retire of {index.name} is running{by}.",
            next_step=f"Run: embed-pipeline status {index.name}",
            reason="another_move",
        ),
    )
    yield
