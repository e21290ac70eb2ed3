"""The processes that search an index, and the spaces that each can embed queries for: a cutover names those that cannot follow."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import psycopg
from psycopg.types.json import Jsonb

from embed_pipeline.catalog.versions import Version
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.postgres.storable import storable, storable_json

queries = Queries(__file__, "searchers.sql")

# Each says so at least this often, and one that has not for three times as long is gone: killed, or cut off.
EVERY_SECONDS = 60.0
GONE_SECONDS = 3 * EVERY_SECONDS


@dataclass(frozen=True)
class LeftBehind:
    """A process that cannot embed queries for a version, and why. It goes on with the version before while that is live."""

    version: str
    who: str
    role: str
    reason: str
    seconds: float
    """Since it said so."""

    def __str__(self) -> str:
        return f"{self.who} (role {self.role}): {self.reason}"


def note(
    conn: psycopg.Connection, index: str, searcher: uuid.UUID, who: str, can: Collection[str], cannot: Mapping[str, str]
) -> None:
    """Say which fingerprints a process can embed queries for, and why not which. Writes nothing on a standby or in a read-only session."""
    values = {
        "index": index,
        "searcher": searcher,
        "who": storable(conn, who),
        "can": sorted(can),
        "cannot": storable_json(conn, dict(cannot)),
    }
    conn.execute(queries("note_searcher"), values)


def forget(conn: psycopg.Connection, index: str, searcher: uuid.UUID) -> None:
    """The process searches no more."""
    conn.execute(queries("note_searcher"), {"index": index, "searcher": searcher, "who": "", "can": None, "cannot": Jsonb({})})


def left_behind(conn: psycopg.Connection, version: Version) -> list[LeftBehind]:
    """Those that search now and cannot embed queries for the version."""
    values = {"index": version.index, "fingerprint": version.fingerprint, "gone": GONE_SECONDS}
    return [LeftBehind(version.name, *row) for row in conn.execute(queries("left_behind"), values)]
