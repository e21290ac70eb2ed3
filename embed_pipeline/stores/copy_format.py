"""PostgreSQL's binary COPY format for chunk vectors, packed for a whole batch at once.

The format: PostgreSQL documentation, COPY, "Binary Format". A vector on the wire is its dimensions and a zero (int16 each), then its
numbers, all big-endian (pgvector, vector_recv and halfvec_recv).
"""

from __future__ import annotations

import struct

import numpy as np

from embed_pipeline.stores.protocol import EmbeddedBatch

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
TRAILER = struct.pack("!h", -1)


def rows(batch: EmbeddedBatch, wanted: set[str], *, half: bool) -> bytes:
    """The COPY stream of (doc_id text, chunk int4, embedding) for the documents in `wanted`."""
    numbers = np.ascontiguousarray(batch.vectors, dtype=">f2" if half else ">f4")
    dimensions = numbers.shape[1]
    width = dimensions * numbers.itemsize
    vectors = memoryview(numbers.tobytes())
    vector_head = struct.pack("!ihh", width + 4, dimensions, 0)
    pieces: list[bytes | memoryview] = [SIGNATURE]
    position = 0
    for doc_id, chunks in zip(batch.doc_ids, batch.chunks, strict=True):
        if doc_id in wanted:
            key = doc_id.encode()
            row_head = struct.pack("!hi", 3, len(key)) + key
            for chunk in range(chunks):
                start = (position + chunk) * width
                pieces.append(row_head + struct.pack("!ii", 4, chunk) + vector_head)
                pieces.append(vectors[start : start + width])
        position += chunks
    pieces.append(TRAILER)
    return b"".join(pieces)
