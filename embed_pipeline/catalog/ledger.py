"""The identity of a ledger, which vectors outside of its database are labelled with.

A copy of the database (staging from a dump, a snapshot, TEMPLATE) has everything that the database has, its random number too. So a ledger
is that number in one database of one cluster, reached by an address that is known to lead there. A new timeline of the same server
(failover, point-in-time recovery) is the same ledger: what was lost with the old one is a doubt (`documents/shape.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from embed_pipeline.postgres.queries import Queries

queries = Queries(__file__, "ledger.sql")

LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))


@dataclass(frozen=True)
class Ledger:
    """A ledger as this connection reaches it. `data`: the data directory, where the server is on this machine and shows it."""

    id: str
    address: str
    database: str
    system: str
    data: str | None
    addresses: tuple[str, ...]

    def stamp(self, index: str) -> dict[str, str]:
        """The label that the points of `index` carry."""
        found = {"id": self.id, "address": self.address, "database": self.database, "system": self.system, "index": index}
        return found if self.data is None else found | {"data": self.data}

    def is_named_by(self, stamp: Mapping[str, Any], index: str, *, to_read: bool) -> bool:
        """Whether the stamp is of this ledger and this index.

        `to_read`: whoever only reads may come by an address that nobody has learned (a standby, a pooler): it is not compared.
        """
        wanted = (self.id, self.database, self.system, index)
        if tuple(stamp.get(name) for name in ("id", "database", "system", "index")) != wanted:
            return False
        return to_read or self._is_at(stamp)

    def _is_at(self, stamp: Mapping[str, Any]) -> bool:
        if self.data is not None and stamp.get("data") is not None:
            # Two servers of one machine may have had one port after the other.
            return bool(stamp["data"] == self.data)
        there = stamp.get("address")
        return there == self.address or (there in self.addresses and self.address in self.addresses)


def named(stamp: Mapping[str, Any]) -> str:
    """A stamp, of whatever form, in words."""
    ledger, system = str(stamp.get("id"))[:8], stamp.get("system")
    return f"index {stamp.get('index')} of database {stamp.get('database')} at {stamp.get('address')} (ledger {ledger}, system {system})"


def read(conn: psycopg.Connection) -> Ledger:
    """The ledger of this connection. Where that is allowed here, the address by which it was reached is learned."""
    address = _address(conn)
    row = _row(conn)
    _, addresses, is_original, is_same_run, *_ = row
    if is_original and not (is_same_run and address in addresses) and conn.info.transaction_status == TransactionStatus.IDLE:
        # A reader, and any session of a standby, only knows what others have learned.
        with suppress(psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction):
            if conn.execute(queries("learn"), {"address": address}).rowcount:
                row = _row(conn)
    number, addresses, _, _, database, system, data = row
    return Ledger(number, address, database, system, data if _is_this_machine(address) else None, tuple(addresses))


def become(conn: psycopg.Connection) -> Ledger:
    """Be a ledger of its own from now on, where this database was copied from another one."""
    conn.execute(queries("become"), {"address": _address(conn)})
    return read(conn)


def doubt(conn: psycopg.Connection, index: str, reason: str) -> None:
    """Raise a doubt about points that another ledger has written until now."""
    conn.execute(queries("raise_doubt"), {"index": index, "reason": reason})


def _row(conn: psycopg.Connection) -> Any:
    row = conn.execute(queries("read")).fetchone()
    assert row is not None
    return row


def _address(conn: psycopg.Connection) -> str:
    """Host and port as declared, wherever they lead today: after a failover the same name leads elsewhere."""
    given = {option.keyword.decode(): option.val.decode() for option in conn.pgconn.info if option.val}
    host = given.get("host") or given.get("hostaddr") or conn.info.host
    return f"{host.lower()}:{given.get('port') or conn.info.port}"


def _is_this_machine(address: str) -> bool:
    host = address.rpartition(":")[0]
    return host in LOOPBACK or host.startswith(("/", "@"))
