"""Many queries compared with every vector at once: the table is read once, in blocks, and each block is one matrix product.

For the gate, which needs the exact answer to hundreds of queries: one sequential scan for each would read every vector as often.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from embed_pipeline.catalog.versions import Version
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.postgres.connection import unhurried, vector_schema
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.stores.protocol import Hit

queries = Queries(__file__, "pgvector.sql")

# Numbers of one block: 8 MB of single precision, whatever the dimensions; its scores for 1,000 queries are about as many.
BLOCK_NUMBERS = 2_000_000


def search(conn: psycopg.Connection, version: Version, asked: Vectors, k: int, without: frozenset[str]) -> list[list[Hit]]:
    """The `k` nearest documents to each row of `asked`, by their nearest vector; documents `without` count as not there."""
    best = _Best(len(asked), k)
    for block in _blocks(conn, version):
        if without:
            block = block.only(np.array([doc_id not in without for doc_id in block.doc_ids], dtype=bool))
        if len(block.doc_ids):
            best.add(block, _distances(asked, block.vectors, version.distance))
    return best.hits()


class _Block:
    """Vectors in the order of their documents, every passage of a document in one block."""

    def __init__(self, doc_ids: Sequence[str], chunks: NDArray[np.int64], vectors: Vectors) -> None:
        self.doc_ids = np.asarray(doc_ids, dtype=object)
        self.chunks = chunks
        self.vectors = vectors

    def only(self, wanted: NDArray[np.bool_]) -> _Block:
        return _Block(self.doc_ids[wanted].tolist(), self.chunks[wanted], self.vectors[wanted])

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each document's vectors begin."""
        is_first = np.ones(len(self.doc_ids), dtype=bool)
        is_first[1:] = self.doc_ids[1:] != self.doc_ids[:-1]
        return np.flatnonzero(is_first)


def _blocks(conn: psycopg.Connection, version: Version) -> Iterator[_Block]:
    rows = max(BLOCK_NUMBERS // version.dimensions, 1)
    kind = ">f2" if version.precision == "halfvec" else ">f4"
    query = queries("block", table=version.table, send=sql.Identifier(vector_schema(conn), f"{version.precision}_send"))
    after: str | None = None
    while True:
        with unhurried(conn):
            row = conn.execute(query, {"after": after, "rows": rows}, binary=True).fetchone()
        assert row is not None
        doc_ids, chunks, data = row
        if not doc_ids:
            return
        # Each begins with its number of dimensions and two bytes that say nothing (pgvector, vector_send and halfvec_send).
        numbers = np.frombuffer(data, dtype=np.uint8).reshape(len(doc_ids), -1)[:, 4:]
        vectors = np.ascontiguousarray(numbers).view(kind).astype(np.float32)
        block = _Block(doc_ids, np.asarray(chunks, dtype=np.int64), vectors)
        is_last = len(doc_ids) < rows
        if not is_last and version.is_chunked and block.starts[-1] > 0:
            # The last document may go on in the next block: all of it comes there.
            whole = np.arange(len(doc_ids)) < block.starts[-1]
            block = block.only(whole)
        after = str(block.doc_ids[-1])
        yield block
        if is_last:
            return


def _distances(asked: Vectors, vectors: Vectors, kind: str) -> NDArray[np.float32]:
    """Distances as pgvector defines them, one row for each query."""
    products: NDArray[np.float32] = asked.astype(np.float32) @ vectors.T
    if kind == "inner_product":
        return -products
    squares = np.einsum("ij,ij->i", vectors, vectors)
    own = np.einsum("ij,ij->i", asked, asked)
    if kind == "l2":
        squared: NDArray[np.float32] = np.maximum(own[:, None] + squares[None, :] - 2 * products, 0)
        return np.sqrt(squared)
    similar: NDArray[np.float32] = products / np.sqrt(own[:, None] * squares[None, :])
    return 1 - similar


class _Best:
    """The nearest documents to each query so far."""

    def __init__(self, asked: int, k: int) -> None:
        self._k = k
        self._distances = np.full((asked, 0), np.inf, dtype=np.float32)
        self._ids = np.empty((asked, 0), dtype=object)
        self._chunks = np.empty((asked, 0), dtype=np.int64)

    def add(self, block: _Block, distances: NDArray[np.float32]) -> None:
        starts = block.starts
        ids, chunks = block.doc_ids[starts], np.broadcast_to(block.chunks[starts], (len(distances), len(starts)))
        if len(starts) < distances.shape[1]:
            chunks = _nearest_chunks(distances, starts, block.chunks)
            distances = np.minimum.reduceat(distances, starts, axis=1)
        most = min(self._k, distances.shape[1])
        nearest = np.argpartition(distances, most - 1, axis=1)[:, :most]
        self._merge(np.take_along_axis(distances, nearest, axis=1), ids[nearest], np.take_along_axis(chunks, nearest, axis=1))

    def hits(self) -> list[list[Hit]]:
        return [
            [Hit(doc_id, int(chunk), float(distance)) for doc_id, chunk, distance in zip(*rows, strict=True)]
            for rows in zip(self._ids, self._chunks, self._distances, strict=True)
        ]

    def _merge(self, distances: NDArray[np.float32], ids: np.ndarray, chunks: NDArray[np.int64]) -> None:
        all_distances = np.concatenate([self._distances, distances], axis=1)
        order = np.argsort(all_distances, axis=1, kind="stable")[:, : self._k]
        self._distances = np.take_along_axis(all_distances, order, axis=1)
        self._ids = np.take_along_axis(np.concatenate([self._ids, ids], axis=1), order, axis=1)
        self._chunks = np.take_along_axis(np.concatenate([self._chunks, chunks], axis=1), order, axis=1)


def _nearest_chunks(distances: NDArray[np.float32], starts: NDArray[np.int64], chunks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each document the chunk that is nearest to each query."""
    ends = [*starts[1:].tolist(), distances.shape[1]]
    found = [chunks[start + np.argmin(distances[:, start:end], axis=1)] for start, end in zip(starts.tolist(), ends, strict=True)]
    return np.stack(found, axis=1)
