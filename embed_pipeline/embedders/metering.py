"""The seam where an account's rate limits, bill and budget are applied to each request.

The embedders know this protocol only. The meter that all processes share is in the database (`catalog/`).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

from embed_pipeline.embedders.protocol import Urgency


@dataclass(frozen=True)
class Headroom:
    """What a provider's rate-limit headers say; None where they say nothing. `reset_` in seconds from the answer."""

    limit_requests: int | None = None
    limit_tokens: int | None = None
    remaining_requests: int | None = None
    remaining_tokens: int | None = None
    reset_requests: float | None = None
    reset_tokens: float | None = None


@dataclass(frozen=True)
class Spent:
    """What was asked and paid for. `usd` is None where the price of the model is not known."""

    requests: int = 0
    tokens: int = 0
    usd: float | None = None

    def since(self, before: Spent) -> Spent:
        """What came after `before`."""
        usd = None if self.usd is None else self.usd - (before.usd or 0.0)
        return Spent(self.requests - before.requests, self.tokens - before.tokens, usd)


@dataclass(frozen=True)
class Ticket:
    """The right to send one request now, and what it was expected to take."""

    urgency: Urgency
    tokens: int
    slot: int = 0


@dataclass(frozen=True)
class BatchTicket(Ticket):
    """What a batch job was expected to take. It may be made again by another process that collects the job."""


class Meter(Protocol):
    """One version's meter. Thread-safe. Every request is admitted, and every admission ends in `answered` or `failed`."""

    def admit(self, urgency: Urgency, tokens: int) -> Ticket:
        """Wait until the account may send one request of about so many tokens.

        Raises Stopped when it would exceed the budget, and DatabaseUnavailable when the shared meter cannot be asked.
        """
        ...

    def admit_batch(self, tokens: int) -> BatchTicket:
        """The right to submit a batch job of about so many tokens: held by the budget alone. Ends in `answered` or `failed` too."""
        ...

    def answered(self, ticket: Ticket, tokens: int, headroom: Headroom | None = None) -> None:
        """The provider answered, and bills so many tokens."""
        ...

    def failed(
        self, ticket: Ticket, *, retry_after: float | None = None, headroom: Headroom | None = None, too_fast: bool = False
    ) -> None:
        """The provider refused or did not answer, and bills nothing. `retry_after`: nobody asks this account for so many seconds.

        `too_fast`: it said that it was asked too often; where it names no limit, the account is asked half as often for a while.
        """
        ...

    def spent(self) -> Spent:
        """What this process has spent through this meter."""
        ...


class Unmetered:
    """No limits and no prices: counts what this process spends. For embedders that stand alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = self._tokens = 0

    def admit(self, urgency: Urgency, tokens: int) -> Ticket:
        """At once."""
        return Ticket(urgency, tokens)

    def admit_batch(self, tokens: int) -> BatchTicket:
        """At once."""
        return BatchTicket(Urgency.BACKFILL, tokens)

    def answered(self, ticket: Ticket, tokens: int, headroom: Headroom | None = None) -> None:
        """Count it."""
        with self._lock:
            self._requests += 1
            self._tokens += tokens

    def failed(
        self, ticket: Ticket, *, retry_after: float | None = None, headroom: Headroom | None = None, too_fast: bool = False
    ) -> None:
        """Nothing was paid."""

    def spent(self) -> Spent:
        """Requests and tokens; no price is known here."""
        with self._lock:
            return Spent(self._requests, self._tokens)
