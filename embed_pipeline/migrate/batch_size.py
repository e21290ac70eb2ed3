"""Batch size by time: as many documents as are embedded, or written, in half a second."""

from __future__ import annotations

import threading

# From reading to commit: short locks, steady progress, little to redo after a crash.
TARGET_SECONDS = 0.5


class BatchSize:
    """As many documents as are embedded in half a second and are written in half a second, whichever are fewer.

    For embedding the embedder's own batch is the least. Writing goes below it where the server is that slow. What any write takes, however
    few documents it has (round trips to a store over a network), is not counted: smaller batches would only be more of them.
    """

    def __init__(self, smallest: int, largest: int, *, first: int | None = None, target_seconds: float = TARGET_SECONDS) -> None:
        """`first`: what it begins with, the least where nothing is said."""
        self._target = target_seconds
        self._largest = max(smallest, largest)
        self._smallest = min(smallest, self._largest)
        self._embed, self._write = first or self._smallest, self._largest
        self._fixed = 0.0
        self._before: tuple[int, float] | None = None
        self._lock = threading.Lock()
        self.size = min(self._embed, self._largest)

    def took(self, documents: int, seconds: float) -> None:
        """Learn how long it took to embed this many documents."""
        with self._lock:
            self._embed = max(self._next(self._embed, documents, seconds), self._smallest)
            self.size = min(self._embed, self._write)

    def wrote(self, documents: int, seconds: float) -> None:
        """Learn how long it took to write this many documents, until the commit."""
        with self._lock:
            self._learn(documents, seconds)
            self._write = max(self._next(self._write, documents, seconds - self._fixed), 1)
            self.size = min(self._embed, self._write)

    def _learn(self, documents: int, seconds: float) -> None:
        """What a write takes beside its documents: two of different sizes tell."""
        if self._before is not None and self._before[0] != documents:
            before, took = self._before
            of_each = max((seconds - took) / (documents - before), 0.0)
            self._fixed = (self._fixed + max(seconds - of_each * documents, 0.0)) / 2
        self._fixed = min(self._fixed, seconds)
        self._before = (documents, seconds)

    def _next(self, size: int, documents: int, seconds: float) -> int:
        if documents < self.size and seconds <= self._target:
            # A batch that was not full says nothing good about a full one.
            return size
        wanted = int(documents * self._target / max(seconds, 1e-3))
        if wanted < size:
            return wanted
        # Grow gently, and from what was tried, not from what was wished for.
        return max(size, min(wanted, 2 * self.size, self._largest))
