"""pgvector as a kind of store."""

from __future__ import annotations

from collections.abc import Callable

from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents.source import Source
from embed_pipeline.spec import PgvectorSpec
from embed_pipeline.stores.kind import StoreKind
from embed_pipeline.stores.pgvector import footprint
from embed_pipeline.stores.protocol import VersionStore


def _load() -> Callable[[Version, Source, PgvectorSpec], VersionStore]:
    from embed_pipeline.stores.pgvector.store import PgvectorStore

    def opened(version: Version, source: Source, store: PgvectorSpec) -> VersionStore:
        adopted = store.adopt if store.adopt is not None and store.adopt.version == version.name else None
        return PgvectorStore(version, source, adopted)

    return opened


KIND = StoreKind(
    PgvectorSpec,
    _load,
    footprint.disk,
    "CREATE INDEX CONCURRENTLY on the version's own table; the documents are not touched",
    made=footprint.made,
    in_tables=True,
)
