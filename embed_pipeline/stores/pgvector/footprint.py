"""What a version will take in PostgreSQL: bytes of its table and of its ANN index, and where its vectors come from."""

from __future__ import annotations

import math

from embed_pipeline.spec import DocumentsSpec, PgvectorSpec, VersionSpec
from embed_pipeline.stores.kind import Disk

# Bytes: a page and what its header leaves of it; the largest row that keeps its vector, and a piece of a vector that is kept beside it.
PAGE, PAGE_ROOM = 8192, 8160
IN_ROW_BYTES, TOAST_BYTES = 2032, 1996
# A row without its vector and the name of its model: header, numbers, times, an id of ten characters, hash, model version, fingerprint.
ROW_BYTES = 178
# Measured: its entries in the key's index and in that of the partition.
KEY_BYTES = 40


def disk(store: PgvectorSpec, documents: int, version: VersionSpec, chunks_per_document: float = 1.0) -> Disk:
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


def made(store: PgvectorSpec, source: DocumentsSpec, name: str, version: VersionSpec) -> tuple[str, ...]:
    """Of a version that is adopted: where its vectors come from, so that nobody takes the estimate for a bill."""
    if store.adopt is None or store.adopt.version != name:
        return ()
    place = store.adopt.table or source.table
    return (f"vectors: copied from {place}, where they are of the texts; what is estimated is to embed all of them",)


def _stored_row(row: int, vector: int) -> float:
    """Bytes on disk of a row with its vector, wherever that is."""
    if row + vector <= IN_ROW_BYTES:
        return _on_pages(_aligned(row + vector) + 4)
    pieces, rest = divmod(vector, TOAST_BYTES)
    return _on_pages(_aligned(row + 18) + 4) + _on_pages(pieces * (TOAST_BYTES + 36) + (rest + 36 if rest else 0))


def _on_pages(size: int) -> float:
    """Bytes of disk for something that is not split over pages."""
    return PAGE / (PAGE_ROOM // size) if size <= PAGE_ROOM else size


def _aligned(size: int) -> int:
    return (size + 7) // 8 * 8
