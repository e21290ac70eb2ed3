"""Rows as they are stored, as many as were asked for: what every judgement of vectors is made of. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """One stored row. `vector` None: it has none. `text` None: it has none, or texts were not asked for."""

    key: str
    vector: Matrix | None
    text: str | None = None


@dataclass(frozen=True)
class Sample:
    """What was looked at, of about `total` rows."""

    rows: Sequence[Row]
    total: int
    has_texts: bool = True

    @property
    def looked_at(self) -> str:
        """In words: a finding is about no more than this."""
        count = len(self.rows)
        return f"all {count:,} rows" if count >= self.total else f"{count:,} rows of about {self.total:,}"

    def of_one_length(self) -> tuple[list[Row], Matrix]:
        """The rows whose vectors have the dimensions that most have and are directions, with these vectors [rows, dimensions]."""
        usual = self.usual_dimensions
        kept = [
            (each, each.vector)
            for each in self.rows
            if each.vector is not None and len(each.vector) == usual and np.isfinite(each.vector).all() and each.vector.any()
        ]
        vectors = np.array([vector for _, vector in kept], dtype=np.float32).reshape(len(kept), usual)
        return [row for row, _ in kept], vectors

    @property
    def usual_dimensions(self) -> int:
        """What most vectors have; 0 without any."""
        lengths = [len(each.vector) for each in self.rows if each.vector is not None]
        return max(set(lengths), key=lengths.count) if lengths else 0
