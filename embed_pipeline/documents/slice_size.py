"""How much of the documents one statement may read, so that an application that wants its table for itself is soon let through."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST_SECONDS = 0.025
# Aimed at: a machine whose cores are busy takes longer than it did the time before.
TARGET_SECONDS = 0.008
LEAST = 64


class SliceSize:
    """How many rows a statement may read: as many as one reads in TARGET_SECONDS.

    Follows the best of the last statements: a busy machine holds one up now and then, and tiny ones would only cost it more. One that
    really took too long counts at once.
    """

    def __init__(self, first: int = 500, most: int = 20_000) -> None:
        self._most = most
        self._rate = 0.0
        self.rows = first

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Learn from the statement in the block."""
        started = time.monotonic()
        yield
        seconds = max(time.monotonic() - started, 1e-4)
        kept = self._rate * (0.5 if seconds > LONGEST_SECONDS else 0.9)
        self._rate = max(self.rows / seconds, kept)
        self.rows = max(LEAST, int(min(self._rate * TARGET_SECONDS, 2 * self.rows, self._most)))
