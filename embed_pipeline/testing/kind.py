"""The memory of this process as a kind of store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents.source import Source
from embed_pipeline.spec import StoreSpec, VersionSpec
from embed_pipeline.spec.frozen import Fate
from embed_pipeline.stores.kind import Disk, StoreKind
from embed_pipeline.stores.protocol import VersionStore


class MemorySpec(StoreSpec):
    """Vectors in this process's memory, compared one by one. Searches filter by the documents' own columns."""

    max_dimensions: ClassVar[Mapping[str, int]] = {"vector": 65_536, "halfvec": 65_536}
    fates: ClassVar[Mapping[str, Fate]] = {"kind": "frozen"}

    kind: Literal["memory"] = "memory"

    @property
    def is_one_process(self) -> bool:
        return True


def _load() -> Callable[[Version, Source, MemorySpec], VersionStore]:
    from embed_pipeline.testing.store import MemoryStore

    return lambda version, source, store: MemoryStore(version, source)


def _disk(store: MemorySpec, documents: int, version: VersionSpec, chunks_per_document: float) -> Disk:
    return Disk(0, 0, 0, "nothing: the vectors are in memory")


KIND = StoreKind(MemorySpec, _load, _disk, "nothing: there is none")
