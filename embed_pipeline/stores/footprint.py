"""What a version will take, by the kind of its store: disk, and the locks on documents that an application could meet."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embed_pipeline.spec import DocumentsSpec, PgvectorSpec, QdrantSpec, VersionSpec
from embed_pipeline.stores.qdrant.own_fields import own_indexes

# Bytes: a page and what its header leaves of it; the largest row that keeps its vector, and a piece of a vector that is kept beside it.
PAGE, PAGE_ROOM = 8192, 8160
IN_ROW_BYTES, TOAST_BYTES = 2032, 1996
# A row without its vector and the name of its model: header, numbers, times, an id of ten characters, hash, model version, fingerprint.
ROW_BYTES = 178
# Measured: its entries in the key's index and in that of the partition.
KEY_BYTES = 40

# Measured: our part of a point's payload as JSON, for ids of about ten characters. The documents' own payload is not counted.
POINT_PROVENANCE_BYTES = 450


@dataclass(frozen=True)
class Disk:
    """Estimated bytes; see `disk`."""

    vectors: int
    documents: int
    ann_index: int
    basis: str
    """What the estimate is made from."""
    quantized: int = 0
    """Of the vectors once more, in fewer bits."""

    @property
    def total(self) -> int:
        return self.vectors + self.documents + self.ann_index + self.quantized


def disk(store: PgvectorSpec | QdrantSpec, documents: int, version: VersionSpec, chunks_per_document: float = 1.0) -> Disk:
    """Bytes that the version will take where its vectors live."""
    if isinstance(store, PgvectorSpec):
        return _in_tables(documents, version, chunks_per_document)
    return _in_points(documents, version, chunks_per_document, {**store.collection_config, **version.store_config})


def collection(store: PgvectorSpec | QdrantSpec, source: DocumentsSpec, name: str, version: VersionSpec) -> tuple[str, ...]:
    """How the place of the version's vectors will be made, where it is one to be made so."""
    if isinstance(store, PgvectorSpec):
        return ()
    adopted = store.adopted().get(name)
    settings = {**store.collection_config, **version.store_config}
    searched = settings.pop("search_params", None)
    if adopted is not None:
        made = f"{adopted.collection} is adopted as it is"
    else:
        declared = "; ".join(f"{each}: {json.dumps(value)}" for each, value in sorted(settings.items()))
        made = f"as declared ({declared}), else like the one that serves" if declared else "like the one that serves"
    fields = {**own_indexes(name), **source.payload_indexes}
    indexes = ", ".join(f"{field} ({kind})" for field, kind in fields.items())
    before = "before it is first asked by them" if adopted is not None else "before the data"
    return (
        f"collection: {made}",
        f"payload indexes, made {before} where they are not there: {indexes}",
        *([f"searched with {json.dumps(searched)}"] if searched else []),
    )


def locks(store: PgvectorSpec | QdrantSpec, table: str) -> tuple[str, ...]:
    """What writing vectors and building the ANN index lock, in words."""
    if isinstance(store, PgvectorSpec):
        return (
            f"backfill and dual-write: none on rows of {table}; they read it as any SELECT does, for some milliseconds at a time",
            "ANN index: CREATE INDEX CONCURRENTLY on the version's own table; the documents are not touched",
        )
    return (
        f"backfill and dual-write: none on rows of {table}; they read it as any SELECT does, for some milliseconds at a time",
        "ANN index: nothing in PostgreSQL; Qdrant builds it beside running searches",
    )


def _in_tables(documents: int, version: VersionSpec, chunks_per_document: float) -> Disk:
    """Bytes of a version's table and its ANN index, for ids of about ten characters.

    An estimate from how PostgreSQL and pgvector lay out pages (tests/database/report/test_plan.py compares it with tables that are made).
    A vector takes 8 bytes and 4 a dimension (halfvec: 2). In a row of up to 2,032 bytes it stands itself; else it is cut into pieces of
    1,996 bytes beside it (TOAST). An HNSW element takes 72 bytes and the vector (pgvector, src/hnsw.h),
    its neighbours 6 bytes each: 2 m on the lowest level, m / (m - 1) above on average; they share a page where they fit.
    """
    vector = 8 + (2 if version.precision == "halfvec" else 4) * version.dimensions
    m = version.hnsw.m
    chunks = documents * chunks_per_document
    element, neighbours = 72 + vector, 4 + math.ceil(6 * (2 * m + m / (m - 1)))
    together = _aligned(element) + _aligned(neighbours) + 8
    row = ROW_BYTES + len(version.model_name)
    beside = row + KEY_BYTES
    return Disk(
        vectors=math.ceil(chunks * (_stored_row(row, vector) + KEY_BYTES - beside)),
        documents=math.ceil(chunks * beside),
        ann_index=math.ceil(chunks * (_on_pages(together) if together <= PAGE_ROOM else 2 * PAGE)),
        basis="dimensions and page layout",
    )


def _stored_row(row: int, vector: int) -> float:
    """Bytes on disk of a row with its vector, wherever that is."""
    if row + vector <= IN_ROW_BYTES:
        return _on_pages(_aligned(row + vector) + 4)
    pieces, rest = divmod(vector, TOAST_BYTES)
    return _on_pages(_aligned(row + 18) + 4) + _on_pages(pieces * (TOAST_BYTES + 36) + (rest + 36 if rest else 0))


def _on_pages(size: int) -> float:
    """Bytes of disk for something that is not split over pages."""
    return PAGE / (PAGE_ROOM // size) if size <= PAGE_ROOM else size


def _in_points(documents: int, version: VersionSpec, chunks_per_document: float, settings: Mapping[str, Any]) -> Disk:
    """Qdrant's own rule for planning is 1.5 times the bare vectors, the half of them for graph and indexes (its documentation,
    "Capacity planning"). Not measured on a server. What the serving collection has beside that and nobody has declared is not known here.
    """
    width = 2 if version.precision == "halfvec" else 4
    replicas = settings.get("replication_factor") or 1
    values = documents * chunks_per_document * version.dimensions * replicas
    vectors = math.ceil(values * width)
    return Disk(
        vectors,
        documents * POINT_PROVENANCE_BYTES * replicas,
        vectors // 2,
        f"dimensions, by Qdrant's rule of one and a half{f', {replicas} replicas' if replicas > 1 else ''}",
        math.ceil(values * _quantized_bits(settings.get("quantization_config")) / 8),
    )


# Bits of a value once more, by the setting that says how many.
BITS = {
    "x4": 8, "x8": 4, "x16": 2, "x32": 1, "x64": 0.5,
    "one_bit": 1, "one_and_half_bits": 1.5, "two_bits": 2,
    "bits1": 1, "bits1_5": 1.5, "bits2": 2, "bits4": 4, "bits8": 8,
}  # fmt: skip


def _quantized_bits(config: Any) -> float:
    """Bits that a value takes beside its own vector. Where the setting leaves it to the server, what that takes today."""
    if not isinstance(config, Mapping):
        return 0.0
    kind, said = next(iter(config.items()))
    by_default = {"scalar": 8.0, "binary": 1.0, "product": 8.0, "turbo": 4.0}
    asked = said.get("compression") or said.get("encoding") or said.get("bits")
    return BITS.get(asked, by_default.get(kind, 0.0))


def _aligned(size: int) -> int:
    return (size + 7) // 8 * 8
