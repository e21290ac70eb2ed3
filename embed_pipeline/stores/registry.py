"""Which store a kind of store is."""

from __future__ import annotations

from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents.source import Source
from embed_pipeline.stores.pgvector import PgvectorStore
from embed_pipeline.stores.protocol import VersionStore


def open_store(kind: str, version: Version, source: Source) -> VersionStore:
    """The store that holds the vectors of `version`."""
    return {"pgvector": PgvectorStore}[kind](version, source)
