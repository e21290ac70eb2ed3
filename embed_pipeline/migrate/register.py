"""Registration: a declared version becomes a live one, under the lock that no writer's transaction can straddle."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, TypeVar

import psycopg
from psycopg import errors
from psycopg.types.json import Jsonb

from embed_pipeline.catalog import versions
from embed_pipeline.catalog.versions import Version, queries
from embed_pipeline.documents import capture, ranges
from embed_pipeline.errors import CatalogError, DatabaseUnavailable
from embed_pipeline.postgres.connection import end_when_frozen
from embed_pipeline.signals import signal
from embed_pipeline.spec import IndexSpec, VersionSpec
from embed_pipeline.stores.pgvector import replace_provenance

if TYPE_CHECKING:
    from embed_pipeline.migrate.open_index import OpenIndex

T = TypeVar("T")

# Writers of the application queue behind our lock request, so we give up soon, let them through and ask again.
LOCK_TIMEOUT_MS = 2_000
LOCK_TRIES = 15


def register(conn: psycopg.Connection, index: OpenIndex) -> list[str]:
    """Register the index and each version that is new in its declaration; returns the new names."""
    _register_index(conn, index)
    known = {version.name: version for version in versions.list_versions(conn, index.name)}
    new = []
    for name, declared in index.spec.versions.items():
        if name in known:
            _refuse_changed(index, known[name], declared)
        else:
            _register_version(conn, index, name, declared)
            new.append(name)
    return new


def _register_index(conn: psycopg.Connection, index: OpenIndex) -> None:
    declared = (str(index.source), index.spec.source().key, index.spec.source().text, index.spec.store.kind)
    found = conn.execute(queries("find_index"), {"index": index.name}).fetchone()
    if found is None:
        with conn.transaction():
            conn.execute(
                queries("insert_index"),
                {
                    "index": index.name,
                    "documents_table": declared[0],
                    "key_columns": declared[1],
                    "text_columns": declared[2],
                    "store_kind": declared[3],
                },
            )
            conn.execute(queries("insert_pointer"), {"index": index.name})
            conn.execute(queries("insert_control"), {"index": index.name})
        found = conn.execute(queries("find_index"), {"index": index.name}).fetchone()
    if found is None or tuple(found) != declared:
        raise CatalogError(
            f"Index {index.name!r} is registered with {found}, and its declaration now says {declared}: "
            "another table, key, text or store would change what every stored source_hash means.",
            next_step="Put the declaration back, or declare a new index under another name.",
        )


def _refuse_changed(index: OpenIndex, known: Version, declared: VersionSpec) -> None:
    if known.state == "retired":
        return
    # Cheap first: opening an embedder reads its model file. The file hash is compared when the version is used.
    fields = declared.model_dump(mode="json")
    # A version that is older than an attribute has its default: else a chunker could be added to it.
    was = VersionSpec.model_validate(known.spec).model_dump(mode="json")
    changed = sorted(name for name, value in fields.items() if was[name] != value and name not in declared.not_identity())
    if changed:
        raise CatalogError(
            f"Version {known.name!r} of index {index.name!r} is registered with another {', '.join(changed)}: "
            "a version is one vector space and never changes.",
            next_step="Put the old values back and declare a new version with the new ones.",
        )


def _register_version(conn: psycopg.Connection, index: OpenIndex, name: str, declared: VersionSpec) -> None:
    embedder = index.embedder(name)
    key_ranges = ranges.cut(conn, index.source, index.spec.partitions)
    version = _new_version(index.spec, name, declared, embedder.fingerprint, embedder.model_version)

    signal("register.cut")

    def under_lock() -> None:
        capture.lock(conn, index.source)
        signal("register.locked")
        conn.execute(
            queries("insert_version"),
            {
                "index": index.name,
                "version": name,
                "fingerprint": version.fingerprint,
                "model_name": version.model_name,
                "model_version": version.model_version,
                "dimensions": version.dimensions,
                "precision": version.precision,
                "distance": version.distance,
                "partitions": version.partitions,
                "spec": Jsonb(version.spec),
            },
        )
        versions.insert_partitions(conn, index.name, name, key_ranges)
        index.store(version).create(conn)
        arm(conn, index)
        versions.record_event(conn, index.name, "register", version=name, to_state="building")

    try:
        in_short_lock(conn, under_lock, what=f"register {name}", table=str(index.source))
    except errors.UniqueViolation as problem:
        if versions_named(conn, index.name, name):
            return  # Another process registered the same declaration at the same time.
        raise CatalogError(
            f"Version {name!r} of index {index.name!r} declares the very space of a version that is already live.",
            next_step="Use the live version, or change what makes the new one different.",
        ) from problem


def versions_named(conn: psycopg.Connection, index: str, name: str) -> bool:
    return any(version.name == name for version in versions.list_versions(conn, index))


def arm(conn: psycopg.Connection, index: OpenIndex) -> None:
    """Make change capture and the provenance view serve exactly the live versions. The caller holds the documents lock."""
    live = versions.live_versions(conn, index.name)
    capture.install(conn, index.source, index.name, [index.store(version).captured() for version in live])
    everywhere = [
        version
        for (other,) in conn.execute(queries("list_indexes")).fetchall()
        for version in versions.live_versions(conn, other)
    ]
    # Views over several indexes are replaced one after another, whoever registers.
    conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('embed_pipeline.provenance', 0))")
    replace_provenance(conn, everywhere)


def in_short_lock(conn: psycopg.Connection, work: Callable[[], T], *, what: str, table: str) -> T:
    """Run `work` in a transaction that waits for locks only briefly, again and again: applications never queue for long."""
    for attempt in range(LOCK_TRIES):
        try:
            with conn.transaction():
                conn.execute("SELECT set_config('lock_timeout', %s, true)", (f"{LOCK_TIMEOUT_MS}ms",))
                end_when_frozen(conn)
                return work()
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            time.sleep(min(0.1 * 2**attempt, 5.0))
    raise DatabaseUnavailable(
        f"Could not {what}: transactions on {table} held their locks through {LOCK_TRIES} tries of {LOCK_TIMEOUT_MS} ms each.",
        next_step="End the long transactions on that table (see pg_stat_activity) and run the same command again.",
    )


def _new_version(spec: IndexSpec, name: str, declared: VersionSpec, fingerprint: str, model_version: str) -> Version:
    return Version(
        index=spec.name,
        name=name,
        state="building",
        state_since=datetime.now(timezone.utc),
        fingerprint=fingerprint,
        model_name=declared.model_name,
        model_version=model_version,
        dimensions=declared.dimensions,
        precision=declared.precision,
        distance=declared.distance,
        partitions=spec.partitions,
        spec=declared.model_dump(mode="json"),
        dropped_at=None,
    )
