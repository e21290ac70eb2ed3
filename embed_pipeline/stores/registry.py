"""Maps a declared store kind to its implementation. Each is imported on first use."""

from __future__ import annotations

from importlib import import_module

import psycopg

from embed_pipeline.catalog import versions
from embed_pipeline.catalog.versions import Version, queries
from embed_pipeline.documents.source import Source
from embed_pipeline.spec import PgvectorSpec, QdrantSpec
from embed_pipeline.stores.protocol import VersionStore


def open_store(store: PgvectorSpec | QdrantSpec, version: Version, source: Source) -> VersionStore:
    """The store that holds the vectors of `version`."""
    if isinstance(store, PgvectorSpec):
        from embed_pipeline.stores.pgvector.store import PgvectorStore

        return PgvectorStore(version, source)
    from embed_pipeline.stores.qdrant.store import QdrantStore

    return QdrantStore(version, source, store)


def load(store: PgvectorSpec | QdrantSpec) -> None:
    """Import the kind now: a client takes seconds to import, and a store may be opened next under the documents lock."""
    import_module(
        "embed_pipeline.stores.pgvector.store" if isinstance(store, PgvectorSpec) else "embed_pipeline.stores.qdrant.store"
    )


def refresh_views(conn: psycopg.Connection) -> None:
    """Make the view embed_pipeline.provenance show exactly the live versions of every index whose vectors are in tables."""
    from embed_pipeline.stores.pgvector.provenance import replace_provenance

    # Views over several indexes are replaced one after another, whoever registers.
    conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('embed_pipeline.provenance', 0))")
    in_tables = [index for index, kind in conn.execute(queries("list_indexes")).fetchall() if kind == "pgvector"]
    live = [version for index in in_tables for version in versions.live_versions(conn, index)]
    # One whose table somebody has dropped must not keep the others out of sight.
    replace_provenance(conn, [version for version in live if _has_table(conn, version)])


def _has_table(conn: psycopg.Connection, version: Version) -> bool:
    row = conn.execute(queries("table_is_there"), {"table": version.table.as_string(conn)}).fetchone()
    return row is not None and bool(row[0])
