"""Names the session or prepared transaction that holds a lock somebody waits for, and how to end it.

A prepared transaction belongs to no session. It survives every restart, and whoever has forgotten it sees it nowhere but here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from embed_pipeline.postgres.queries import Queries

queries = Queries(__file__, "holders.sql")

# Locks that stand in the way of a reader, of SHARE ROW EXCLUSIVE (what arms capture), of who changes rows, and of everything.
OF_READERS = ("AccessExclusiveLock",)
OF_WRITERS = (
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)
OF_ROWS = ("RowShareLock", *OF_WRITERS)
ANY_LOCK = ("AccessShareLock", *OF_ROWS)

NAMED = 3


@dataclass(frozen=True)
class Holder:
    """A session (`pid`), or a prepared transaction (`gid`), with the start of its transaction. Where the role may not see it: neither."""

    pid: int | None
    gid: str | None
    role: str | None
    application: str | None
    state: str | None
    since: datetime | None
    seconds: float | None

    @property
    def who(self) -> str:
        """Which session or prepared transaction it is, and since when."""
        since = "" if self.since is None else f", since {self.since:%Y-%m-%d %H:%M:%S %Z}".rstrip()
        if self.pid is not None:
            told = [each for each in (self.application, f"role {self.role}" if self.role else "", self.state) if each]
            return f"pid {self.pid}" + (f" ({', '.join(told)})" if told else "") + since
        if self.gid is None:
            return f"a prepared transaction that this role cannot see{since}"
        return f"the prepared transaction {self.gid!r} of role {self.role}{since}"

    @property
    def ending(self) -> str:
        """The statement that ends it."""
        if self.pid is not None:
            return f"SELECT pg_terminate_backend({self.pid})"
        if self.gid is None:
            return "see pg_prepared_xacts"
        quoted = self.gid.replace("'", "''")
        return f"COMMIT PREPARED '{quoted}' or ROLLBACK PREPARED '{quoted}'"

    def __str__(self) -> str:
        return f"{self.who} (to end it: {self.ending})"


def of_tables(conn: psycopg.Connection, tables: Sequence[str], modes: Sequence[str]) -> list[Holder]:
    """The other holders of one of these locks on one of the tables (quoted names) or their partitions, the oldest first."""
    return _asked(conn, "of_relations", {"tables": list(tables), "modes": list(modes)})


def of_advisory(conn: psycopg.Connection, name: str) -> list[Holder]:
    """The other holders of the advisory lock `hashtextextended(name, 0)`."""
    return _asked(conn, "of_advisory", {"name": name})


def blocking(conn: psycopg.Connection, pid: int) -> list[Holder]:
    """The sessions that the session `pid` waits for."""
    return _asked(conn, "blocking", {"pid": pid})


def old(conn: psycopg.Connection, seconds: float) -> list[Holder]:
    """Transactions of this database, prepared ones too, that have been open for longer than `seconds`."""
    return _asked(conn, "old", {"seconds": seconds})


def named(holders: Sequence[Holder]) -> str:
    """The first of them as one phrase."""
    more = f"; and {len(holders) - NAMED} more" if len(holders) > NAMED else ""
    return "; ".join(str(each) for each in holders[:NAMED]) + more


def _asked(conn: psycopg.Connection, name: str, values: dict[str, Any]) -> list[Holder]:
    return [Holder(*row) for row in conn.execute(queries(name), values)]
