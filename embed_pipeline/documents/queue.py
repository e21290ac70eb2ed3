"""The queue of pending changes: one row for each document and live version, claimed by a worker and acknowledged with its write.

A row says that a document may differ, never how: whoever claims it reads the current text afterwards. So a write may be late, but is
never last: whoever changes the document after the claim leaves a change that this claim cannot acknowledge (`inbox.py`).
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import psycopg

from embed_pipeline.postgres.queries import Queries
from embed_pipeline.postgres.storable import storable
from embed_pipeline.signals import signal

queries = Queries(__file__, "queue.sql")

# A worker counts on every third of this time; one that has not for so long, by the clock of who watches, is dead or frozen.
LEASE_SECONDS = 20.0
EVERYTHING = 2**62


@dataclass(frozen=True)
class Claim:
    """Documents of one version that one worker has claimed, each with the seq of its latest change at that moment."""

    id: uuid.UUID
    index: str
    version: str
    seqs: dict[str, int]
    taken: float = field(default_factory=time.monotonic)

    @property
    def names(self) -> dict[str, object]:
        return {"index": self.index, "version": self.version, "claim": self.id}


@dataclass(frozen=True)
class Pending:
    """How far a version is behind: documents, and the age in seconds of the first change that is not acknowledged."""

    rows: int
    oldest_seconds: float


@dataclass(frozen=True)
class HeldUp:
    """A document that keeps a version behind, how often it was tried, why that failed, and which worker has it."""

    doc_id: str
    attempts: int
    error: str
    who: str

    def __str__(self) -> str:
        parts = [f"{self.attempts} attempts"] if self.attempts else []
        parts += [f"claimed by {self.who}"] if self.who else []
        parts += [self.error] if self.error else []
        return f"{self.doc_id} ({', '.join(parts)})" if parts else self.doc_id


class Leases:
    """Judges other workers' claims by their heartbeat and a monotonic clock of its own. For one thread."""

    def __init__(self, lease_seconds: float | None = None) -> None:
        self._lease_seconds = lease_seconds
        self._seen: dict[uuid.UUID, tuple[int, float]] = {}

    def free_dead(self, conn: psycopg.Connection, index: str, version: str) -> int:
        """Free what workers hold that have stopped counting; returns how many documents."""
        now = time.monotonic()
        lease = LEASE_SECONDS if self._lease_seconds is None else self._lease_seconds
        there: dict[uuid.UUID, tuple[int, float]] = {}
        freed = 0
        for claim, beat, _ in conn.execute(queries("claims"), {"index": index, "version": version}).fetchall():
            known = self._seen.get(claim)
            since = known[1] if known is not None and known[0] == beat else now
            there[claim] = (beat, since)
            if now - since > lease:
                freed += free(conn, index, version, claim, beat)
        self._seen = there
        return freed


def claim(
    conn: psycopg.Connection,
    index: str,
    version: str,
    *,
    limit: int,
    mark: int = EVERYTHING,
    only_removed: bool = False,
) -> Claim:
    """Claim up to `limit` documents, longest waiting first, skipping what others hold. Committed synchronously, whatever the session has set.

    `mark`: only what has waited since before it. `only_removed`: only what was announced as removed, for which no model is asked.
    """
    made = uuid.uuid4()
    values = {
        "index": index,
        "version": version,
        "limit": limit,
        "mark": mark,
        "only_removed": only_removed,
        "claim": made,
        "who": storable(conn, worker()),
    }
    with conn.transaction():
        commit_now(conn)
        claimed = Claim(made, index, version, dict(conn.execute(queries("claim"), values).fetchall()))
        signal("queue.claiming")
    return claimed


def commit_now(conn: psycopg.Connection) -> None:
    """In a transaction: it commits synchronously, whatever the session has set."""
    conn.execute(queries("commit_now"))


def worker() -> str:
    """This process by host and pid, for people who look at its claims."""
    return f"pid {os.getpid()} on {socket.gethostname()}"


def beat(conn: psycopg.Connection, claim_: Claim) -> None:
    """Say that the worker of this claim is alive."""
    conn.execute(queries("beat"), {"claim": claim_.id})


def free(conn: psycopg.Connection, index: str, version: str, claim_: uuid.UUID, beat_: int) -> int:
    """End a claim that still counts `beat_`; returns how many documents it held."""
    values = {"index": index, "version": version, "claim": claim_, "beat": beat_}
    return conn.execute(queries("free"), values).rowcount


def lock_claimed(conn: psycopg.Connection, claim_: Claim, doc_ids: Iterable[str]) -> list[str]:
    """Those of `doc_ids` that are still this claim's, locked until the transaction ends."""
    rows = conn.execute(queries("lock_claimed"), claim_.names | {"doc_ids": sorted(doc_ids)})
    return [doc_id for (doc_id,) in rows]


def still_claimed(conn: psycopg.Connection, claim_: Claim, doc_ids: Iterable[str]) -> set[str]:
    """Those of `doc_ids` that are this claim's at this moment. Locks nothing: for a store that shares no transaction with the ledger."""
    rows = conn.execute(queries("still_claimed"), claim_.names | {"doc_ids": list(doc_ids)})
    return {doc_id for (doc_id,) in rows}


def acknowledge(conn: psycopg.Connection, claim_: Claim, doc_ids: Sequence[str]) -> set[str]:
    """Acknowledge these claimed documents; returns those without a newer change. The others stay, unclaimed.

    The caller has locked them (`lock_claimed`) in the transaction that writes.
    """
    if not doc_ids:
        return set()
    values = claim_.names | {
        "doc_ids": list(doc_ids),
        "seqs": [claim_.seqs[doc_id] for doc_id in doc_ids],
        # Whatever overtook this claim came after it.
        "seconds": time.monotonic() - claim_.taken,
    }
    return {doc_id for (doc_id,) in conn.execute(queries("acknowledge"), values)}


def release(conn: psycopg.Connection, claim_: Claim, doc_ids: Iterable[str], *, error: str | None = None) -> None:
    """Give documents back, to be claimed again."""
    conn.execute(
        queries("release"), claim_.names | {"doc_ids": sorted(doc_ids), "error": None if error is None else storable(conn, error)}
    )


def end_claim(conn: psycopg.Connection, claim_: Claim) -> None:
    """The batch is over: nothing is held by this claim any more."""
    conn.execute(queries("end_claim"), {"claim": claim_.id})


def pending(conn: psycopg.Connection, index: str, version: str, mark: int = EVERYTHING) -> int:
    """Documents of `version` that have something to do since before `mark`."""
    row = conn.execute(queries("pending"), {"index": index, "version": version, "mark": mark}).fetchone()
    return int(row[0]) if row else 0


def ids_up_to(conn: psycopg.Connection, index: str, version: str, mark: int) -> list[str]:
    """The documents of `version` that have something to do since before `mark`, longest waiting first."""
    rows = conn.execute(queries("ids_up_to"), {"index": index, "version": version, "mark": mark})
    return [doc_id for (doc_id,) in rows]


def held_up(conn: psycopg.Connection, index: str, version: str, mark: int, limit: int = 3) -> list[HeldUp]:
    """The documents that have waited longest, since before `mark`."""
    values = {"index": index, "version": version, "mark": mark, "limit": limit}
    return [HeldUp(*row) for row in conn.execute(queries("held_up"), values)]


def pending_by_version(conn: psycopg.Connection, index: str) -> dict[str, Pending]:
    rows = conn.execute(queries("pending_by_version"), {"index": index})
    return {version: Pending(count, oldest) for version, count, oldest in rows}


def has_work(conn: psycopg.Connection, index: str) -> bool:
    """One indexed query: is anything distributed or still to be? What a sensor tick asks."""
    row = conn.execute(queries("has_work"), {"index": index}).fetchone()
    return bool(row and row[0])


def enqueue(conn: psycopg.Connection, index: str, version: str, doc_ids: Sequence[str], removed: Iterable[str] = ()) -> None:
    """Queue documents of one version as if they had changed; `removed` are those that are gone."""
    gone = set(removed)
    values = {"index": index, "version": version, "doc_ids": list(doc_ids), "removed": [each in gone for each in doc_ids]}
    if doc_ids:
        conn.execute(queries("enqueue"), values)


def next_seq(conn: psycopg.Connection) -> int:
    """A number later than every change that is distributed, and no write's but the caller's."""
    row = conn.execute(queries("next_seq")).fetchone()
    assert row is not None
    return int(row[0])


def forget_version(conn: psycopg.Connection, index: str, version: str) -> None:
    conn.execute(queries("forget_version"), {"index": index, "version": version})
