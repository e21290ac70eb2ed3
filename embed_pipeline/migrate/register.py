"""Registration: an index is armed once, under the lock that no writer's transaction can straddle; a version needs no lock on the documents."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from typing import TypeVar

import psycopg
from psycopg import errors, sql

from embed_pipeline.accounts.terms import Terms
from embed_pipeline.catalog import indexes, partitions, versions
from embed_pipeline.catalog.indexes import RegisteredIndex
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import capture, census, queue, ranges, shape
from embed_pipeline.errors import AnotherLedger, CatalogError, DatabaseUnavailable, EmbedPipelineError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import frozen, judged, names
from embed_pipeline.postgres import holders
from embed_pipeline.signals import signal
from embed_pipeline.stores import registry
from embed_pipeline.stores.adopting import adoption_of
from embed_pipeline.stores.protocol import AdoptingStore

T = TypeVar("T")

# Writers of the application queue behind our lock request, so we give up soon, let them through and ask again.
LOCK_TIMEOUT_MS = 2_000
LOCK_TRIES = 15
# What is made anew with every version, and the table whose rows the others refer to.
CATALOG = (sql.Identifier("embed_pipeline", "provenance"), sql.Identifier("embed_pipeline", "index_versions"))


def register(conn: psycopg.Connection, index: OpenIndex, *, adopted: bool = False) -> list[str]:
    """Register the index and each version that is new in its declaration; returns the new names.

    A version that is to be adopted is refused until its vectors were looked at (`adopted`), and its documents are in the table: it would be
    cut into partitions over an empty one, and embedded anew.
    """
    register_index(conn, index)
    known = frozen.registered(conn, index.name)
    assert known is not None
    frozen.refuse(index.name, frozen.of_versions(known, index.spec))
    _keep_settings(conn, index, known.versions)
    there = {version.name for version in known.versions}
    new = [name for name in index.spec.versions if name not in there]
    for name in new:
        if not adopted:
            _refuse_unadopted(conn, index, name)
        _register_version(conn, index, name)
    return new


def require_ours(conn: psycopg.Connection, index: OpenIndex) -> None:
    """AnotherLedger where what a registered version has outside of this database is another ledger's: before any verb does anything.

    A store that does not answer holds nobody up here: whoever writes to it asks again.
    """
    for version in versions.list_versions(conn, index.name):
        if version.dropped_at is None:
            try:
                index.store(version).require_ours(conn)
            except AnotherLedger:
                raise
            except EmbedPipelineError:
                continue


def _keep_settings(conn: psycopg.Connection, index: OpenIndex, known: Sequence[Version]) -> None:
    """Keep the settings that were declared last: searches know the catalog alone (docs/decisions/0025)."""
    for version in known:
        declared = index.spec.versions.get(version.name)
        if declared is not None and version.is_live and version.settings != declared.settings():
            in_short_lock(
                conn,
                partial(versions.keep_settings, conn, version, declared.settings()),
                what=f"keep the settings of {version.name}",
                table=f"the row of {version.name}",
                locked=CATALOG[1:],
                against=holders.OF_ROWS,
            )


def _refuse_unadopted(conn: psycopg.Connection, index: OpenIndex, name: str) -> None:
    if name not in index.spec.store.adopted():
        return
    store = index.store(new_version(index, name))
    store.prepare(conn)
    if adoption_of(store) is not None or (isinstance(store, AdoptingStore) and store.has_existing()):
        raise CatalogError(
            f"Version {name!r} of index {index.name!r} is to be adopted, and that has not been done yet.",
            next_step=f"Run: embed-pipeline adopt {index.name}",
        )


def register_index(conn: psycopg.Connection, index: OpenIndex) -> None:
    """Register the index without any version, or keep what has changed in its declaration."""
    source, store = index.spec.source(), index.spec.store
    wanted = RegisteredIndex(source.model_copy(update={"table": str(index.source)}), store)
    found = indexes.find(conn, index.name)
    if found is None:

        def under_lock() -> None:
            capture.lock(conn, index.source)
            signal("register.locked")
            indexes.insert(conn, index.name, wanted)
            arm(conn, index)

        in_short_lock(conn, under_lock, what=f"register {index.name}", table=str(index.source), locked=[index.source.identifier])
        found = indexes.find(conn, index.name)
    assert found is not None
    facts = frozen.registered(conn, index.name)
    assert facts is not None
    frozen.refuse(index.name, frozen.of_store(facts, index.spec))
    renamed = frozen.of_documents(facts, index.spec)
    if renamed:
        names.require_same(conn, index, facts, renamed)
        _rename(conn, index, "; ".join(map(str, renamed)), wanted)
    Terms.declared(index.spec).keep(conn, index.name)
    indexes.keep_judges_by(conn, index.name, judged.judges_by(index.spec))
    was, now = _payload_of(found), _payload_of(wanted)
    indexed = found.documents.payload_indexes != source.payload_indexes
    if (found.store, was) != (store, now) or indexed:
        _update_index(conn, index, wanted, payload_changed=was != now, indexes_changed=indexed)


def _payload_of(kept: RegisteredIndex) -> tuple[str | None, list[str], str | None]:
    """The payload that a store keeps beside each vector."""
    return kept.store.text_field(), kept.documents.payload, kept.documents.payload_object


def _rename(conn: psycopg.Connection, index: OpenIndex, reason: str, wanted: RegisteredIndex) -> None:
    """Take the declared names for those of the registered ones, and capture by them."""

    def under_lock() -> None:
        capture.lock(conn, index.source)
        indexes.rename(conn, index.name, wanted)
        arm(conn, index)
        # What was changed meanwhile, under names that capture did not know, is found by the comparison that this asks for.
        shape.doubt(conn, index.name, reason)
        versions.record_event(conn, index.name, "rename", reason=reason)

    what = f"rename the documents of {index.name}"
    in_short_lock(conn, under_lock, what=what, table=str(index.source), locked=[index.source.identifier])


def _update_index(
    conn: psycopg.Connection, index: OpenIndex, wanted: RegisteredIndex, *, payload_changed: bool, indexes_changed: bool
) -> None:
    """Keep what may change. With another payload the triggers look at other columns, and every document carries another one."""
    if indexes_changed:
        for version in versions.live_versions(conn, index.name):
            index.store(version).index_payload(conn)
    if payload_changed and index.spec.store.carries_payload:

        def rearm() -> None:
            capture.lock(conn, index.source)
            arm(conn, index)

        in_short_lock(conn, rearm, what="change the payload", table=str(index.source), locked=[index.source.identifier])
        # Before it is noted that this was done: who dies here does it again.
        for version in versions.live_versions(conn, index.name):
            _queue_all(conn, index, version)
    indexes.update(conn, index.name, wanted)


def _queue_all(conn: psycopg.Connection, index: OpenIndex, version: Version) -> None:
    for ids in census.ids(conn, index.source):
        queue.enqueue(conn, index.name, version.name, ids)


def _register_version(conn: psycopg.Connection, index: OpenIndex, name: str) -> None:
    version = new_version(index, name)
    key_ranges = ranges.cut(conn, index.source, index.spec.partitions)
    index.store(version).prepare(conn)
    signal("register.cut")

    def in_one() -> None:
        versions.insert(conn, version)
        partitions.insert(conn, index.name, name, key_ranges)
        index.store(version).create(conn)
        registry.refresh_views(conn)
        signal("register.registering")
        versions.record_event(conn, index.name, "register", version=name, to_state="building")

    try:
        in_short_lock(conn, in_one, what=f"register {name}", table="the catalog", locked=CATALOG, against=holders.ANY_LOCK)
    except errors.UniqueViolation as problem:
        if versions_named(conn, index.name, name):
            return  # Another process registered the same declaration at the same time.
        raise CatalogError(
            f"Version {name!r} of index {index.name!r} has the same fingerprint as a version that is already live.",
            next_step="Use the live version, or change what makes the new one different.",
        ) from problem


def versions_named(conn: psycopg.Connection, index: str, name: str) -> bool:
    return any(version.name == name for version in versions.list_versions(conn, index))


def arm(conn: psycopg.Connection, index: OpenIndex) -> None:
    """Make change capture what this package makes it, and take the table as it is now for what it is armed for.

    The caller holds the documents lock.
    """
    capture.install(conn, index.source, index.name, payload=index.spec.store.carries_payload)
    shape.record(conn, index.source, index.name)


def in_short_lock(
    conn: psycopg.Connection,
    work: Callable[[], T],
    *,
    what: str,
    table: str,
    locked: Sequence[sql.Identifier] = (),
    against: Sequence[str] = holders.OF_WRITERS,
) -> T:
    """Run `work` in a transaction that waits for locks only briefly, again and again: applications never queue for long.

    DatabaseUnavailable names who holds the lock modes `against` on the tables `locked`, and how to end that.
    """
    for attempt in range(LOCK_TRIES):
        try:
            with conn.transaction():
                conn.execute("SELECT set_config('lock_timeout', %s, true)", (f"{LOCK_TIMEOUT_MS}ms",))
                return work()
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            time.sleep(min(0.1 * 2**attempt, 5.0))
    held = holders.of_tables(conn, [each.as_string(conn) for each in locked], against) + holders.of_advisory(
        conn, registry.VIEWS_TURN
    )
    by = f" Held now by {holders.named(held)}." if held else ""
    raise DatabaseUnavailable(
        f"Could not {what}: transactions on {table} held their locks through {LOCK_TRIES} tries of {LOCK_TIMEOUT_MS} ms each.{by}",
        next_step="End the long transactions on that table (see pg_stat_activity and pg_prepared_xacts) and run the same command again.",
    )


def new_version(index: OpenIndex, name: str) -> Version:
    """A declared version as it will be registered."""
    declared, embedder = index.spec.version(name), index.embedder(name)
    return Version(
        index=index.name,
        name=name,
        state="building",
        state_since=datetime.now(timezone.utc),
        fingerprint=embedder.fingerprint,
        model_name=declared.model_name,
        model_version=embedder.model_version,
        dimensions=declared.dimensions,
        precision=declared.precision,
        distance=declared.distance,
        partitions=index.spec.partitions,
        spec=declared.identity(),
        settings=declared.settings(),
        dropped_at=None,
    )
