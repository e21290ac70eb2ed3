"""Compares the documents table with the one that capture was armed for, and opens a doubt for each difference.

A doubt is a reason to believe that a change was missed: a capture that failed, a shape that differs from what was armed, a server that
went back in time. While one is open every search looks its hits up; the full comparison that saw it takes it away.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

import psycopg
from psycopg import errors, sql
from psycopg.types.json import Jsonb

from embed_pipeline.documents import capture
from embed_pipeline.documents.ranges import ALL_KEYS, within
from embed_pipeline.documents.slices import KeySlices, SliceSize
from embed_pipeline.documents.slices import queries as slices
from embed_pipeline.documents.source import Source
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.postgres.storable import storable

queries = Queries(__file__, "shape.sql")

ARM_WAIT_MS = 500


@dataclass(frozen=True)
class Horizon:
    """A moment before which rows are settled: those of older transactions are the same for every snapshot since, while the shape holds."""

    xmin: str
    shape: str


@dataclass(frozen=True)
class Doubt:
    """An open doubt."""

    id: int
    kind: str
    reason: str
    at: datetime


@dataclass(frozen=True)
class Shape:
    """The facts of the table that decide what capture sees. `leaves`: oid of a partition or child -> how it hangs there, and its triggers."""

    parts: dict[str, str | None]
    leaves: dict[str, str]
    system: str
    timeline: int

    @property
    def digest(self) -> str:
        """Equal for equal shapes on the same server and timeline."""
        facts = json.dumps([self.parts, self.leaves, self.system, self.timeline], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()

    def differences(self, now: Shape) -> list[tuple[str, str]]:
        """(kind, reason) of everything that casts a doubt. Partitions that came or went are none: `look` deals with them."""
        found = []
        if (self.system, self.timeline) != (now.system, now.timeline):
            found.append(
                ("timeline", "the database was restored, or another server took over: what was written last may be lost")
            )
        changed = [name for name in self.parts if self.parts[name] != now.parts.get(name)]
        changed += ["partitions"] if any(oid in now.leaves and now.leaves[oid] != was for oid, was in self.leaves.items()) else []
        if changed:
            found.append(("shape", f"the documents table has changed since capture was armed: {', '.join(changed)}"))
        return found


def read(conn: psycopg.Connection, source: Source, index: str) -> Shape:
    """The table as it is now, by one look at the catalog."""
    kinds = (*capture.STATEMENT_KINDS, "row", "truncate")
    query = queries(
        "shape",
        documents=sql.Literal(source.identifier.as_string(conn)),
        columns=sql.Literal([*(column.name for column in source.key), *source.text_columns, *source.payload_columns]),
        triggers=sql.Literal([capture.trigger_name(index, kind) for kind in kinds]),
        functions=sql.Literal([f"capture_{index}_{kind}" for kind in kinds]),
    )
    row = conn.execute(query, prepare=True).fetchone()
    assert row is not None
    return Shape(*row)


def known(conn: psycopg.Connection, index: str) -> Shape | None:
    """The table as it was when capture was armed, or looked at last."""
    row = conn.execute(queries("known"), {"index": index}).fetchone()
    return None if row is None else Shape(*row)


def record(conn: psycopg.Connection, source: Source, index: str, shape: Shape | None = None) -> None:
    """Take the table as it is for what capture was armed for."""
    now = shape or read(conn, source, index)
    values = {
        "index": index,
        "parts": Jsonb(now.parts),
        "leaves": Jsonb(now.leaves),
        "system": now.system,
        "timeline": now.timeline,
    }
    conn.execute(queries("record"), values)


def has_changed(conn: psycopg.Connection, source: Source, index: str) -> bool:
    """Whether `look` would have anything to do."""
    before = known(conn, index)
    return before is not None and before != read(conn, source, index)


def differences(conn: psycopg.Connection, source: Source, index: str) -> list[str]:
    """The doubts that `look` would open, in words. Changes nothing."""
    before = known(conn, index)
    return [] if before is None else [reason for _, reason in before.differences(read(conn, source, index))]


def look(conn: psycopg.Connection, source: Source, index: str) -> list[Doubt]:
    """Look at the table, raise the doubts that it deserves, and return all that are open.

    A partition that was attached or detached is a doubt about its own rows only: they are handed to the workers, and nobody is alarmed.
    """
    before, now = known(conn, index), read(conn, source, index)
    if before is not None and before != now:
        # Another table has partitions of its own, and of one that is gone none was detached.
        same = before.parts.get("table") == now.parts["table"]
        followed = _follow_rotation(conn, source, index, before, now) if same else now
        with conn.transaction():
            row = conn.execute(queries("lock_known"), {"index": index}).fetchone()
            if row is not None and Shape(*row) == before:
                for kind, reason in before.differences(now):
                    conn.execute(queries("raise_doubt"), {"index": index, "kind": kind, "reason": storable(conn, reason)})
                record(conn, source, index, followed)
    return open_doubts(conn, index)


def open_doubts(conn: psycopg.Connection, index: str) -> list[Doubt]:
    """Every doubt that no full comparison has taken away yet, oldest first."""
    return [Doubt(*row) for row in conn.execute(queries("open_doubts"), {"index": index})]


def doubt(conn: psycopg.Connection, index: str, reason: str) -> None:
    """Raise a doubt about what was changed while capture knew the documents otherwise."""
    conn.execute(queries("raise_doubt"), {"index": index, "kind": "shape", "reason": reason})


def asks_for_comparison(doubts: Sequence[Doubt]) -> bool:
    """Whether a comparison may take the doubts away. Once one was refused for what it would have removed, a person has to decide, and each
    further one would only read the whole table again."""
    return bool(doubts) and all(each.kind != "loss" for each in doubts)


def doubt_loss(conn: psycopg.Connection, index: str, reason: str) -> None:
    """Raise a doubt that so many documents are really gone. One is enough: it is of the last comparison."""
    with conn.transaction():
        conn.execute(queries("forget_losses"), {"index": index})
        conn.execute(queries("raise_doubt"), {"index": index, "kind": "loss", "reason": reason})


def clear(conn: psycopg.Connection, index: str, doubts: Sequence[Doubt]) -> None:
    """Take doubts away. The caller has compared every live version in snapshots that are later than they are."""
    conn.execute(queries("clear"), {"index": index, "ids": [doubt.id for doubt in doubts]})


def horizon(conn: psycopg.Connection, source: Source, index: str) -> Horizon:
    """The oldest transaction that may still be under way now, and the shape that this is true for."""
    return Horizon(oldest_running(conn), read(conn, source, index).digest)


def oldest_running(conn: psycopg.Connection) -> str:
    """The oldest transaction that may still be under way: what older ones have written is the same for every snapshot from now on."""
    row = conn.execute(queries("horizon")).fetchone()
    assert row is not None
    return str(row[0])


def last_comparison(conn: psycopg.Connection, source: Source, index: str, version: str) -> Horizon | None:
    """Up to where this version was compared; None where that says nothing about the table as it is."""
    row = conn.execute(queries("last_comparison"), {"index": index, "version": version}).fetchone()
    if row is None or row[1] != read(conn, source, index).digest:
        return None
    return Horizon(*row)


def keep_comparison(conn: psycopg.Connection, index: str, version: str, compared: Horizon) -> None:
    """Remember that everything of this version was compared in snapshots later than this horizon."""
    values = {"index": index, "version": version, "horizon": compared.xmin, "shape": compared.shape}
    conn.execute(queries("keep_comparison"), values)


def _follow_rotation(conn: psycopg.Connection, source: Source, index: str, before: Shape, now: Shape) -> Shape:
    """Arm partitions that came, hand the rows of those that came or went to the workers, and return the shape to remember.

    Where one could not be armed yet its table stays unknown, so that it is looked at again.
    """
    came, went = now.leaves.keys() - before.leaves.keys(), before.leaves.keys() - now.leaves.keys()
    if not source.partitioned or not (came or went):
        return now
    for oid in came:
        row = conn.execute(queries("leaf_name"), {"oid": int(oid)}).fetchone()
        if row is None:
            continue  # Dropped again, or no table of rows.
        if not _arm(conn, source, index, sql.Identifier(*row)):
            return replace(now, leaves=before.leaves)
        _hand_over(conn, replace(source, schema=row[0], table=row[1]), index)
    if went:
        _write(conn, queries("write_truncate"), {"index": index})
    if not came:
        return now
    # Their statement triggers are committed. With a payload column more is compared than a store may need: that costs a look.
    capture.know_leaves(conn, source, index, payload=bool(source.payload_columns or source.payload_object))
    armed = read(conn, source, index)
    functions = "capture functions"
    return replace(
        now,
        parts=now.parts | {functions: armed.parts[functions]},
        leaves=now.leaves | {oid: armed.leaves[oid] for oid in came & armed.leaves.keys()},
    )


def _hand_over(conn: psycopg.Connection, leaf: Source, index: str) -> None:
    """The rows that a partition came with: changes that no trigger has seen."""
    for part in KeySlices(leaf, SliceSize()).of(conn, ALL_KEYS):
        in_range = within(leaf, part.lower is not None, part.upper is not None, after=False)
        query = queries("write_ids", doc_id=leaf.doc_id(), documents=leaf.identifier, in_range=in_range)
        _write(conn, query, {"index": index, "lower": part.lower, "upper": part.upper})


def _write(conn: psycopg.Connection, query: sql.Composed, values: dict[str, object]) -> None:
    """Into the inbox, like a writer of the application: with a transaction id before a number is drawn (`inbox.py`)."""
    with conn.transaction():
        conn.execute(queries("take_id"))
        conn.execute(query, values)


def _arm(conn: psycopg.Connection, source: Source, index: str, leaf: sql.Identifier) -> bool:
    with suppress(errors.LockNotAvailable), conn.transaction():
        conn.execute(slices("lock_timeout"), {"milliseconds": str(ARM_WAIT_MS)})
        capture.arm_statements(conn, source, index, leaf)
        return True
    return False
