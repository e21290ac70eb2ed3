"""The change queue: what every live version still has to do, claimed under a lease and acknowledged after the write.

Applications only ever insert rows; workers lease and delete them. A document's rows are claimed together, by one worker at a time.
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import psycopg

from embed_pipeline.documents.source import Source
from embed_pipeline.errors import CutoverRefused
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.signals import signal

queries = Queries(__file__, "queue.sql")


@dataclass(frozen=True)
class Claim:
    """Queue rows leased to this worker, by document."""

    lease: uuid.UUID
    seqs: dict[str, list[int]]

    def of(self, doc_ids: Iterable[str]) -> list[int]:
        return [seq for doc_id in doc_ids for seq in self.seqs.get(doc_id, [])]


@dataclass(frozen=True)
class Pending:
    """How far a version is behind: rows, and the age in seconds of the oldest."""

    rows: int
    oldest_seconds: float


def claim(conn: psycopg.Connection, index: str, version: str, *, limit: int, lease_seconds: float) -> Claim:
    """Lease up to `limit` documents, oldest first, skipping what others hold. Commits with the caller's (short) transaction.

    A document comes with all of its rows or not at all: while one worker holds it, no other one works on it.
    """
    lease = uuid.uuid4()
    values = {"index": index, "version": version, "limit": limit, "lease": lease, "seconds": lease_seconds}
    seqs: dict[str, list[int]] = defaultdict(list)
    for seq, doc_id in conn.execute(queries("claim"), values):
        seqs[doc_id].append(seq)
    return Claim(lease, dict(seqs))


def renew(conn: psycopg.Connection, claim_: Claim, lease_seconds: float) -> None:
    """Hold on to the rows for another `lease_seconds`. Does nothing for rows that another worker took over."""
    seqs = claim_.of(claim_.seqs)
    conn.execute(queries("renew"), {"seqs": seqs, "lease": claim_.lease, "seconds": lease_seconds})


def still_mine(conn: psycopg.Connection, claim_: Claim, doc_ids: Iterable[str]) -> list[str]:
    """Those of `doc_ids` whose rows are all still leased to this claim, locked until the transaction ends."""
    seqs = claim_.of(doc_ids)
    held: dict[str, set[int]] = defaultdict(set)
    for seq, doc_id in conn.execute(queries("still_mine"), {"seqs": seqs, "lease": claim_.lease}):
        held[doc_id].add(seq)
    return sorted(doc_id for doc_id, found in held.items() if found == set(claim_.seqs[doc_id]))


def acknowledge(conn: psycopg.Connection, claim_: Claim, doc_ids: Iterable[str]) -> int:
    """Remove exactly the claimed rows of these documents: a newer change has a row of its own and stays."""
    return conn.execute(queries("acknowledge"), {"seqs": claim_.of(doc_ids), "lease": claim_.lease}).rowcount


def release(
    conn: psycopg.Connection, claim_: Claim, doc_ids: Iterable[str], *, delay: float = 0.0, error: str | None = None
) -> None:
    """Give the rows back, to come round again after `delay` seconds."""
    values = {"seqs": claim_.of(doc_ids), "lease": claim_.lease, "delay": delay, "error": error}
    conn.execute(queries("release"), values)


def pending(conn: psycopg.Connection, index: str, version: str, mark: int = 2**62) -> int:
    """Rows of `version` that are not done yet, up to and including `mark`."""
    row = conn.execute(queries("pending"), {"index": index, "version": version, "mark": mark}).fetchone()
    return int(row[0]) if row else 0


def pending_by_version(conn: psycopg.Connection, index: str) -> dict[str, Pending]:
    rows = conn.execute(queries("pending_by_version"), {"index": index})
    return {version: Pending(count, oldest) for version, count, oldest in rows}


def has_work(conn: psycopg.Connection, index: str) -> bool:
    """One indexed query: is there anything to claim? What a sensor tick asks."""
    row = conn.execute(queries("any_claimable"), {"index": index}).fetchone()
    return bool(row and row[0])


def enqueue(conn: psycopg.Connection, index: str, version: str, doc_ids: Sequence[str]) -> None:
    """Put documents into the queue as if they had changed."""
    conn.execute(queries("enqueue"), {"index": index, "version": version, "doc_ids": list(doc_ids)})


def next_seq(conn: psycopg.Connection) -> int:
    """A number that no change and no other write has, later than every one there is."""
    row = conn.execute(queries("take_mark")).fetchone()
    assert row is not None
    return int(row[0])


def forget_version(conn: psycopg.Connection, index: str, version: str) -> None:
    conn.execute(queries("forget_version"), {"index": index, "version": version})


def settled_mark(conn: psycopg.Connection, source: Source, *, deadline_seconds: float) -> int:
    """A number W such that every change numbered up to W is visible to whoever looks from now on.

    A sequence value alone is no barrier: a transaction still open may hold a smaller one. So we wait for every transaction that had
    changed the documents table when the mark was taken, and for no other: a report that runs for hours holds nothing up. CutoverRefused
    names who is in the way after the deadline. `conn` is in autocommit: each look takes a fresh snapshot.
    """
    mark = next_seq(conn)
    before = {writer.transaction for writer in _writers(conn, source)}
    deadline = time.monotonic() + deadline_seconds
    pause = 0.005
    while True:
        signal("queue.settling")
        left = [writer for writer in _writers(conn, source) if writer.transaction in before]
        if not left:
            return mark
        if time.monotonic() > deadline:
            named = ", ".join(f"pid {each.pid or 'none'} ({each.name or 'unnamed'}, {each.seconds:.0f} s)" for each in left[:3])
            raise CutoverRefused(
                f"Transactions that changed {source} before the cutover are still open after {deadline_seconds:.0f} s: {named}.",
                next_step="End them, or try again when they have ended.",
            )
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)


class _Writer(NamedTuple):
    """A transaction that has changed documents, or is about to. A prepared one has no process."""

    transaction: str
    pid: int | None
    name: str
    seconds: float


def _writers(conn: psycopg.Connection, source: Source) -> list[_Writer]:
    return [_Writer(*row) for row in conn.execute(queries("writers"), {"documents": source.identifier.as_string(conn)})]
