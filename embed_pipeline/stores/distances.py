"""How far vectors are from a query: the numbers that pgvector gives."""

from __future__ import annotations

import numpy as np

from embed_pipeline.embedders.protocol import Vectors


def distances_to(rows: np.ndarray, query: Vectors, kind: str) -> np.ndarray:
    """Of every row: smaller is nearer."""
    values = np.asarray(query, dtype=np.float32)
    if kind == "l2":
        return np.asarray(np.linalg.norm(rows - values, axis=1))
    if kind == "cosine":
        lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(values)
        return np.asarray(1.0 - rows @ values / np.where(lengths == 0, 1.0, lengths))
    return np.asarray(-(rows @ values))
