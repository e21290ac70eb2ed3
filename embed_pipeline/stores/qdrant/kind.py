"""Qdrant as a kind of store. Its client, which takes a second to import, is imported with the store."""

from __future__ import annotations

from collections.abc import Callable

from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents.source import Source
from embed_pipeline.extras import needed_for
from embed_pipeline.spec import QdrantSpec
from embed_pipeline.stores.kind import StoreKind
from embed_pipeline.stores.protocol import VersionStore
from embed_pipeline.stores.qdrant import footprint


def _load() -> Callable[[Version, Source, QdrantSpec], VersionStore]:
    with needed_for("Store qdrant"):
        from embed_pipeline.stores.qdrant.store import QdrantStore

    return QdrantStore


KIND = StoreKind(
    QdrantSpec,
    _load,
    footprint.disk,
    "nothing in PostgreSQL; Qdrant builds it beside running searches",
    footprint.made,
)
