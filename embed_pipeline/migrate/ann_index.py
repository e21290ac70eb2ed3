"""The ANN index of a version: built after the backfill, beside running reads and writes; then the version is ready."""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from embed_pipeline.catalog import versions
from embed_pipeline.errors import IllegalTransition
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill
from embed_pipeline.migrate.standing import unless_dropped, vectors_gone
from embed_pipeline.postgres.session import Line, only_run
from embed_pipeline.stores.protocol import AnnIndex


def build(index: OpenIndex, name: str, progress: Callable[[str, float], None] | None = None) -> AnnIndex:
    """Build the index (or keep the valid one) and move the version from building to ready.

    Refused while partitions are missing: loading vectors into a standing HNSW index is ninety times slower. A build that was cut by a
    restart of PostgreSQL is begun anew when it answers again; `progress` hears the reason as a phase that begins with `waiting`.
    """

    def waiting(reason: str) -> None:
        if progress is not None and reason:
            progress(f"waiting: {reason}", 0.0)

    def work(conn: psycopg.Connection) -> AnnIndex:
        version = index.version(conn, name)
        missing = backfill.unfilled(conn, index, name)
        if missing and version.state == "building":
            raise IllegalTransition(
                f"{len(missing)} of {version.partitions} partitions of {index.name}.{name} are not filled (first: {missing[0]}).",
                next_step=f"Run: embed-pipeline backfill {index.name} {name}",
            )
        if not version.is_live:
            raise IllegalTransition(f"Version {name!r} of {index.name!r} is retired.", next_step="Declare a new version.")
        try:
            with unless_dropped(index, version):
                built = index.store(version).build_ann_index(conn, progress)
        except psycopg.errors.UndefinedColumn as problem:
            raise vectors_gone(conn, version) from problem
        # Looked at again: another builder, or this one before its answer was lost, may have moved it.
        if index.version(conn, name).state == "building":
            with conn.transaction():
                versions.transition(conn, index.name, name, "ready", event="ready", reason="backfilled, ANN index valid")
        return built

    only_builder = only_run(
        f"embed_pipeline.ann_index.{index.name}.{name}",
        f"The ANN index of {index.name}.{name} is being built by another run",
        next_step=f"Run: embed-pipeline status {index.name}",
    )
    with Line(index, waiting, taken=only_builder) as line:
        return line.repeat(work)
