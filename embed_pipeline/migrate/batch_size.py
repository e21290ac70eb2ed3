"""How many documents a batch takes: follows the time that batches take, not a count."""

from __future__ import annotations

# From reading to commit: short locks, steady progress, little to redo after a crash.
TARGET_SECONDS = 0.5


class BatchSize:
    """Between the embedder's own batch and the write limit, so that embedding one batch takes about half a second."""

    def __init__(self, smallest: int, largest: int) -> None:
        self._largest = max(smallest, largest)
        self._smallest = min(smallest, self._largest)
        self.size = self._smallest

    def took(self, documents: int, seconds: float) -> None:
        """Learn from a batch; one that was not full says nothing."""
        if documents < self.size:
            return
        wanted = self.size * TARGET_SECONDS / max(seconds, 1e-3)
        # Grow gently, shrink at once.
        self.size = int(min(max(min(wanted, self.size * 2), self._smallest), self._largest))
