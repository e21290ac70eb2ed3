"""A cache of query vectors, so that a repeated query is embedded and paid for once."""

from __future__ import annotations

import threading
from collections import OrderedDict

from embed_pipeline.embedders.protocol import Vectors


class QueryCache:
    """The `size` queries asked last, by space and text; 0 keeps none. Thread-safe.

    The fingerprint is part of the key, so a vector of one version is never given for another, whatever serves.
    """

    def __init__(self, size: int) -> None:
        if size < 0:
            raise ValueError(f"query_cache must be 0 or more, not {size}")
        self._size = size
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], Vectors] = OrderedDict()

    def get(self, fingerprint: str, text: str) -> Vectors | None:
        """The vector of `text` in the space `fingerprint`, read-only; None when it is not kept."""
        with self._lock:
            found = self._kept.get((fingerprint, text))
            if found is not None:
                self._kept.move_to_end((fingerprint, text))
            return found

    def put(self, fingerprint: str, text: str, vector: Vectors) -> None:
        """Keep it; the one asked longest ago goes."""
        if self._size == 0:
            return
        # A copy that nobody can write into: what was handed out must not change what the next one gets.
        kept = vector.copy()
        kept.setflags(write=False)
        with self._lock:
            self._kept[fingerprint, text] = kept
            self._kept.move_to_end((fingerprint, text))
            if len(self._kept) > self._size:
                self._kept.popitem(last=False)

    def __len__(self) -> int:
        with self._lock:
            return len(self._kept)
