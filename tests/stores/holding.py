"""What a store holds, read past its own protocol: the oracle of the conformance suite."""

from __future__ import annotations

from typing import Any

import psycopg
from qdrant_client import models

from embed_pipeline.catalog import versions
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.stores.pgvector.store import PgvectorStore
from embed_pipeline.stores.qdrant.store import QdrantStore
from embed_pipeline.testing.store import MemoryStore
from tests.harness.articles import stored


def hashes(index: OpenIndex, app: psycopg.Connection, name: str) -> dict[str, str]:
    """doc_id -> source_hash of every vector of the version."""
    store = _store(index, name)
    if isinstance(store, PgvectorStore):
        return stored(app, name)
    if isinstance(store, MemoryStore):
        with index.connection() as conn:
            return {doc_id: entry.source_hash.hex() for doc_id, entry in store.room(conn).entries.items()}
    found = {}
    for record in points(index, name):
        vectors = record.vector if isinstance(record.vector, dict) else {"": record.vector}
        if vectors.get(store.place.vector) is not None:
            ours = (record.payload or {})["embed_pipeline"]
            entry = ours["versions"][name]
            assert entry["fingerprint"] == store.version.fingerprint
            found[ours["doc_id"]] = entry["source_hash"]
    return found


def points(index: OpenIndex, name: str) -> list[models.Record]:
    """Every point of the version's collection, tombstones too."""
    store = _store(index, name)
    assert isinstance(store, QdrantStore)
    records, offset = store._engine.call(
        lambda client: client.scroll(store.place.collection, limit=10_000, with_payload=True, with_vectors=True)
    )
    assert offset is None
    return records


def store_of(index: OpenIndex, name: str) -> QdrantStore:
    store = _store(index, name)
    assert isinstance(store, QdrantStore)
    return store


def _store(index: OpenIndex, name: str) -> Any:
    with index.connection() as conn:
        return index.store(versions.get(conn, index.name, name))
