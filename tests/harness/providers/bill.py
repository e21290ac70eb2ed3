"""What the loopback provider counts: who arrived when, what was billed, how many were in flight, and the limits of each key."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

MINUTE = 60.0


@dataclass
class Arrival:
    """One request of an embedding endpoint, answered or not. `at` in seconds since the epoch, when the server had read it."""

    at: float
    provider: str
    model: str
    key: str
    texts: int
    tokens: int
    status: int = 0


@dataclass(frozen=True)
class Billed:
    """One text that was paid for. `input_type` as it was sent; `batch` is the batch job's id, or empty."""

    at: float
    provider: str
    model: str
    hash: str
    begins: str
    tokens: int
    input_type: str | None
    batch: str


@dataclass(frozen=True)
class Limit:
    """What a key may ask for in any 60 seconds. `headers`: whether answers tell; `retry_after`: whether a refusal tells."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    headers: bool = True
    retry_after: bool = True


@dataclass(frozen=True)
class Standing:
    """How a key stands against its limit after an arrival. `wait`: seconds until it would have been let in; 0 when it was."""

    limit: Limit
    requests: int
    tokens: int
    wait: float
    exceeded: str = ""
    reset_requests: float = 0.0
    reset_tokens: float = 0.0


@dataclass
class Bill:
    """Thread-safe."""

    arrivals: list[Arrival] = field(default_factory=list)
    billed: list[Billed] = field(default_factory=list)
    limits: dict[str, Limit] = field(default_factory=dict)
    in_flight: int = 0
    most_in_flight: int = 0
    _windows: dict[tuple[str, str], deque[tuple[float, int]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self) -> None:
        with self._lock:
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def leave(self) -> None:
        with self._lock:
            self.in_flight -= 1

    def arrive(
        self, provider: str, model: str, key: str, texts: int, tokens: int, now: float | None = None
    ) -> tuple[Arrival, Standing]:
        """Write the arrival down and weigh it. What is let in counts for 60 s, whatever becomes of it; what is not, does not."""
        with self._lock:
            now = time.time() if now is None else now
            arrival = Arrival(now, provider, model, key, texts, tokens)
            self.arrivals.append(arrival)
            limit = self.limits.get(f"{provider}/{key}", self.limits.get(provider, Limit()))
            window = self._windows.setdefault((provider, key), deque())
            while window and window[0][0] <= now - MINUTE:
                window.popleft()
            wait, exceeded = _wait(window, limit, tokens, now)
            if wait == 0.0:
                window.append((now, tokens))
            reset = window[0][0] + MINUTE - now if window else 0.0
            return arrival, Standing(limit, len(window), sum(t for _, t in window), wait, exceeded, reset, reset)

    def charge(
        self, provider: str, model: str, texts: Sequence[str], tokens: Sequence[int], input_type: str | None, batch: str = ""
    ) -> None:
        now = time.time()
        entries = [
            Billed(now, provider, model, hashlib.sha256(text.encode()).hexdigest(), text[:40], count, input_type, batch)
            for text, count in zip(texts, tokens, strict=True)
        ]
        with self._lock:
            self.billed.extend(entries)

    def told(self) -> dict[str, Any]:
        """Everything, as JSON can carry it."""
        with self._lock:
            return {
                "arrivals": [asdict(arrival) for arrival in self.arrivals],
                "billed": [asdict(entry) for entry in self.billed],
                "most_in_flight": self.most_in_flight,
            }

    def summary(self) -> dict[str, int]:
        """Counts only, for runs with too many texts to list."""
        with self._lock:
            return {
                "arrivals": len(self.arrivals),
                "billed": len(self.billed),
                "tokens": sum(entry.tokens for entry in self.billed),
                "in_flight": self.in_flight,
                "most_in_flight": self.most_in_flight,
            }


def _wait(window: deque[tuple[float, int]], limit: Limit, tokens: int, now: float) -> tuple[float, str]:
    """Seconds until the request fits into the sliding minute, and which limit it exceeds."""
    wait, exceeded = 0.0, ""
    if limit.requests_per_minute is not None and len(window) + 1 > limit.requests_per_minute:
        leaves = window[len(window) - limit.requests_per_minute][0]
        wait, exceeded = leaves + MINUTE - now, "requests"
    if limit.tokens_per_minute is not None:
        held = sum(count for _, count in window)
        at = now
        for when, count in window:
            if held + tokens <= limit.tokens_per_minute:
                break
            held -= count
            at = when + MINUTE
        if held + tokens > limit.tokens_per_minute:
            at = now + MINUTE  # more than the limit alone: no wait would help
        if at - now > wait:
            wait, exceeded = at - now, "tokens"
    return wait, exceeded
