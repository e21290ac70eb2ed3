"""Batch size by time: as many documents as are embedded, or written, in half a second."""

from __future__ import annotations

import threading

# From reading to commit: short locks, steady progress, little to redo after a crash.
TARGET_SECONDS = 0.5
# What a write weighs when the next one is known; and by how much sizes must differ, of their mean, for a line through them.
KEPT, SPREAD = 0.8, 0.1


class _Written:
    """The last writes, the newest weighing most: what one takes beside its documents is where their line meets no document at all."""

    def __init__(self) -> None:
        self._count = self._documents = self._seconds = self._squares = self._products = 0.0

    def fixed(self, documents: int, seconds: float) -> float:
        """Seconds, with one more write that is known; none while all were of one size."""
        self._count = KEPT * self._count + 1
        self._documents = KEPT * self._documents + documents
        self._seconds = KEPT * self._seconds + seconds
        self._squares = KEPT * self._squares + documents**2
        self._products = KEPT * self._products + documents * seconds
        spread = self._count * self._squares - self._documents**2
        if spread < (SPREAD * self._documents) ** 2:
            return 0.0
        of_each = max((self._count * self._products - self._documents * self._seconds) / spread, 0.0)
        return max((self._seconds - of_each * self._documents) / self._count, 0.0)


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
        self._written = _Written()
        self._lock = threading.Lock()
        self.size = min(self._embed, self._largest)

    def took(self, documents: int, seconds: float) -> None:
        """Learn how long it took to embed this many documents."""
        with self._lock:
            self._embed = max(self._next(self._embed, documents, seconds), self._smallest)
            self.size = min(self._embed, self._write)

    def wrote(self, documents: int, seconds: float) -> None:
        """Learn how long it took to write this many documents, until the commit."""
        if not documents:
            # Nothing but dead letters.
            return
        with self._lock:
            fixed = self._written.fixed(documents, seconds)
            self._write = max(self._next(self._write, documents, seconds - fixed), 1)
            self.size = min(self._embed, self._write)

    def _next(self, size: int, documents: int, seconds: float) -> int:
        if documents < self.size and seconds <= self._target:
            # A batch that was not full says nothing good about a full one.
            return size
        wanted = int(documents * self._target / max(seconds, 1e-3))
        if wanted < size:
            return wanted
        # Grow gently, and from what was tried, not from what was wished for.
        return max(size, min(wanted, 2 * self.size, self._largest))
