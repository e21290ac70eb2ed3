"""The vectors of held-out queries, kept for each version at every gate: an old version stays measurable when its model is gone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import psycopg

from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.postgres.queries import Queries

queries = Queries(__file__, "holdout_vectors.sql")

FORMAT = np.dtype("<f4")


@dataclass(frozen=True)
class Kept:
    """Vectors by query text, and the age in seconds of the oldest of them."""

    vectors: dict[str, Vectors]
    seconds: float


def keep(conn: psycopg.Connection, index: str, version: str, holdout_sha256: str, vectors: Mapping[str, Vectors]) -> None:
    """Keep these vectors, by query text, and no others of the version: those of the set that was judged last."""
    values = {
        "index": index,
        "version": version,
        "holdout_sha256": holdout_sha256,
        "texts": [_digest(text) for text in vectors],
        "vectors": [vector.astype(FORMAT).tobytes() for vector in vectors.values()],
    }
    with conn.transaction():
        conn.execute(queries("keep_vectors"), values)
        conn.execute(queries("forget_others"), values)


def read(conn: psycopg.Connection, index: str, version: str, texts: Collection[str]) -> Kept:
    """The kept vectors of these queries."""
    by_digest = {_digest(text): text for text in texts}
    values = {"index": index, "version": version, "texts": list(by_digest)}
    rows = conn.execute(queries("kept_vectors"), values).fetchall()
    found = {by_digest[bytes(digest)]: np.frombuffer(vector, dtype=FORMAT).astype(np.float32) for digest, vector, _ in rows}
    return Kept(found, max((seconds for *_, seconds in rows), default=0.0))


def forget(conn: psycopg.Connection, index: str, version: str) -> None:
    """Of a version that is retired."""
    conn.execute(queries("forget_all"), {"index": index, "version": version})


def _digest(text: str) -> bytes:
    return sha256(text.encode()).digest()
