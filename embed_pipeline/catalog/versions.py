"""Indexes, their versions and partitions as the catalog knows them; every change of state is one audited transaction."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from embed_pipeline.catalog.states import LIVE, State, allows
from embed_pipeline.errors import CatalogError, IllegalTransition
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.postgres.storable import storable, storable_json
from embed_pipeline.spec import LOCAL, VersionSpec

queries = Queries(__file__)


@dataclass(frozen=True)
class Version:
    """One registered embedding version. `spec` is what never changes of its declaration, `settings` all the rest, as it was declared last."""

    index: str
    name: str
    state: State
    state_since: datetime
    fingerprint: str
    model_name: str
    model_version: str
    dimensions: int
    precision: str
    distance: str
    partitions: int
    spec: dict[str, Any]
    settings: dict[str, Any]
    dropped_at: datetime | None

    @property
    def is_live(self) -> bool:
        return self.state in LIVE

    @cached_property
    def declared(self) -> VersionSpec:
        """Its declaration as it is in effect. What never changes counts over a setting of that name."""
        return VersionSpec.model_validate({**self.settings, **self.spec})

    def with_settings(self, settings: Mapping[str, Any]) -> Version:
        """The same version with some settings of another place than the catalog: a declaration, a machine's own paths."""
        return replace(self, settings={**self.settings, **settings})

    @property
    def is_chunked(self) -> bool:
        """Whether a document may have several vectors, each of a passage."""
        return self.spec.get("chunker") is not None

    @property
    def table(self) -> sql.Identifier:
        """Its vectors, where they are in this database: one row for each."""
        return sql.Identifier("embed_pipeline", f"{self.index}__{self.name}")

    @property
    def ann_index_name(self) -> str:
        return f"{self.index}__{self.name}__hnsw"


def actor() -> str:
    """The actor named in the audit: EMBED_PIPELINE_ACTOR where a pipeline sets it, else the user of the operating system."""
    try:
        return os.environ.get("EMBED_PIPELINE_ACTOR") or getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def list_versions(conn: psycopg.Connection, index: str) -> list[Version]:
    """All versions of an index, oldest first, retired ones too."""
    return [Version(*row) for row in conn.execute(queries("list_versions"), {"index": index, "version": None})]


def live_versions(conn: psycopg.Connection, index: str) -> list[Version]:
    return [version for version in list_versions(conn, index) if version.is_live]


def get(conn: psycopg.Connection, index: str, name: str) -> Version:
    """The version; CatalogError names those there are."""
    row = conn.execute(queries("list_versions"), {"index": index, "version": name}).fetchone()
    if row is None:
        known = ", ".join(version.name for version in list_versions(conn, index)) or "none"
        raise CatalogError(
            f"Index {index!r} has no version {name!r} (registered: {known}).",
            next_step=f"Run: embed-pipeline status {index}",
        )
    return Version(*row)


def insert(conn: psycopg.Connection, version: Version) -> None:
    """Register a version, in the state `building`. UniqueViolation where there is one of its name, or a live one of its fingerprint."""
    values = {
        "index": version.index,
        "version": version.name,
        "fingerprint": version.fingerprint,
        "model_name": version.model_name,
        "model_version": version.model_version,
        "dimensions": version.dimensions,
        "precision": version.precision,
        "distance": version.distance,
        "partitions": version.partitions,
        "spec": Jsonb(version.spec),
        "settings": Jsonb(version.settings),
    }
    conn.execute(queries("insert_version"), values)


def set_dropped(conn: psycopg.Connection, version: Version) -> None:
    """Note that its vectors are gone."""
    conn.execute(queries("set_dropped"), {"index": version.index, "version": version.name})


def has_table(conn: psycopg.Connection, version: Version) -> bool:
    """Whether the table of its vectors is in this database."""
    row = conn.execute(queries("table_is_there"), {"table": version.table.as_string(conn)}).fetchone()
    return row is not None and bool(row[0])


def keep_settings(conn: psycopg.Connection, version: Version, declared: Mapping[str, Any]) -> None:
    """Keep the settings that are declared now, in the caller's transaction, where they are others than those kept.

    Paths are no event: each of several machines may declare its own, and the one that opens its declaration last is kept.
    """
    # Used again as they are, so not made readable. There is no secret in them.
    values = {"index": version.index, "version": version.name, "settings": Jsonb(dict(declared))}
    if conn.execute(queries("set_settings"), values).rowcount:
        changed = {
            name: [version.settings.get(name), value] for name, value in declared.items() if version.settings.get(name) != value
        }
        if changed.keys() - LOCAL:
            record_event(conn, version.index, "settings", version=version.name, detail=changed)


def seconds_in_state(conn: psycopg.Connection, version: Version) -> float:
    """Since when it is in its state, by the server's clock; 0 while that has not come to it again since it was set back."""
    row = conn.execute(queries("seconds_in_state"), {"index": version.index, "version": version.name}).fetchone()
    return 0.0 if row is None else float(row[0])


def not_in_the_future(conn: psycopg.Connection, version: Version) -> None:
    """Count its state from now on where it came to it before the server's clock was set back."""
    conn.execute(queries("state_of_the_future"), {"index": version.index, "version": version.name})


def record_event(
    conn: psycopg.Connection,
    index: str,
    event: str,
    *,
    version: str | None = None,
    from_state: str | None = None,
    to_state: str | None = None,
    reason: str = "",
    evidence_id: int | None = None,
    detail: dict[str, Any] | None = None,
) -> None:
    """Add to the audit: who, when, what, why, on what evidence."""
    values = {
        "index": index,
        "version": version,
        "event": event,
        "from_state": from_state,
        "to_state": to_state,
        "actor": storable(conn, actor()),
        "reason": storable(conn, reason),
        "evidence_id": evidence_id,
        "detail": storable_json(conn, detail or {}),
    }
    conn.execute(queries("insert_event"), values)


def transition(
    conn: psycopg.Connection,
    index: str,
    name: str,
    target: State,
    *,
    event: str,
    reason: str = "",
    evidence_id: int | None = None,
) -> State:
    """Move one version to `target` inside the caller's transaction; returns the state it came from. Its audit event is written by the database."""
    # A distributor shares the row's key until it has committed: only a retire has to wait for it.
    lock = "lock_version_and_key" if target == "retired" else "lock_version"
    row = conn.execute(queries(lock), {"index": index, "version": name}).fetchone()
    if row is None:
        get(conn, index, name)
        raise AssertionError("unreachable: get raises for an unknown version")
    current: State = row[0]
    if not allows(current, target):
        raise IllegalTransition(
            f"Version {name!r} of index {index!r} is {current} and cannot become {target}.",
            next_step=f"Run: embed-pipeline status {index}",
        )
    say_why(conn, event=event, reason=reason, evidence_id=evidence_id)
    conn.execute(queries("set_state"), {"index": index, "version": name, "state": target})
    return current


def say_why(conn: psycopg.Connection, *, event: str, reason: str, evidence_id: int | None) -> None:
    """Set the actor and the reason of the next change in the caller's transaction; the database writes them into its audit event."""
    said = {"actor": storable(conn, actor()), "reason": storable(conn, reason)}
    why = {"event": event, "evidence_id": evidence_id} | said
    conn.execute(queries("say_why"), {"why": json.dumps(why, ensure_ascii=False)})
