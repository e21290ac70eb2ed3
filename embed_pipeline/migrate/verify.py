"""Verification: compare the source_hash of every document with every vector of a version. Reads vectors, trusts no flag."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from embed_pipeline.catalog import versions
from embed_pipeline.catalog.versions import Version, queries
from embed_pipeline.documents import capture
from embed_pipeline.errors import DocumentsTableError
from embed_pipeline.migrate import readers
from embed_pipeline.migrate.open_index import OpenIndex
from embed_pipeline.migrate.outage import Line
from embed_pipeline.migrate.register import arm, in_short_lock
from embed_pipeline.stores.protocol import Coverage


def verify(index: OpenIndex, name: str | None = None) -> dict[str, Coverage]:
    """Coverage of one version, or of every live one. Each is one snapshot; queued changes explain what they are about."""
    with index.connection() as conn:
        chosen = [index.version(conn, name)] if name else versions.live_versions(conn, index.name)
        return {version.name: index.store(version).coverage(conn) for version in chosen}


def record_coverage(conn: psycopg.Connection, index: OpenIndex, name: str, coverage: Coverage) -> int:
    """Keep a comparison as what a cutover stands on; returns its id."""
    values = {
        "index": index.name,
        "version": name,
        "documents": coverage.documents,
        "vectors": coverage.vectors,
        "pending": coverage.pending,
        "dead_letters": coverage.dead_letters,
        "differences": coverage.differences,
    }
    row = conn.execute(queries("insert_coverage"), values).fetchone()
    assert row is not None
    return int(row[0])


@dataclass(frozen=True)
class Compared:
    """What a full comparison found and set right: parts of change capture that were off, and queued differences by version.

    `queued` counts documents that differ and that neither a queued change nor a backfill still to come explains.
    """

    rearmed: tuple[str, ...]
    queued: dict[str, int]

    @property
    def found(self) -> bool:
        """Whether anything bypassed change capture, or could have."""
        return bool(self.rearmed) or any(self.queued.values())

    @property
    def sentence(self) -> str:
        """What a person reads about it."""
        if not self.found:
            return "Every vector agrees with its document, and change capture is armed."
        parts = [f"{number} documents of {name} differed and are queued" for name, number in self.queued.items() if number]
        if self.rearmed:
            parts.append(f"change capture was off and is armed again ({'; '.join(self.rearmed)})")
        return f"Something bypassed change capture: {', '.join(parts)}."


def reconcile(index: OpenIndex) -> Compared:
    """Full comparison: re-arm change capture where it is off, and queue every difference. Audited, also when nothing was found.

    Finds what no trigger could see: triggers disabled for a while, a partition attached with rows in it. A partition that is not
    filled yet is the backfill's: there only what is stale or orphaned is queued. The store is told again which version serves.
    """
    queued: dict[str, int] = {}
    with index.connection() as conn:
        live = versions.live_versions(conn, index.name)
        # Looked at first: arming takes the documents lock, and would queue behind long writers for nothing.
        off = _what_is_off(conn, index, live)
        if off:

            def rearm() -> None:
                capture.lock(conn, index.source)
                arm(conn, index)

            in_short_lock(conn, rearm, what="re-arm change capture", table=str(index.source))
        for version in live:
            unfilled = [
                partition.range
                for partition in versions.list_partitions(conn, index.name, version.name)
                if partition.completed_at is None
            ]
            queued[version.name] = index.store(version).enqueue_differences(conn, unfilled)
        compared = Compared(tuple(off), queued)
        with conn.transaction():
            detail = {"queued": queued, "rearmed": off}
            versions.record_event(conn, index.name, "reconcile", reason=compared.sentence, detail=detail)
    readers.tell(index)
    return compared


def _what_is_off(conn: psycopg.Connection, index: OpenIndex, live: list[Version]) -> list[str]:
    captured = [index.store(version).captured() for version in live]
    off = capture.disarmed(conn, index.source, index.name, captured) if live else []
    if off:
        return off
    # The document that the proof wants to lock may go to another partition of its table meanwhile.
    with Line(index) as line:
        for version in captured:
            try:
                line.repeat(lambda conn, version=version: capture.prove_live(conn, index.source, index.name, version))  # type: ignore[misc]
            except DocumentsTableError as problem:
                off.append(problem.message)
    return off
