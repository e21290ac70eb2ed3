"""PostgreSQL's binary COPY format for chunk vectors, packed for a whole batch at once.

The format: PostgreSQL documentation, COPY, "Binary Format". A vector on the wire is its dimensions and a zero (int16 each), then its
numbers, all big-endian (pgvector, vector_recv and halfvec_recv).
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from embed_pipeline.stores.protocol import EmbeddedBatch

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
TRAILER = struct.pack("!h", -1)


def rows(batch: EmbeddedBatch, wanted: set[str], *, half: bool) -> bytes:
    """The COPY stream of (doc_id text, chunk int4, embedding) for the documents in `wanted`."""
    vectors = np.ascontiguousarray(batch.vectors, dtype=">f2" if half else ">f4").view(np.uint8)
    head = struct.pack("!ihh", vectors.shape[1] + 4, batch.vectors.shape[1], 0)
    chunks = np.asarray(batch.chunks, dtype=np.int64)
    # For each vector: the document it belongs to, and its number within that document.
    owners = np.repeat(np.arange(len(chunks)), chunks)
    ordinals = np.arange(len(owners)) - np.repeat(np.cumsum(chunks) - chunks, chunks)
    keys = [doc_id.encode() for doc_id in batch.doc_ids]
    # Rows with keys of one length are one rectangle of bytes; the order of rows is free.
    lengths = np.array([len(key) if doc_id in wanted else -1 for key, doc_id in zip(keys, batch.doc_ids, strict=True)])
    pieces = [SIGNATURE]
    for length in sorted({int(each) for each in lengths} - {-1}):
        numbers = np.flatnonzero(lengths[owners] == length)
        together = np.frombuffer(b"".join(keys[owner] for owner in owners[numbers]), dtype=np.uint8)
        columns = [
            _repeated(struct.pack("!hi", 3, length), len(numbers)),
            together.reshape(len(numbers), length),
            _repeated(struct.pack("!i", 4), len(numbers)),
            ordinals[numbers].astype(">i4").view(np.uint8).reshape(-1, 4),
            _repeated(head, len(numbers)),
            vectors[numbers],
        ]
        pieces.append(np.concatenate(columns, axis=1).tobytes())
    pieces.append(TRAILER)
    return b"".join(pieces)


def _repeated(value: bytes, times: int) -> NDArray[np.uint8]:
    return np.broadcast_to(np.frombuffer(value, dtype=np.uint8), (times, len(value)))
