"""Our packing of COPY BINARY is what the server reads."""

from __future__ import annotations

import numpy as np
import psycopg
import pytest

from embed_pipeline.stores import copy_format
from embed_pipeline.stores.protocol import EmbeddedBatch


@pytest.mark.parametrize(("type_name", "half"), [("vector", False), ("halfvec", True)])
def test_the_server_reads_what_was_packed(conn: psycopg.Connection, type_name: str, half: bool) -> None:
    vectors = np.random.default_rng(3).standard_normal((4, 7)).astype(np.float32)
    batch = EmbeddedBatch(["a", "ü ' \\"], [b""] * 2, [1, 3], vectors)
    conn.execute(f"CREATE TEMP TABLE t (doc_id text, chunk integer, embedding {type_name}(7))")  # type: ignore[arg-type]
    with conn.cursor() as cursor, cursor.copy("COPY t FROM STDIN (FORMAT BINARY)") as copy:
        for piece in copy_format.rows(batch, half=half):
            copy.write(piece)
    rows = conn.execute("SELECT doc_id, chunk, embedding FROM t ORDER BY doc_id, chunk").fetchall()
    assert [row[:2] for row in rows] == [("a", 0), ("ü ' \\", 0), ("ü ' \\", 1), ("ü ' \\", 2)]
    expected = vectors.astype(np.float16) if half else vectors
    np.testing.assert_array_equal(np.stack([row[2].to_numpy() for row in rows]).astype(np.float32), expected.astype(np.float32))


def test_offsets_are_two_columns_more(conn: psycopg.Connection) -> None:
    vectors = np.random.default_rng(3).standard_normal((3, 7)).astype(np.float32)
    offsets = np.array([[0, 9], [0, 40], [30, 2_000_000_000]], dtype=np.int32)
    batch = EmbeddedBatch(["a", "long key"], [b""] * 2, [1, 2], vectors, offsets)
    conn.execute("CREATE TEMP TABLE t (doc_id text, chunk integer, embedding vector(7), s integer, e integer)")
    with conn.cursor() as cursor, cursor.copy("COPY t FROM STDIN (FORMAT BINARY)") as copy:
        for piece in copy_format.rows(batch, half=False):
            copy.write(piece)
    rows = conn.execute("SELECT doc_id, chunk, s, e, embedding FROM t ORDER BY doc_id, chunk").fetchall()
    assert [row[:4] for row in rows] == [("a", 0, 0, 9), ("long key", 0, 0, 40), ("long key", 1, 30, 2_000_000_000)]
    np.testing.assert_array_equal(np.stack([row[4].to_numpy() for row in rows]), vectors)
