"""PostgreSQL's binary COPY format for chunk vectors, packed for a whole batch at once.

The format: PostgreSQL documentation, COPY, "Binary Format". A vector on the wire is its dimensions and a zero (int16 each), then its
numbers, all big-endian (pgvector, vector_recv and halfvec_recv).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pgvector import HalfVector

from embed_pipeline.stores.protocol import EmbeddedBatch

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
TRAILER = struct.pack("!h", -1)
HASH_BYTES = 32


def rows(batch: EmbeddedBatch, partition: int, epoch: int, *, half: bool) -> Iterator[bytes | memoryview]:
    """The COPY stream of the batch, in pieces to write one after another: (doc_id text, chunk int4, chunks int4, source_hash bytea,
    partition int2, epoch int4, embedding).

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
    lengths = np.fromiter(map(len, keys), dtype=np.int64, count=len(keys))
    hashes = np.frombuffer(b"".join(batch.hashes), dtype=np.uint8).reshape(len(keys), HASH_BYTES)
    passages = np.empty((len(owners), 0), dtype=np.uint8) if batch.offsets is None else _int4_columns(batch.offsets)
    columns = 7 if batch.offsets is None else 9
    numbers_of_chunks = _int4_columns(np.stack([ordinals, chunks[owners]], axis=1).astype(np.int32))
    fill = struct.pack("!ihii", 2, partition, 4, epoch) + head
    yield SIGNATURE
    for length in np.unique(lengths).tolist():
        numbers = np.flatnonzero(lengths[owners] == length)
        together = b"".join([keys[owner] for owner in owners[numbers].tolist()])
        parts = (
            struct.pack("!hi", columns, length),
            np.frombuffer(together, dtype=np.uint8).reshape(len(numbers), length),
            numbers_of_chunks[numbers],
            struct.pack("!i", HASH_BYTES),
            hashes[owners[numbers]],
            fill,
            vectors if len(numbers) == len(vectors) else vectors[numbers],
            passages[numbers],
        )
        yield _rectangle(len(numbers), parts)
    yield TRAILER


def _rectangle(count: int, parts: Sequence[bytes | NDArray[np.uint8]]) -> memoryview:
    """`count` rows of bytes side by side; a part that is bytes is the same in every row."""
    filled = [np.frombuffer(part, dtype=np.uint8) if isinstance(part, bytes) else part for part in parts]
    rectangle = np.empty((count, sum(part.shape[-1] for part in filled)), dtype=np.uint8)
    start = 0
    for part in filled:
        rectangle[:, start : start + part.shape[-1]] = part
        start += part.shape[-1]
    return rectangle.data.cast("B")


def _int4_columns(numbers: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Each number behind its length, as COPY wants it: one row of bytes for each row of numbers."""
    fields = np.empty((*numbers.shape, 2), dtype=">i4")
    fields[..., 0] = 4
    fields[..., 1] = numbers
    return fields.reshape(len(numbers), -1).view(np.uint8)


def columns(batch: EmbeddedBatch, *, half: bool, chunks: Literal["all", "first", "further"] = "all") -> dict[str, list[Any]]:
    """The same rows for an INSERT from `unnest`: one list for each column of the version's table.

    `first`: only the row that stands for each document, its chunk 0; `further`: only the others.
    """
    counts = np.asarray(batch.chunks, dtype=np.int64)
    owners = np.repeat(np.arange(len(counts)), counts)
    ordinals = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    wanted = {"all": ordinals >= 0, "first": ordinals == 0, "further": ordinals > 0}[chunks]
    rows = np.flatnonzero(wanted).tolist()
    offsets = [(None, None)] * len(owners) if batch.offsets is None else batch.offsets.tolist()
    of_document = owners[wanted].tolist()
    return {
        "doc_ids": [batch.doc_ids[n] for n in of_document],
        "chunk": ordinals[wanted].tolist(),
        "chunks": [batch.chunks[n] for n in of_document],
        "hashes": [batch.hashes[n] for n in of_document],
        "embeddings": [HalfVector(batch.vectors[n]) if half else batch.vectors[n] for n in rows],
        "starts": [offsets[n][0] for n in rows],
        "ends": [offsets[n][1] for n in rows],
    }
