"""The throttle's loop: reads the signals, waits while the rules say so, and records why.

The control row is read before every batch; the server at most every `check_seconds`, so that the watching is no load of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import psycopg
from psycopg import sql

from embed_pipeline.catalog import control
from embed_pipeline.catalog.control import Control, ThrottleEvent
from embed_pipeline.errors import Stopped, StoreUnavailable
from embed_pipeline.signals import signal
from embed_pipeline.spec import ThrottleSpec
from embed_pipeline.stores.protocol import StorePressure
from embed_pipeline.throttle import pressure
from embed_pipeline.throttle.pressure import Reading
from embed_pipeline.throttle.probing import Probe, Probed
from embed_pipeline.throttle.rules import CONTROL, STORE, Decision, Signals, decide

POLL_SECONDS = 0.5
# How often a wait that lasts renews its word in the catalog: `status` shows how old it is.
RENEW_SECONDS = 2.0
# The audit is append-only: a backfill that a limit makes stutter leaves one pair of events in this time, not one a second.
QUIET_SECONDS = 30.0


class Throttle:
    """Answers for one version's backfill whether it may write. Thread-safe; every call brings its own connection."""

    def __init__(
        self,
        rules: ThrottleSpec,
        index: str,
        version: str,
        tables: Sequence[sql.Composable],
        store_pressure: Callable[[], StorePressure] = StorePressure,
        probe: Probe | None = None,
    ) -> None:
        """`tables` are watched for autovacuum; `store_pressure` asks the store of the vectors, which may be elsewhere; `probe` searches what
        serves."""
        self._rules = rules
        self._store_pressure = store_pressure
        self._store: tuple[float, StorePressure] | None = None
        self._probe = probe
        self._index = index
        self._version = version
        self._tables = tables
        self._lock = threading.Lock()
        self._reading: Reading | None = None
        self._decision: Decision | None = None
        self._written: tuple[float, float] | None = None
        self._record = _Record(index, version)

    def wrote(self, seconds: float) -> None:
        """Say how long a write batch took, until its commit."""
        self._written = (seconds, time.monotonic())

    def wait_until_allowed(self, conn: psycopg.Connection, waiting: Callable[[str], None] | None = None) -> None:
        """Return when writing is allowed; tell `waiting` the reason while it is not; raise Stopped when it never will be."""
        while True:
            decision = self.look(conn)
            if decision.answer == "go":
                return
            if decision.answer == "stop":
                raise self._stopped(decision)
            if waiting is not None:
                waiting(decision.reason)
            signal("throttle.waiting")
            time.sleep(POLL_SECONDS)

    def look(self, conn: psycopg.Connection) -> Decision:
        """Look once, decide, and keep the answer for `status` and the audit."""
        with self._lock:
            decision = decide(self._signals(conn), self._rules, self._decision)
            self._record.keep(conn, self._decision, decision)
            self._decision = decision
            return decision

    def _signals(self, conn: psycopg.Connection) -> Signals:
        said = _read_control(conn, self._index)
        if self._rules.watches_server:
            again = self._decision is not None and self._decision.suspects is not None
            age = None if self._reading is None else time.monotonic() - self._reading.taken
            if again or age is None or age >= self._rules.check_seconds:
                self._reading = pressure.read(conn, self._rules, self._tables, self._reading, (self._index, self._version))
        store = self._read_store()
        probe = None if self._rules.max_search_ms is None else self._probe
        probed = Probed() if probe is None else probe.look(conn)
        now = time.monotonic()
        written = self._written
        return Signals(
            control=said,
            reading=self._reading,
            reading_age=None if self._reading is None else now - self._reading.taken,
            write_seconds=None if written is None else written[0],
            write_age=None if written is None else now - written[1],
            store=store,
            probed=probed,
        )

    def _read_store(self) -> StorePressure:
        """The store's last answer, asked for again after `check_seconds`. No answer is unknown, and unknown means wait."""
        if self._store is None or time.monotonic() - self._store[0] >= self._rules.check_seconds:
            taken = time.monotonic()
            try:
                said = self._store_pressure()
            except StoreUnavailable as problem:
                said = StorePressure("wait", f"unknown: {problem.message}")
            self._store = (taken, said)
        return self._store[1]

    def _stopped(self, decision: Decision) -> Stopped:
        if decision.signal == CONTROL:
            return Stopped(
                f"Index {self._index!r} is {decision.reason}. What is done is kept.",
                next_step=f"Run: embed-pipeline resume {self._index}",
                reason="aborted",
            )
        again = f"embed-pipeline backfill {self._index} {self._version}"
        mend = "Relieve the store" if decision.signal == STORE else "Bring the slot's consumer back or drop the slot"
        return Stopped(
            f"The backfill of {self._index}.{self._version} was stopped by its throttle: {decision.reason}. What is done is kept.",
            next_step=f"{mend}, then run: {again}",
            reason="throttle",
            signal=decision.signal,
        )


class _Record:
    """Records the throttle's answers in the catalog: changes at once, a lasting wait now and then. It never fails the backfill."""

    def __init__(self, index: str, version: str) -> None:
        self._index = index
        self._version = version
        self._kept = 0.0
        self._audited: dict[str, float] = {}
        self._open: tuple[float, str] | None = None
        """When the wait began whose beginning is in the audit, and its signal."""

    def keep(self, conn: psycopg.Connection, before: Decision | None, now: Decision) -> None:
        told = None if before is None else (before.answer, before.signal)
        changed = told != (now.answer, now.signal)
        lasting = now.answer != "go" and time.monotonic() - self._kept >= RENEW_SECONDS
        if not changed and not lasting:
            return
        event = self._event("go" if before is None else before.answer, now) if changed else None
        reason = now.reason or (f"no longer: {event.detail['for']}" if event is not None else "")
        try:
            control.note_throttle(conn, self._index, self._version, now.answer, now.signal, reason, event)
        except psycopg.Error:
            # A word that could not be kept must not end hours of work; a lost connection shows at the next statement.
            return
        finally:
            self._kept = time.monotonic()

    def _event(self, from_answer: str, now: Decision) -> ThrottleEvent | None:
        clock = time.monotonic()
        if now.answer == "go":
            began, self._open = self._open, None
            if began is None:
                return None
            return ThrottleEvent(from_answer, "go", {"waited_seconds": round(clock - began[0], 1), "for": began[1]})
        last = self._audited.get(now.signal)
        if now.answer == "wait" and last is not None and clock - last < QUIET_SECONDS:
            return None
        self._audited[now.signal] = clock
        self._open = (clock if self._open is None else self._open[0], now.signal)
        return ThrottleEvent(from_answer, now.answer, {})


def _read_control(conn: psycopg.Connection, index: str) -> Control | None:
    try:
        return control.read(conn, index)
    except psycopg.Error:
        if conn.closed:
            # Nobody can say "go" over a dead connection: whoever opened it has to know.
            raise
        return None
