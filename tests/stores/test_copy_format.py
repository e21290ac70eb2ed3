"""Our packing of COPY BINARY is what the server reads."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import numpy as np
import psycopg
import pytest

from embed_pipeline.stores.pgvector import copy_format
from embed_pipeline.stores.protocol import EmbeddedBatch

COLUMNS = "doc_id text, chunk integer, chunks integer, source_hash bytea, partition smallint, epoch integer"


def hash_of(doc_id: str) -> bytes:
    return sha256(doc_id.encode()).digest()


def copied(conn: psycopg.Connection, batch: EmbeddedBatch, columns: str, *, half: bool) -> list[tuple[Any, ...]]:
    """The batch as the server has it, copied by partition 7 under epoch 3."""
    conn.execute(f"CREATE TEMP TABLE t ({COLUMNS}, {columns})")  # type: ignore[arg-type]
    with conn.cursor() as cursor, cursor.copy("COPY t FROM STDIN (FORMAT BINARY)") as copy:
        for piece in copy_format.rows(batch, 7, 3, half=half):
            copy.write(piece)
    return conn.execute("SELECT * FROM t ORDER BY doc_id, chunk").fetchall()


@pytest.mark.parametrize(("type_name", "half"), [("vector", False), ("halfvec", True)])
def test_the_server_reads_what_was_packed(conn: psycopg.Connection, type_name: str, half: bool) -> None:
    vectors = np.random.default_rng(3).standard_normal((4, 7)).astype(np.float32)
    ids = ["a", "ü ' \\"]
    rows = copied(
        conn, EmbeddedBatch(ids, [hash_of(each) for each in ids], [1, 3], vectors), f"embedding {type_name}(7)", half=half
    )
    assert [row[:3] for row in rows] == [(ids[0], 0, 1), (ids[1], 0, 3), (ids[1], 1, 3), (ids[1], 2, 3)]
    assert [row[3:6] for row in rows] == [(hash_of(row[0]), 7, 3) for row in rows]
    expected = vectors.astype(np.float16) if half else vectors
    np.testing.assert_array_equal(np.stack([row[6].to_numpy() for row in rows]).astype(np.float32), expected.astype(np.float32))


def test_offsets_are_two_columns_more(conn: psycopg.Connection) -> None:
    vectors = np.random.default_rng(3).standard_normal((3, 7)).astype(np.float32)
    offsets = np.array([[0, 9], [0, 40], [30, 2_000_000_000]], dtype=np.int32)
    ids = ["a", "long key"]
    batch = EmbeddedBatch(ids, [hash_of(each) for each in ids], [1, 2], vectors, offsets)
    rows = copied(conn, batch, "embedding vector(7), s integer, e integer", half=False)
    assert [(row[0], row[1], *row[7:]) for row in rows] == [
        ("a", 0, 0, 9),
        ("long key", 0, 0, 40),
        ("long key", 1, 30, 2_000_000_000),
    ]
    np.testing.assert_array_equal(np.stack([row[6].to_numpy() for row in rows]), vectors)
