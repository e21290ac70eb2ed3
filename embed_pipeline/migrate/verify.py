"""Verification: compare the source_hash of every document with every vector of a version. Reads vectors, trusts no flag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

from embed_pipeline.catalog import coverage as comparisons
from embed_pipeline.catalog import partitions, versions
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import capture, inbox, queue, shape, unwieldy
from embed_pipeline.documents.ranges import ALL_KEYS
from embed_pipeline.documents.shape import Doubt, Horizon
from embed_pipeline.errors import DocumentsTableError, VectorsGone
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import loss as loss_rule
from embed_pipeline.migrate import readers, standing
from embed_pipeline.migrate.loss import Loss
from embed_pipeline.migrate.register import arm, in_short_lock
from embed_pipeline.migrate.standing import unless_dropped
from embed_pipeline.postgres.session import Line
from embed_pipeline.signals import signal
from embed_pipeline.stores.protocol import Coverage


def verify(index: OpenIndex, name: str | None = None) -> dict[str, Coverage]:
    """Coverage of one version, or of every live one. Each is one snapshot; queued changes explain what they are about."""
    with index.connection() as conn:
        chosen = [index.version(conn, name)] if name else versions.live_versions(conn, index.name)
        return {version.name: _coverage(conn, index, version, None) for version in chosen}


def _coverage(conn: psycopg.Connection, index: OpenIndex, version: Version, since: Horizon | None) -> Coverage:
    with unless_dropped(index, version):
        return index.store(version).coverage(conn, since)


def record_coverage(conn: psycopg.Connection, index: OpenIndex, name: str, coverage: Coverage) -> int:
    """Keep a comparison as what a cutover stands on; returns its id."""
    return comparisons.record(
        conn,
        index.name,
        name,
        documents=coverage.documents,
        vectors=coverage.vectors,
        pending=coverage.pending,
        dead_letters=coverage.dead_letters,
        differences=coverage.differences,
    )


@dataclass(frozen=True)
class Compared:
    """The result of a full comparison: parts of change capture that were off, and queued differences by version.

    `queued` counts documents that differ and that neither a queued change nor a backfill still to come explains.
    """

    rearmed: tuple[str, ...]
    queued: dict[str, int]
    doubts: tuple[str, ...] = ()

    @property
    def found(self) -> bool:
        """Whether anything bypassed change capture, or could have."""
        return bool(self.rearmed or self.doubts) or any(self.queued.values())

    @property
    def sentence(self) -> str:
        """The result in words."""
        if not self.found:
            return "Every vector agrees with its document, and change capture is armed."
        parts = [f"{number} documents of {name} differed and are queued" for name, number in self.queued.items() if number]
        parts = parts or ["every vector agrees with its document"]
        if self.doubts:
            parts.append(f"there was reason to doubt it ({'; '.join(self.doubts)})")
        if self.rearmed:
            parts.append(f"change capture was off and is armed again ({'; '.join(self.rearmed)})")
        return f"Something bypassed change capture, or could have: {', '.join(parts)}."


def reconcile(index: OpenIndex, accept_loss: int | None = None) -> Compared:
    """Full comparison: re-arm change capture where it is off, queue every difference, and take away the doubts that were open when it began.

    Audited, also when nothing was found. Finds what no trigger could see: triggers disabled for a while, a table restored without data. A
    partition that is not filled yet is the backfill's: there only what is stale or orphaned is queued. The store is told again which
    version serves. LossRefused where more of a version would go than reconcile.max_loss and `accept_loss` documents: of such a version
    nothing is queued, and what is doubted stays so.
    """
    queued: dict[str, int] = {}
    losses: list[Loss] = []
    gone: VectorsGone | None = None
    with index.connection() as conn:
        doubts = shape.look(conn, index.source, index.name)
        off = _rearm(conn, index, doubts)
        for version in versions.live_versions(conn, index.name):
            if doubts or off:
                # A worker may hold a text from before a change that was missed, and would acknowledge what it never saw.
                inbox.announce_again(conn, index.source, index.name, version.name)
            try:
                differing = compare_live(conn, index, version)
            except VectorsGone as problem:
                gone = gone or problem  # The others are compared all the same.
                continue
            loss = too_much(conn, index, version, len(differing.orphans), accept_loss)
            if loss is not None:
                losses.append(loss)
                continue
            queued[version.name] = differing.queue(conn)
        if gone is not None:
            raise gone
        if losses:
            raise loss_rule.refused(conn, index.spec, str(index.source), losses)
        unwieldy.forget_gone(conn, index.source, index.name)
        signal("reconcile.compared")
        shape.clear(conn, index.name, doubts)
        compared = Compared(tuple(off), queued, tuple(doubt.reason for doubt in doubts))
        with conn.transaction():
            detail = {"queued": queued, "rearmed": off, "doubts": list(compared.doubts)}
            versions.record_event(conn, index.name, "reconcile", reason=compared.sentence, detail=detail)
    readers.tell(index)
    return compared


def _rearm(conn: psycopg.Connection, index: OpenIndex, doubts: Sequence[Doubt]) -> list[str]:
    """What was off. Looked at first: arming takes the documents lock, and would queue behind long writers for nothing."""
    off = capture.disarmed(conn, index.source, index.name)
    if not off:
        # The document that the proof wants to lock may go to another partition of its table meanwhile.
        with Line(index) as line:
            try:
                line.repeat(lambda conn: capture.prove_live(conn, index.source, index.name))
            except DocumentsTableError as problem:
                off = [problem.message]
    # Functions of ours may have been made for a column of another type, or name.
    if off or any(doubt.kind == "shape" for doubt in doubts):

        def rearm() -> None:
            capture.lock(conn, index.source)
            arm(conn, index)

        in_short_lock(conn, rearm, what="re-arm change capture", table=str(index.source), locked=[index.source.identifier])
    return off


@dataclass(frozen=True)
class Differing:
    """What a comparison of a live version has found: documents that nothing queued explains, and those of them that are orphans.

    `began`: from before it; None where a part of the version is not filled yet, so that all was not compared.
    """

    index: str
    version: str
    documents: set[str]
    orphans: set[str]
    began: Horizon | None

    def queue(self, conn: psycopg.Connection) -> int:
        """Hand them to the workers; returns how many they are."""
        queue.enqueue(conn, self.index, self.version, sorted(self.documents), removed=self.orphans)
        if self.began is not None:
            shape.keep_comparison(conn, self.index, self.version, self.began)
        return len(self.documents)


def compare_live(conn: psycopg.Connection, index: OpenIndex, version: Version) -> Differing:
    """Compare one version whole. What history has not filled yet is the backfill's: of that nothing counts as missing."""
    began = shape.horizon(conn, index.source, index.name)
    store = index.store(version)
    with unless_dropped(index, version):
        # All of it would be queued at once, whatever that costs: a person fills it again.
        standing.require(conn, index, version)
    listed = partitions.listed(conn, index.name, version.name)
    left = [each.range for each in listed if each.completed_at is None]
    with unless_dropped(index, version):
        if not left:
            # Not range by range: a key of another type than when they were cut may be in another order.
            found = store.compare(conn, [ALL_KEYS], orphans=True)
            return Differing(index.name, version.name, set(found.different), found.orphans, began)
        filled = store.compare(conn, [each.range for each in listed if each.completed_at is not None], orphans=True)
        unfilled = store.compare(conn, left, orphans=False)
    stale = {doc_id for doc_id, verdict in unfilled.different.items() if verdict != "missing"}
    return Differing(index.name, version.name, {*filled.different, *stale}, filled.orphans, None)


def queue_differences(conn: psycopg.Connection, index: OpenIndex, version: Version) -> int:
    """Compare one version whole, and queue what differs; returns how many documents that were. LossRefused like `reconcile`."""
    differing = compare_live(conn, index, version)
    loss = too_much(conn, index, version, len(differing.orphans))
    if loss is not None:
        raise loss_rule.refused(conn, index.spec, str(index.source), [loss])
    return differing.queue(conn)


def too_much(
    conn: psycopg.Connection, index: OpenIndex, version: Version, removed: int, accepted: int | None = None
) -> Loss | None:
    held = max(index.store(version).count(conn), removed) if removed else 0
    share = index.spec.reconcile.max_loss
    return Loss(version.name, removed, held) if loss_rule.is_too_much(removed, held, share, accepted) else None


def compare_all(conn: psycopg.Connection, index: OpenIndex, version: Version, *, whole: bool) -> Coverage:
    """Coverage of a filled version, remembered as what the next comparison may build on where nothing differs.

    Not `whole`: only what has changed on either side since the last one is hashed again.
    """
    began = shape.horizon(conn, index.source, index.name)
    since = None if whole else shape.last_comparison(conn, index.source, index.name, version.name)
    found = _coverage(conn, index, version, since)
    if since is not None and shape.read(conn, index.source, index.name).digest != since.shape:
        # The table has become another one meanwhile: old rows may have new texts.
        found = _coverage(conn, index, version, None)
    if not found.differences:
        shape.keep_comparison(conn, index.name, version.name, began)
    return found
