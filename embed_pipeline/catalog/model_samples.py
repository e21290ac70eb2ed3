"""Each version's embeddings of a few fixed texts, kept to compare with later answers of its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import psycopg

from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.postgres.queries import Queries

queries = Queries(__file__, "model_samples.sql")

FORMAT = np.dtype("<f4")


@dataclass(frozen=True)
class Sample:
    """Texts with the vectors that the model gave them, and what the last check said."""

    texts: tuple[str, ...]
    vectors: Vectors
    late: bool
    """Documents had vectors before it was taken: of those it proves nothing."""
    taken_at: datetime
    agreed_at: datetime
    checked_at: datetime
    lowest_cosine: float | None
    changed_at: datetime | None


def read(conn: psycopg.Connection, index: str, version: str) -> Sample | None:
    """The version's sample; None while none was taken."""
    row = conn.execute(queries("sample"), {"index": index, "version": version}).fetchone()
    if row is None:
        return None
    texts, kept, *rest = row
    vectors = np.frombuffer(kept, dtype=FORMAT).reshape(len(texts), -1).astype(np.float32)
    return Sample(tuple(bytes(text).decode() for text in texts), vectors, *rest)


def is_changed(conn: psycopg.Connection, index: str, version: str) -> bool | None:
    """Whether the model is known to have changed; None while there is no sample. One look-up by primary key."""
    row = conn.execute(queries("mark"), {"index": index, "version": version}).fetchone()
    return None if row is None else row[0] is not None


def changed_at(conn: psycopg.Connection, index: str, version: str) -> datetime | None:
    """Since when the model is known to be another one; None while it is the same, or nobody knows."""
    row = conn.execute(queries("mark"), {"index": index, "version": version}).fetchone()
    return None if row is None else row[0]


def keep(conn: psycopg.Connection, index: str, version: str, texts: Sequence[str], vectors: Vectors, *, late: bool) -> bool:
    """Keep the first sample of a version; False when another process was sooner, whose sample then counts."""
    values = _values(index, version, texts, vectors) | {"late": late}
    return conn.execute(queries("keep_sample"), values).rowcount == 1


def replace(conn: psycopg.Connection, index: str, version: str, texts: Sequence[str], vectors: Vectors) -> None:
    """From now on this is what the model is compared with."""
    conn.execute(queries("replace_sample"), _values(index, version, texts, vectors))


def note_check(conn: psycopg.Connection, index: str, version: str, sample: Sample, lowest: float, *, same: bool) -> bool | None:
    """Keep what a check found; returns whether the model counted as changed before.

    None when the sample was replaced meanwhile: then nothing is kept.
    """
    values = {"index": index, "version": version, "taken_at": sample.taken_at, "lowest": lowest, "same": same}
    row = conn.execute(queries("note_check"), values).fetchone()
    return None if row is None else bool(row[0])


def _values(index: str, version: str, texts: Sequence[str], vectors: Vectors) -> dict[str, object]:
    return {
        "index": index,
        "version": version,
        "texts": [text.encode() for text in texts],
        "vectors": vectors.astype(FORMAT).tobytes(),
    }
