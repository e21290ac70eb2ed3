"""Time that a thread has waited because a store asked it to: a rate limit is no slowness, and batches do not shrink for it."""

from __future__ import annotations

import threading
import time

_of_this_thread = threading.local()


def wait(seconds: float) -> None:
    """Wait as the store has asked."""
    time.sleep(seconds)
    _of_this_thread.waited = waited() + seconds


def waited() -> float:
    """Seconds that this thread has waited so, ever."""
    return float(getattr(_of_this_thread, "waited", 0.0))


class Stopwatch:
    """Seconds since it was made, of the thread that has made it, without those that a store has asked for."""

    def __init__(self) -> None:
        self._started, self._waited = time.monotonic(), waited()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started - (waited() - self._waited)
