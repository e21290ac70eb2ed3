"""An embedder that costs next to nothing and gives the same text the same vector everywhere: what remains is our own cost.

Needs numpy alone: vecshift's driver uses it in a venv that has little else.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

# Two thousand neighbourhoods, and enough places in each that few texts share a vector.
NEIGHBOURHOODS, PLACES = 2_048, 8_192
# Characters in which the texts of the benchmarks differ.
BEGINNING = 64


def vectors(texts: Sequence[str], dimensions: int, salt: int = 0) -> Vectors:
    """One vector for each text: a neighbourhood and a place in it, both by the checksum of how the text begins."""
    centres, places = _tables(dimensions, salt)
    sums = np.fromiter((zlib.crc32(text[:BEGINNING].encode()) for text in texts), dtype=np.uint32, count=len(texts))
    found: Vectors = centres[sums % NEIGHBOURHOODS] + places[sums // NEIGHBOURHOODS % PLACES]
    return found


@cache
def _tables(dimensions: int, salt: int) -> tuple[Vectors, Vectors]:
    generator = np.random.default_rng(salt)
    scale = np.float32(dimensions**-0.5)
    centres = generator.standard_normal((NEIGHBOURHOODS, dimensions), dtype=np.float32) * scale
    return centres, generator.standard_normal((PLACES, dimensions), dtype=np.float32) * scale * np.float32(0.7)


class InstantEmbedder:
    """`provider: benchmarks.embedder:InstantEmbedder`.

    `salt`: another one is another space. `calls`: a file that gets one line for each call, the monotonic clock and the number of texts.
    """

    def __init__(self, *, dimensions: int, model_name: str, salt: int = 0, calls: str | None = None) -> None:
        self._dimensions = dimensions
        self._salt = salt
        self._calls = None if calls is None else Path(calls)
        _tables(dimensions, salt)

    def embed(self, texts: Sequence[str], role: str) -> Vectors:
        if self._calls is not None:
            with self._calls.open("a") as file:
                file.write(f"{time.monotonic()} {len(texts)}\n")
        return vectors(texts, self._dimensions, self._salt)

    def identity(self) -> Mapping[str, str]:
        return {}


def called(calls: Path) -> list[tuple[float, int]]:
    """The calls of a `calls` file, in order: when, and how many texts."""
    if not calls.exists():
        return []
    lines: list[Any] = [line.split() for line in calls.read_text().splitlines()]
    return [(float(when), int(count)) for when, count in lines]
