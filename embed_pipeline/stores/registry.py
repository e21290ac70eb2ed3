"""Which store a kind of store is, and what the kinds show together. A kind is imported when it is first used, and no other with it."""

from __future__ import annotations

from importlib import import_module

import psycopg

from embed_pipeline.catalog import versions
from embed_pipeline.catalog.versions import Version, queries
from embed_pipeline.documents.source import Source
from embed_pipeline.postgres import turns
from embed_pipeline.spec import PgvectorSpec, QdrantSpec
from embed_pipeline.stores.protocol import VersionStore

VIEWS_TURN = "embed_pipeline.provenance"


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
    turns.wait_in_transaction(conn, VIEWS_TURN)
    in_tables = [index for index, kind in conn.execute(queries("list_indexes")).fetchall() if kind == "pgvector"]
    replace_provenance(conn, [version for index in in_tables for version in versions.live_versions(conn, index)])
