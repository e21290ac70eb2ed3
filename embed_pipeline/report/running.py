"""Who works on an index now, from whatever machine and by whatever started it: what the database knows by locks and claims."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import psycopg

from embed_pipeline.postgres.queries import Queries

queries = Queries(__file__, "running.sql")


@dataclass(frozen=True)
class Running:
    """A backfill (`amount` partitions that it holds), or a worker of the queue (`amount` documents that it has claimed)."""

    work: Literal["backfill", "dual-write"]
    version: str
    who: str
    amount: int


def running(conn: psycopg.Connection, index: str) -> tuple[Running, ...]:
    """All that is under way at this moment."""
    backfills = [
        Running("backfill", version, _who(application, role, address), amount)
        for version, amount, application, role, address in conn.execute(queries("backfills"), {"index": index})
    ]
    claims = [
        Running("dual-write", version, who, amount) for version, who, amount in conn.execute(queries("claims"), {"index": index})
    ]
    return (*backfills, *(each for each in claims if each.amount))


def filling(found: Collection[Running], version: str) -> bool:
    """Whether a backfill of the version is under way."""
    return any(each.work == "backfill" and each.version == version for each in found)


def _who(application: str, role: str, address: str) -> str:
    """A role that may not see other roles' sessions is told nothing of them."""
    told = [each for each in (application, f"role {role}" if role else "", f"at {address}" if address else "") if each]
    return " ".join(told) or "a session that this role may not see"
