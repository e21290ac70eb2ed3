"""One reading of the server's load and of our own backlog, for the signals that the throttle is declared to watch.

A reading judges nothing. What could not be read stands in `unknown`, in words that say what to do about it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from embed_pipeline.foreign_words import readable
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.spec import ThrottleSpec

queries = Queries(__file__, "pressure.sql")


@dataclass(frozen=True)
class Standby:
    """A standby's row as the primary has it. `lag_bytes` None: it has not reported a position, or we may not see it."""

    name: str
    state: str | None
    lag_bytes: float | None
    lag_seconds: float | None
    reply_age: float | None


@dataclass(frozen=True)
class Slot:
    """A replication slot. It is the only trace of a consumer that is down."""

    name: str
    active: bool
    wal_status: str | None
    retained_bytes: float | None


@dataclass(frozen=True)
class Behind:
    """How long ago the oldest change was made that the version that serves has not acknowledged; what no version was told of counts."""

    index: str
    version: str
    seconds: float


@dataclass(frozen=True)
class Reading:
    """The server at one moment. `taken` is on this process's monotonic clock, from before the first question was asked."""

    taken: float
    standbys: tuple[Standby, ...] = ()
    slots: tuple[Slot, ...] = ()
    wal_position: tuple[float, float] | None = None
    """Bytes of WAL ever written, and the server's clock in seconds."""
    wal_rate: float | None = None
    """Bytes of WAL per second since the reading before; None when there was none."""
    vacuumed: tuple[str, ...] = ()
    active_backends: int | None = None
    behind: Behind | None = None
    """None: nothing waits, or nothing but the backfilled version serves."""
    unknown: tuple[str, ...] = ()


def read(
    conn: psycopg.Connection,
    rules: ThrottleSpec,
    tables: Sequence[sql.Composable],
    before: Reading | None,
    filled: tuple[str, str] | None = None,
) -> Reading:
    """One reading of everything that `rules` watches. Raises psycopg.Error only when the connection is lost.

    `filled` names the index and the version of the backfill: without it nobody's queue is looked at.
    """
    return _Reader(conn, rules, tables, filled).read(before)


def undeclared_standbys(conn: psycopg.Connection, rules: ThrottleSpec) -> tuple[str, ...]:
    """Names of standbys that are connected and that nobody waits for. None where this role may not see them."""
    try:
        return tuple(name for (name,) in conn.execute(queries("undeclared_standbys"), {"names": rules.standbys}))
    except psycopg.errors.InsufficientPrivilege:
        return ()


class _Reader:
    def __init__(
        self, conn: psycopg.Connection, rules: ThrottleSpec, tables: Sequence[sql.Composable], filled: tuple[str, str] | None
    ) -> None:
        self._conn = conn
        self._rules = rules
        self._tables = tables
        self._filled = filled
        self._unknown: list[str] = []
        self._monitor: tuple[str, bool] | None = None

    def read(self, before: Reading | None) -> Reading:
        taken = time.monotonic()
        position = self._wal_position()
        return Reading(
            taken,
            standbys=self._standbys(),
            slots=self._slots(),
            wal_position=position,
            wal_rate=_rate(before.wal_position if before else None, position),
            vacuumed=self._vacuumed(),
            active_backends=self._active_backends(),
            behind=self._behind(),
            unknown=tuple(self._unknown),
        )

    def _standbys(self) -> tuple[Standby, ...]:
        if not self._rules.standbys:
            return ()
        rows = self._ask("replication lag", "standbys", {"names": self._rules.standbys})
        found = tuple(Standby(*row) for row in rows or () if row[0] is not None)
        hidden = rows is not None and any(row[0] is None or row[2] is None for row in rows)
        if hidden and not self._sees_others():
            self._unknown.append(f"replication lag cannot be read: {self._grant()}")
        return found

    def _slots(self) -> tuple[Slot, ...]:
        if not self._rules.slots:
            return ()
        rows = self._ask("WAL retained by slots", "slots", {"names": self._rules.slots})
        found = tuple(Slot(*row) for row in rows or ())
        if rows is not None:
            there = {slot.name for slot in found}
            self._unknown += [f"replication slot {name!r} does not exist" for name in self._rules.slots if name not in there]
        return found

    def _wal_position(self) -> tuple[float, float] | None:
        if self._rules.max_wal_bytes_per_second is None:
            return None
        rows = self._ask("WAL rate", "wal_position", {})
        return (rows[0][0], rows[0][1]) if rows else None

    def _vacuumed(self) -> tuple[str, ...]:
        if not self._rules.wait_for_autovacuum:
            return ()
        names = [table.as_string(self._conn) for table in self._tables]
        rows = self._ask("autovacuum", "vacuums", {"tables": names})
        if rows and any(row[0] is None for row in rows):
            self._unknown.append(f"what is vacuumed cannot be read: {self._grant()}")
        return tuple(f"{'autovacuum' if automatic else 'VACUUM'} of {table}" for table, automatic in rows or () if table)

    def _active_backends(self) -> int | None:
        if self._rules.max_active_backends is None:
            return None
        rows = self._ask("active backends", "active_backends", {})
        if rows is None:
            return None
        if rows[0][0] is None:
            self._unknown.append(f"active backends cannot be counted: {self._grant()}")
        return None if rows[0][0] is None else int(rows[0][0])

    def _behind(self) -> Behind | None:
        if self._rules.max_queue_age_seconds is None or self._filled is None:
            return None
        index, version = self._filled
        rows = self._ask("the queue of what serves", "behind", {"index": index, "version": version})
        return Behind(index, *rows[0]) if rows else None

    def _ask(self, what: str, query: str, values: dict[str, object]) -> list[TupleRow] | None:
        """The rows; None, with a line in `unknown`, when the server refuses."""
        try:
            return self._conn.execute(queries(query), values).fetchall()
        except psycopg.Error as problem:
            if self._conn.closed:
                raise
            why = readable(problem.diag.message_primary or problem)
            advice = f"; {self._grant()}" if isinstance(problem, psycopg.errors.InsufficientPrivilege) else ""
            self._unknown.append(f"{what} cannot be read: {why}{advice}")
            return None

    def _sees_others(self) -> bool:
        return self._role()[1]

    def _grant(self) -> str:
        role = sql.Identifier(self._role()[0]).as_string(self._conn)
        return f"run as administrator: GRANT pg_monitor TO {role};"

    def _role(self) -> tuple[str, bool]:
        if self._monitor is None:
            row = self._conn.execute(queries("monitor")).fetchone()
            assert row is not None
            self._monitor = (row[0], row[1])
        return self._monitor


def _rate(before: tuple[float, float] | None, now: tuple[float, float] | None) -> float | None:
    if before is None or now is None or now[1] <= before[1]:
        return None
    return max(now[0] - before[0], 0.0) / (now[1] - before[1])
