"""The client of the database-wide rate limiter: every request to a provider is admitted by the database first (docs/decisions/0018).

A process has one connection for this, its limiter. Its threads queue at it, the most urgent first, and only the first of an account asks;
the others sleep, and hold no connection.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import errors

from embed_pipeline import forks
from embed_pipeline.accounts.terms import KINDS, Kind, Price, Terms, queries
from embed_pipeline.embedders.metering import BatchTicket, Headroom, Spent, Ticket
from embed_pipeline.embedders.protocol import Urgency
from embed_pipeline.errors import ConfigurationError, DatabaseUnavailable, EmbedPipelineError, Stopped
from embed_pipeline.postgres import failures
from embed_pipeline.postgres.connection import connect
from embed_pipeline.signals import signal
from embed_pipeline.spec import VersionSpec

# A restart of PostgreSQL takes seconds, a failover a minute or so (as postgres/session.py has it).
GIVE_UP_SECONDS = 90.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0
# A request reaches the provider within a second of its admission; half of it is for the way there.
FRESH_SECONDS = 0.5
# "Nothing remains" is believed for so long at most: some providers say when all of it is back, not when some is.
EMPTY_SECONDS = 5.0
# Billing corrections queued while the database is unreachable. Those beyond it stay charged by estimate.
MOST_OWED = 10_000

Row = tuple[Any, ...]


class _Line:
    """The threads of this process that wait for one account, the most urgent first."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.places: list[tuple[int, int]] = []


class RateLimiter:
    """This process's client of the database-wide rate limiter. Thread-safe. Opens its connection at the first request."""

    def __init__(self, url: str, now: Callable[[], float] | None = None) -> None:
        """`now` stands in for the server's clock, in seconds: for tests."""
        self._url = url
        self._now = now
        self._conn: psycopg.Connection | None = None
        self._closed = threading.Event()
        self._begin()
        forks.tell(self)

    def _begin(self) -> None:
        self.who = uuid.uuid4().hex
        self._talking = threading.Lock()
        self._owed: list[dict[str, Any]] = []
        self._lines: dict[str, _Line] = defaultdict(_Line)
        self._numbers = itertools.count()

    def forked(self) -> None:
        """See `forks.Holder`. What is owed is the parent's to pay, and who waits are its threads."""
        forks.abandon(self._conn, self._talking, self._lines, self._closed)
        was_closed, self._closed = self._closed.is_set(), threading.Event()
        if was_closed:
            self._closed.set()
        self._conn = None
        self._begin()

    def meter(self, index: str, name: str, version: VersionSpec, terms: Terms) -> DatabaseMeter | None:
        """The meter of version `name` of an index; None for a version that asks no provider."""
        if version.account_name is None:
            return None
        account, price = terms.account(version), terms.price(version)
        budget = None if terms.budget is None else terms.budget.usd_per_version
        fixed = {
            "account": version.account_name,
            "index": index,
            "version": name,
            "max_requests": account.requests_per_minute,
            "max_tokens": account.tokens_per_minute,
        }
        return DatabaseMeter(self, fixed, price, budget, version.model_name)

    def close(self) -> None:
        """Close the connection. Who waits in `admit` ends with Stopped."""
        self._closed.set()
        for line in list(self._lines.values()):
            with line.changed:
                line.changed.notify_all()
        with self._talking:
            with suppress(psycopg.Error, EmbedPipelineError):
                self._pay_owed()
            if self._conn is not None:
                self._conn.close()
                self._conn = None

    def admitted(self, values: dict[str, Any], waiting: Callable[[str], None]) -> Row:
        """The answer of `embed_pipeline.admit` when it is another than wait, waited for in the order of urgency."""
        line = self._lines[values["account"]]
        place = (int(values["urgency"]), next(self._numbers))
        with line.changed:
            heapq.heappush(line.places, place)
            # The one who slept as the first may be the second now.
            line.changed.notify_all()
        try:
            while True:
                with line.changed:
                    while line.places[0] != place and not self._closed.is_set():
                        waiting("other requests of this process go first")
                        line.changed.wait()
                asked = time.monotonic()
                verdict, seconds, slot, reason, spent = self._ask(values, waiting)
                if verdict == "wait":
                    waiting(reason)
                    signal("meter.waiting")
                    self._sleep(line, place, seconds)
                elif verdict == "go" and values["kind"] != "batch" and time.monotonic() - asked > FRESH_SECONDS:
                    # Too late to be sent in the second that it was counted in. It stays counted, and asks again.
                    self.settle(values | {"slot": slot, "estimated": values["tokens"], "billed": None})
                else:
                    return verdict, slot, spent
        finally:
            waiting("")
            with line.changed:
                line.places.remove(place)
                heapq.heapify(line.places)
                line.changed.notify_all()

    def settle(self, values: dict[str, Any]) -> None:
        """Tell the database how a request ended. Never fails: what was paid for must reach who asked. What could not be told is told later."""
        told = {"learned_requests": None, "learned_tokens": None, "block_seconds": None, "too_fast": False} | values
        with self._talking:
            if len(self._owed) < MOST_OWED:
                self._owed.append(told)
            with suppress(psycopg.Error, DatabaseUnavailable):
                self._pay_owed()

    def _sleep(self, line: _Line, place: tuple[int, int], seconds: float) -> None:
        """Until it is time to ask again, or somebody more urgent has come."""
        until = time.monotonic() + seconds
        with line.changed:
            while line.places[0] == place and not self._closed.is_set():
                left = until - time.monotonic()
                if left <= 0:
                    return
                line.changed.wait(left)

    def _ask(self, values: dict[str, Any], waiting: Callable[[str], None]) -> Row:
        """One answer; over a fresh connection, after a growing pause, while PostgreSQL is away."""
        began, pause = time.monotonic(), FIRST_PAUSE_SECONDS
        while True:
            if self._closed.is_set():
                raise Stopped(
                    "The index was closed while a request waited for its provider's limits.",
                    next_step="Run the same command again.",
                    reason="closed",
                )
            try:
                with self._talking:
                    self._pay_owed()
                    # An answer that is lost was perhaps charged. Too much is counted then, never too little.
                    row = self._connection().execute(queries("admit"), values | {"now": self._clock()}).fetchone()
                    assert row is not None
                    return row
            except (psycopg.Error, DatabaseUnavailable) as problem:
                with self._talking:
                    lost = isinstance(problem, errors.LockNotAvailable) or failures.is_lost(problem, self._conn)
                    if lost and self._conn is not None:
                        self._conn.close()
                        self._conn = None
                if not lost:
                    known = failures.sentence(problem) if isinstance(problem, psycopg.Error) else None
                    raise (known or problem) from problem
                said = failures.words(problem)
                if time.monotonic() - began > GIVE_UP_SECONDS:
                    raise DatabaseUnavailable(
                        f"PostgreSQL, which keeps the provider's limits, has not answered for {time.monotonic() - began:.0f} s: {said}.",
                        next_step="Everything that was committed is kept; start the server and run the same command again.",
                    ) from problem
                waiting(f"PostgreSQL does not answer: {said}")
                signal("meter.away")
                self._closed.wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _pay_owed(self) -> None:
        while self._owed:
            conn = self._connection()
            # Taken away before: one whose answer is lost is not told twice, and stays charged by its estimate.
            conn.execute(queries("settle"), self._owed.pop(0) | {"now": self._clock()})

    def _connection(self) -> psycopg.Connection:
        if self._conn is None or self._conn.closed:
            conn = connect(self._url, autocommit=True, application_name="embed-pipeline meter")
            # A role may have another default, in which who waited for the account's row would fail instead of seeing it as it is now.
            conn.execute("SET default_transaction_isolation = 'read committed'")
            # Every request of every process comes by here. A crash of the server forgets the last half second (docs/decisions/0018).
            conn.execute("SET synchronous_commit = off")
            self._conn = conn
        return self._conn

    def _clock(self) -> float | None:
        return None if self._now is None else self._now()


class DatabaseMeter:
    """One version's meter (embedders/metering.Meter), shared through the database."""

    def __init__(self, limiter: RateLimiter, fixed: dict[str, Any], price: Price, budget: float | None, model: str) -> None:
        self._limiter, self._fixed, self.price, self._budget, self._model = limiter, fixed, price, budget, model
        self._lock = threading.Lock()
        self._spent: dict[Kind, Spent] = {}
        self._waits: dict[int, str] = {}

    @property
    def account(self) -> str:
        """The name of the account that pays."""
        return str(self._fixed["account"])

    @property
    def waiting(self) -> str:
        """Why the requests of this version that wait do, the longest wait first; empty while none waits."""
        with self._lock:
            return next(iter(self._waits.values()), "")

    def admit(self, urgency: Urgency, tokens: int) -> Ticket:
        """See Meter. Waits for the account's limits, the most urgent first, in all processes."""
        slot = self._admit(KINDS[urgency], urgency, tokens, self.price.usd_per_million)
        return Ticket(urgency, tokens, slot)

    def admit_batch(self, tokens: int) -> BatchTicket:
        """The right to submit a batch job of about so many tokens: held by the budget alone. Ends in `answered` or `failed` too."""
        self._admit("batch", Urgency.BACKFILL, tokens, self.price.batch_usd_per_million)
        return BatchTicket(Urgency.BACKFILL, tokens)

    def answered(self, ticket: Ticket, tokens: int, headroom: Headroom | None = None) -> None:
        """See Meter."""
        kind = self._kind(ticket)
        price = self._price(ticket)
        with self._lock:
            before = self._spent.get(kind, Spent(usd=0.0))
            usd = None if price is None or before.usd is None else before.usd + tokens * price / 1_000_000
            self._spent[kind] = Spent(before.requests + 1, before.tokens + tokens, usd)
        self._settle(ticket, tokens, headroom, None, False)

    def failed(
        self, ticket: Ticket, *, retry_after: float | None = None, headroom: Headroom | None = None, too_fast: bool = False
    ) -> None:
        """See Meter."""
        self._settle(ticket, None, headroom, retry_after, too_fast)

    def spent(self, *kinds: Kind) -> Spent:
        """The cost of this process's requests through this meter, of these kinds of work or of all."""
        with self._lock:
            parts = [each for name, each in self._spent.items() if not kinds or name in kinds]
        usd = 0.0 if self.price.usd_per_million is not None else None
        for each in parts:
            usd = None if usd is None or each.usd is None else usd + each.usd
        return Spent(sum(each.requests for each in parts), sum(each.tokens for each in parts), usd)

    def _admit(self, kind: Kind, urgency: Urgency, tokens: int, price: float | None) -> int:
        me = threading.get_ident()

        def waiting(reason: str) -> None:
            with self._lock:
                if reason:
                    self._waits[me] = reason
                else:
                    self._waits.pop(me, None)

        asked = {"kind": kind, "urgency": int(urgency), "tokens": tokens, "usd_per_million": price, "budget": self._budget}
        verdict, slot, spent = self._limiter.admitted(self._fixed | asked | {"who": self._limiter.who}, waiting)
        if verdict == "go":
            return int(slot)
        name = f"{self._fixed['index']}.{self._fixed['version']}"
        if verdict == "unpriced":
            raise ConfigurationError(
                f"A budget is declared, and the price of {self._model} is not known: nothing can be held to it.",
                next_step=f"Declare prices: {{{self._model}: {{usd_per_million_tokens: ...}}}} in the index's defs.yaml.",
            )
        raise Stopped(
            f"The budget of {name} is used up: {spent:.4f} of {self._budget:g} USD are spent, and the next request would exceed it. "
            "What is done is kept.",
            next_step="Raise budget.usd_per_version in the index's defs.yaml, then run: "
            f"embed-pipeline backfill {self._fixed['index']} {self._fixed['version']}",
            reason="budget",
            spent_usd=float(spent),
            budget_usd=self._budget,
        )

    def _settle(
        self, ticket: Ticket, billed: int | None, headroom: Headroom | None, retry_after: float | None, too_fast: bool
    ) -> None:
        seen = headroom or Headroom()
        blocks = [retry_after or 0.0]
        if seen.remaining_requests == 0:
            blocks.append(min(seen.reset_requests or 0.0, EMPTY_SECONDS))
        if seen.remaining_tokens == 0:
            blocks.append(min(seen.reset_tokens or 0.0, EMPTY_SECONDS))
        self._limiter.settle(
            self._fixed
            | {
                "kind": self._kind(ticket),
                "slot": ticket.slot,
                "estimated": ticket.tokens,
                "billed": billed,
                "usd_per_million": self._price(ticket),
                "learned_requests": seen.limit_requests or None,
                "learned_tokens": seen.limit_tokens or None,
                "block_seconds": max(blocks) or None,
                "too_fast": too_fast and not (seen.limit_requests or seen.limit_tokens),
            }
        )

    def _kind(self, ticket: Ticket) -> Kind:
        return "batch" if isinstance(ticket, BatchTicket) else KINDS[ticket.urgency]

    def _price(self, ticket: Ticket) -> float | None:
        return self.price.batch_usd_per_million if isinstance(ticket, BatchTicket) else self.price.usd_per_million
