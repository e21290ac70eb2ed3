"""A version's partitions: which are filled, and who may insert into the others.

A partition is open for one run at a time, under an epoch of its own. Closing it takes a new epoch, so that nothing is inserted while it is
compared; it counts as filled when the comparison that took that epoch says so. Once filled it is never inserted into again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg

from embed_pipeline.documents.ranges import KeyRange
from embed_pipeline.errors import FencedOff
from embed_pipeline.postgres.queries import Queries

queries = Queries(__file__, "partitions.sql")


@dataclass(frozen=True)
class Fence:
    """A backfill's right to insert into a partition, for as long as the partition has this epoch and is open."""

    index: str
    version: str
    partition: str
    epoch: int

    @property
    def number(self) -> int:
        """The partition as a number, the form in which rows carry it."""
        return int(self.partition)

    @property
    def names(self) -> dict[str, object]:
        return {"index": self.index, "version": self.version, "partition": self.partition, "epoch": self.epoch}


@dataclass(frozen=True)
class Partition:
    """`begun`: a backfill has been at it."""

    range: KeyRange
    begun: bool
    completed_at: datetime | None
    documents: int | None


def insert(conn: psycopg.Connection, index: str, version: str, ranges: Sequence[KeyRange]) -> None:
    """Fix the ranges of a new version."""
    rows = [
        {
            "index": index,
            "version": version,
            "partition": each.partition,
            "lower": each.lower,
            "upper": each.upper,
            "is_empty": each.is_empty,
        }
        for each in ranges
    ]
    with conn.cursor() as cursor:
        cursor.executemany(queries("insert"), rows)


def listed(conn: psycopg.Connection, index: str, version: str) -> list[Partition]:
    """Every partition of the version, in key order."""
    rows = conn.execute(queries("list"), {"index": index, "version": version})
    return [
        Partition(KeyRange(key, lower, upper, is_empty), epoch > 0, completed_at, documents)
        for key, lower, upper, is_empty, epoch, completed_at, documents in rows
    ]


def open_to_fill(conn: psycopg.Connection, index: str, version: str, partition: str) -> Fence | None:
    """Open it for the caller's run and for no other; None where it is filled already."""
    row = conn.execute(queries("open"), {"index": index, "version": version, "partition": partition}).fetchone()
    return None if row is None else Fence(index, version, partition, row[0])


def close(conn: psycopg.Connection, index: str, version: str, partition: str) -> Fence:
    """Close it, to be compared; the fence is what `complete` asks for."""
    row = conn.execute(queries("close"), {"index": index, "version": version, "partition": partition}).fetchone()
    assert row is not None
    return Fence(index, version, partition, row[0])


def hold(conn: psycopg.Connection, fence: Fence) -> None:
    """Keep the partition open under this fence until the transaction ends. FencedOff when it is not, or not any more."""
    if conn.execute(queries("hold"), fence.names).fetchone() is None:
        raise FencedOff(
            f"Partition {fence.partition} of {fence.index}.{fence.version} was closed, or opened by another run, meanwhile.",
            next_step=f"Run: embed-pipeline backfill {fence.index} {fence.version}",
        )


def complete(conn: psycopg.Connection, fence: Fence, documents: int) -> bool:
    """Mark it filled; False where somebody has opened or closed it since this fence was taken."""
    return conn.execute(queries("complete"), fence.names | {"documents": documents}).rowcount == 1
