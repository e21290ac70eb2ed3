"""Verification: compare the source_hash of every document with every vector of a version. Reads vectors, trusts no flag."""

from __future__ import annotations

import psycopg

from embed_pipeline.catalog import versions
from embed_pipeline.catalog.versions import queries
from embed_pipeline.documents import capture
from embed_pipeline.migrate.open_index import OpenIndex
from embed_pipeline.migrate.register import arm, in_short_lock
from embed_pipeline.stores.protocol import Coverage


def verify(index: OpenIndex, name: str | None = None) -> dict[str, Coverage]:
    """Coverage of one version, or of every live one. Each is one snapshot; queued changes explain what they are about."""
    with index.connection() as conn:
        chosen = [index.version(conn, name)] if name else versions.live_versions(conn, index.name)
        return {version.name: index.store(version).coverage(conn) for version in chosen}


def record_coverage(conn: psycopg.Connection, index: OpenIndex, name: str, coverage: Coverage) -> int:
    """Keep a comparison as what a cutover stands on; returns its id."""
    values = {
        "index": index.name,
        "version": name,
        "documents": coverage.documents,
        "vectors": coverage.vectors,
        "pending": coverage.pending,
        "dead_letters": coverage.dead_letters,
        "differences": coverage.differences,
    }
    row = conn.execute(queries("insert_coverage"), values).fetchone()
    assert row is not None
    return int(row[0])


def reconcile(index: OpenIndex) -> dict[str, int]:
    """Full comparison: re-arm change capture and queue every difference it finds; returns how many per version, audited.

    Finds what no trigger could see: triggers disabled for a while, a partition attached with rows in it.
    """
    queued: dict[str, int] = {}
    with index.connection() as conn:

        def rearm() -> None:
            capture.lock(conn, index.source)
            arm(conn, index)

        in_short_lock(conn, rearm, what="re-arm change capture", table=str(index.source))
        for version in versions.live_versions(conn, index.name):
            with conn.transaction():
                queued[version.name] = index.store(version).enqueue_differences(conn)
                if queued[version.name]:
                    detail = {"queued": queued[version.name]}
                    versions.record_event(conn, index.name, "reconcile", version=version.name, detail=detail)
    return queued
