"""PostgreSQL's binary COPY format for chunk vectors, packed for a whole batch at once.

The format: PostgreSQL documentation, COPY, "Binary Format". A vector on the wire is its dimensions and a zero (int16 each), then its
numbers, all big-endian (pgvector, vector_recv and halfvec_recv).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pgvector import HalfVector

from embed_pipeline.stores.protocol import EmbeddedBatch

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
TRAILER = struct.pack("!h", -1)


def rows(batch: EmbeddedBatch, *, half: bool) -> Iterator[bytes | memoryview]:
    """The COPY stream of (doc_id text, chunk int4, embedding) of the batch, in pieces to write one after another.

    A batch with offsets has two columns more: passage_start and passage_end, int4.
    """
    vectors = np.ascontiguousarray(batch.vectors, dtype=">f2" if half else ">f4").view(np.uint8)
    width = vectors.shape[1]
    head = struct.pack("!ihh", width + 4, batch.vectors.shape[1], 0)
    chunks = np.asarray(batch.chunks, dtype=np.int64)
    # For each vector: the document it belongs to, and its number within that document.
    owners = np.repeat(np.arange(len(chunks)), chunks)
    ordinals = np.arange(len(owners)) - np.repeat(np.cumsum(chunks) - chunks, chunks)
    keys = [doc_id.encode() for doc_id in batch.doc_ids]
    # Rows with keys of one length are one rectangle of bytes; the order of rows is free.
    lengths = np.array([len(key) for key in keys])
    passages = np.empty((len(owners), 0), dtype=np.uint8) if batch.offsets is None else _int4_columns(batch.offsets)
    columns = 3 if batch.offsets is None else 5
    yield SIGNATURE
    for length in sorted({int(each) for each in lengths}):
        numbers = np.flatnonzero(lengths[owners] == length)
        together = b"".join([keys[owner] for owner in owners[numbers]])
        row = 6 + length + 8 + len(head) + width + passages.shape[1]
        rectangle = np.empty((len(numbers), row), dtype=np.uint8)
        start = 0
        for column in (
            struct.pack("!hi", columns, length),
            np.frombuffer(together, dtype=np.uint8).reshape(len(numbers), length),
            struct.pack("!i", 4),
            ordinals[numbers].astype(">i4").view(np.uint8).reshape(-1, 4),
            head,
            vectors if len(numbers) == len(vectors) else vectors[numbers],
            passages[numbers],
        ):
            filled = np.frombuffer(column, dtype=np.uint8) if isinstance(column, bytes) else column
            rectangle[:, start : start + filled.shape[-1]] = filled
            start += filled.shape[-1]
        yield rectangle.data.cast("B")
    yield TRAILER


def _int4_columns(numbers: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Each number behind its length, as COPY wants it: one row of bytes for each row of numbers."""
    fields = np.empty((*numbers.shape, 2), dtype=">i4")
    fields[..., 0] = 4
    fields[..., 1] = numbers
    return fields.reshape(len(numbers), -1).view(np.uint8)


def columns(batch: EmbeddedBatch, *, half: bool) -> dict[str, list[Any]]:
    """The same rows for an INSERT from `unnest`: one list for each column of the vectors table."""
    offsets = [(None, None)] * len(batch.vectors) if batch.offsets is None else batch.offsets.tolist()
    return {
        "doc_ids": [doc_id for doc_id, chunks in zip(batch.doc_ids, batch.chunks, strict=True) for _ in range(chunks)],
        "chunks": [chunk for chunks in batch.chunks for chunk in range(chunks)],
        "embeddings": [HalfVector(row) for row in batch.vectors] if half else list(batch.vectors),
        "starts": [start for start, _ in offsets],
        "ends": [end for _, end in offsets],
    }
