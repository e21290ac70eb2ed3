"""The ANN index of a version: built after the backfill, beside running reads and writes; then the version is ready."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from embed_pipeline.catalog import versions
from embed_pipeline.errors import IllegalTransition, Stopped
from embed_pipeline.migrate import backfill
from embed_pipeline.migrate.open_index import OpenIndex
from embed_pipeline.stores.protocol import AnnIndex


def build(index: OpenIndex, name: str, progress: Callable[[str, float], None] | None = None) -> AnnIndex:
    """Build the index (or keep the valid one) and move the version from building to ready.

    Refused while partitions are missing: loading vectors into a standing HNSW index is ninety times slower.
    """
    with index.connection() as conn, _only_builder(conn, index, name):
        version = index.version(conn, name)
        missing = backfill.unfilled(conn, index, name)
        if missing and version.state == "building":
            raise IllegalTransition(
                f"{len(missing)} of {version.partitions} partitions of {index.name}.{name} are not filled (first: {missing[0]}).",
                next_step=f"Run: embed-pipeline backfill {index.name} {name}",
            )
        if not version.is_live:
            raise IllegalTransition(f"Version {name!r} of {index.name!r} is retired.", next_step="Declare a new version.")
        built = index.store(version).build_ann_index(conn, progress)
        if version.state == "building":
            with conn.transaction():
                versions.transition(conn, index.name, name, "ready", event="ready", reason="backfilled, ANN index valid")
        return built


@contextmanager
def _only_builder(conn: psycopg.Connection, index: OpenIndex, name: str) -> Iterator[None]:
    """Two concurrent builds of one index wait for each other's snapshots until PostgreSQL kills one of them as a deadlock.

    Tried, never waited for: waiting would hold the very snapshot that the other build waits for. After a killed builder its server
    process builds on and keeps the lock until it is done.
    """
    lock = f"embed_pipeline.ann_index.{index.name}.{name}"
    row = conn.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (lock,)).fetchone()
    if row is None or not row[0]:
        raise Stopped(
            f"The ANN index of {index.name}.{name} is being built by another run.",
            next_step=f"Run: embed-pipeline status {index.name}",
        )
    yield
