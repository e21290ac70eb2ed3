"""Cutover and rollback: move the serving pointer forward or back, wholly or not at all.

Nothing here locks the documents, renames anything or runs DDL. A failure at any step leaves exactly the state before.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psycopg

from embed_pipeline.catalog import dead_letters, serving, versions
from embed_pipeline.catalog import evidence as evidence_store
from embed_pipeline.catalog.evidence import Evidence
from embed_pipeline.catalog.serving import Flip, Move
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import queue, shape
from embed_pipeline.errors import ChangesOvertook, CutoverRefused, ModelChanged
from embed_pipeline.evaluate import gate
from embed_pipeline.migrate import dual_write, model_check, readers, verify
from embed_pipeline.migrate.dual_write import Drained
from embed_pipeline.migrate.open_index import OpenIndex
from embed_pipeline.migrate.outage import Line
from embed_pipeline.signals import signal

TRIES = 5


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


def cutover(index: OpenIndex, name: str, reason: str = "") -> Moved:
    """Serve `name` from now on. Needs a ready version, fresh passing evidence and complete coverage; there is no flag to skip any.

    ReadersNotTold after the move: it stands, and readers who go by the store's alias hear of it from the same command.
    """
    with index.connection() as conn, only_mover(conn, index):
        version = index.version(conn, name)
        pointer = serving.read(conn, index.name)
        if pointer.version == name:
            # The cutover before may have moved the pointer and died before it told anyone.
            readers.tell(index)
            raise CutoverRefused(f"{name} serves {index.name} already.", next_step=f"Run: embed-pipeline status {index.name}")
        if version.state not in ("ready", "standby"):
            raise CutoverRefused(
                f"Version {name} of {index.name} is {version.state}; only a ready or standby version can be cut over to.",
                next_step=f"Run: embed-pipeline backfill {index.name} {name}",
            )
        _require_ann_index(conn, index, version)
        _refuse_doubts(conn, index)
        _refuse_changed_model(conn, index, version)
        passing = require_evidence(conn, index, version)
        return _move(conn, index, version, "cutover", passing.id, reason)


def rollback(index: OpenIndex, reason: str = "") -> Moved:
    """Serve the version that served before. It was dual-written all along, so nothing is lost. The gate is not asked."""
    with index.connection() as conn, only_mover(conn, index):
        pointer = serving.read(conn, index.name)
        if pointer.version is None or pointer.previous is None:
            raise CutoverRefused(
                f"There is nothing to roll {index.name} back to: no version served before, or it is retired.",
                next_step=f"Run: embed-pipeline status {index.name}",
            )
        version = index.version(conn, pointer.previous)
        _require_ann_index(conn, index, version)
        doubts = tuple(doubt.reason for doubt in shape.look(conn, index.source, index.name))
        moved = _move(conn, index, version, "rollback", None, reason or f"rollback from {pointer.version}")
        return replace(moved, doubts=doubts)


def require_evidence(conn: psycopg.Connection, index: OpenIndex, version: Version) -> Evidence:
    """The latest evidence about the version; CutoverRefused when there is none, it did not pass, or it is stale."""
    found = evidence_store.latest(conn, index.name, version.name)
    mend = f"Run: embed-pipeline gate {index.name} {version.name}"
    if found is None:
        raise CutoverRefused(f"There is no evidence that {version.name} may serve {index.name}.", next_step=mend)
    if found.outcome != "pass":
        raise CutoverRefused(f"The gate of {index.name} did not pass {version.name}: {found.sentence}", next_step=mend)
    stale = evidence_store.staleness(found, gate.present(conn, index, version), index.spec.gate.max_row_change)
    if stale is not None:
        raise CutoverRefused(f"The evidence for {version.name} of {index.name} is stale: {stale}.", next_step=mend)
    return found


def _refuse_changed_model(conn: psycopg.Connection, index: OpenIndex, version: Version) -> None:
    """Its queries would be embedded with another model than its documents."""
    try:
        model_check.require_same_model(conn, index, version)
    except ModelChanged as changed:
        raise CutoverRefused(changed.message, next_step=changed.next_step) from None


def _move(
    conn: psycopg.Connection, index: OpenIndex, version: Version, move: Move, evidence_id: int | None, reason: str
) -> Moved:
    """Mark, drain, cover, flip; again with a longer pause when changes overtook us. gh-ost's shape.

    Coverage comes after the drain: a change that was drained may have made a dead letter, and that one counts.
    """
    started = time.monotonic()
    for attempt in range(TRIES):
        generation = serving.read(conn, index.name)
        mark = dual_write.distributor(index).take_mark(conn)
        signal("cutover.marked")
        drained = dual_write.drain(index, version.name, mark)
        if drained.left:
            raise _not_drained(conn, index, version, mark, drained)
        signal("cutover.drained")
        coverage_id = _require_coverage(conn, index, version)
        signal("cutover.covered")
        wanted = Flip(index.name, version.name, move, generation.generation, mark, coverage_id, evidence_id, reason)
        try:
            _flip(conn, index, wanted)
        except ChangesOvertook:
            if attempt + 1 == TRIES:
                raise
            time.sleep(0.2 * 2**attempt)
            continue
        readers.tell(index)
        return Moved(
            index.name, version.name, generation.version, generation.generation + 1, evidence_id, time.monotonic() - started
        )
    raise AssertionError("unreachable: the last try returns or raises")


def _not_drained(conn: psycopg.Connection, index: OpenIndex, version: Version, mark: int, drained: Drained) -> CutoverRefused:
    if drained.is_slow:
        live = len(versions.live_versions(conn, index.name))
        changes = (queue.next_seq(conn) - mark) / live / drained.seconds
        return CutoverRefused(
            f"{drained.left} documents of {version.name} have waited since before the mark. It gets {drained.rate:.1f} a second done, and "
            f"the application changes {changes:.1f}: the rest would take {drained.left / drained.rate / 60:.0f} minutes.",
            next_step=f"Run: embed-pipeline sync {index.name} --watch; cut over when status says that {version.name} is up to date.",
        )
    held = "; ".join(str(each) for each in queue.held_up(conn, index.name, version.name, mark))
    return CutoverRefused(
        f"{drained.left} documents of {version.name} have waited since before the mark, and none of them was done for "
        f"{dual_write.STALL_SECONDS:.0f} s: {held}.",
        next_step=f"Run: embed-pipeline sync {index.name}; then the same command again.",
    )


def _flip(conn: psycopg.Connection, index: OpenIndex, wanted: Flip) -> None:
    try:
        serving.flip(conn, wanted)
        signal("cutover.flipped")
    except psycopg.OperationalError as lost:
        # The answer is lost, not necessarily the commit: the generation knows.
        conn.close()
        with Line(index) as line:
            if not line.repeat(lambda again: serving.already_done(again, wanted)):
                raise CutoverRefused(
                    f"The connection broke during the {wanted.move} of {index.name}; nothing was moved.",
                    next_step="Run the same command again.",
                ) from lost
    except psycopg.errors.CheckViolation as refused:
        raise CutoverRefused(
            f"The database refused the {wanted.move}: {refused.diag.message_primary}.",
            next_step=refused.diag.message_hint or "Run the same command again.",
        ) from refused


def _refuse_doubts(conn: psycopg.Connection, index: OpenIndex) -> None:
    doubts = shape.look(conn, index.source, index.name)
    if doubts:
        raise CutoverRefused(
            f"Changes of {index.source} may have been missed: {'; '.join(doubt.reason for doubt in doubts)}.",
            next_step=f"Run: embed-pipeline sync {index.name} --full; then the same command again.",
        )


def _require_coverage(conn: psycopg.Connection, index: OpenIndex, version: Version) -> int:
    coverage = verify.compare_all(conn, index, version, whole=False)
    if coverage.differences:
        raise CutoverRefused(
            f"Coverage of {index.name}.{version.name} is {coverage.share:.4%}: {coverage.missing} missing, {coverage.stale} stale, "
            f"{coverage.orphaned} orphaned, {coverage.wrong_chunks} with wrong chunks ({'; '.join(coverage.samples)}).",
            next_step=f"Run: embed-pipeline backfill {index.name} {version.name}; and: embed-pipeline sync {index.name} --full",
        )
    if coverage.dead_letters > index.spec.gate.max_dead_letters:
        named = ", ".join(f"{each.shown_id} ({each.reason})" for each in dead_letters.first(conn, index.name, version.name))
        raise CutoverRefused(
            f"{coverage.dead_letters} documents have no vector in {version.name}, more than max_dead_letters "
            f"{index.spec.gate.max_dead_letters} allows: {named}.",
            next_step="Mend these documents, or raise gate.max_dead_letters if they may be missing from search.",
        )
    with conn.transaction():
        return verify.record_coverage(conn, index, version.name, coverage)


def _require_ann_index(conn: psycopg.Connection, index: OpenIndex, version: Version) -> None:
    ann = index.store(version).ann_index(conn)
    if ann is None or not ann.valid:
        raise CutoverRefused(
            f"The ANN index of {index.name}.{version.name} is {'missing' if ann is None else 'invalid'}.",
            next_step=f"Run: embed-pipeline backfill {index.name} {version.name}",
        )


@contextmanager
def only_mover(conn: psycopg.Connection, index: OpenIndex) -> Iterator[None]:
    """One cutover, rollback or retire at a time; the lock dies with the connection, the compare-and-set guards beyond it."""
    name = f"embed_pipeline.move.{index.name}"
    row = conn.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (name,)).fetchone()
    if row is None or not row[0]:
        raise CutoverRefused(
            f"Another cutover, rollback or retire of {index.name} is running.",
            next_step=f"Run: embed-pipeline status {index.name}",
        )
    yield


def serving_version(index: OpenIndex) -> Version | None:
    """The version that serves now."""
    with index.connection() as conn:
        pointer = serving.read(conn, index.name)
        return None if pointer.version is None else versions.get(conn, index.name, pointer.version)
