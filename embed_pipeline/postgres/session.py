"""A connection that reconnects and retries through outages of PostgreSQL and of the store.

Only for work that may be done twice: after a lost answer nobody knows whether the transaction was committed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Protocol, TypeVar

import psycopg
from psycopg import errors

from embed_pipeline.errors import DatabaseUnavailable, Stopped, StoreUnavailable
from embed_pipeline.postgres import failures, holders, turns
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.signals import signal

queries = Queries(__file__, "session.sql")

T = TypeVar("T")

# A restart takes seconds, a failover of a managed service up to a minute or so. Then somebody has to look.
GIVE_UP_SECONDS = 90.0
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
# Documents that move from partition to partition all the time, and deadlocks, meet one statement that often at most.
AT_ONCE_TRIES = 20
# For the server to end the session of a lost connection.
END_SECONDS = 10.0

Waiting = Callable[[str], None]
"""Callback: the reason why progress stopped, and an empty text once it resumes."""

Taken = Callable[[psycopg.Connection, frozenset[int]], None]
"""Called with each new connection and the server processes of the lost ones: what a session must hold before it works."""


class Connections(Protocol):
    """A source of new connections."""

    def connection(self) -> AbstractContextManager[psycopg.Connection]:
        """One in autocommit, for the length of a block."""
        ...


class Line:
    """A connection to the index's database for one thread. `repeat` does its work over a fresh one when it was lost.

    A store of vectors elsewhere is waited for in the same way; the connection to PostgreSQL is kept then.
    """

    def __init__(
        self,
        connections: Connections,
        waiting: Waiting | None = None,
        *,
        taken: Taken | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """`taken` takes the locks of the session, again for each new one.

        With `stop` an outage is waited for until that is set, however long it takes.
        """
        self._connections = connections
        self.waiting = waiting
        self._taken = taken
        self._stop = stop or threading.Event()
        self._gives_up = stop is None
        self._held = ExitStack()
        self._conn: psycopg.Connection | None = None
        self._pid = 0
        self._lost: set[int] = set()
        self._reason = ""
        self._began: float | None = None

    def __enter__(self) -> Line:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self._held.close()

    def repeat(self, work: Callable[[psycopg.Connection], T]) -> T:
        """What `work` returns. Done again, after a growing pause, while the server or the store of the vectors is away; at once when a
        document that it wanted to lock went to another partition of its table, or when PostgreSQL ended it to end a deadlock.

        Raises DatabaseUnavailable or StoreUnavailable after GIVE_UP_SECONDS without an answer, or when told to stop; every other error
        passes as it is.
        """
        pause, at_once = FIRST_PAUSE_SECONDS, 0
        while True:
            try:
                answer = work(self._connection())
            except (errors.SerializationFailure, errors.DeadlockDetected):
                # A document went to another partition of its table after the statement's snapshot, which PostgreSQL takes for an error
                # when the row is to be locked, also where locked rows are skipped. The next snapshot has it at its new place.
                # Whoever was ended in a deadlock has written nothing, and lets the other one finish.
                at_once += 1
                if at_once > AT_ONCE_TRIES:
                    raise
                continue
            except (psycopg.Error, DatabaseUnavailable, StoreUnavailable) as problem:
                if not self._is_away(problem):
                    raise
                self._let_go(problem)
                self._refuse_to_wait_longer(problem)
                signal("outage.waiting")
                self._stop.wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
                continue
            if self._began is not None:
                self._began, self._reason = None, ""
                self._tell("")
            return answer

    def _connection(self) -> psycopg.Connection:
        if self._conn is None:
            conn = self._held.enter_context(self._connections.connection())
            # Asked now: a broken connection has forgotten who served it.
            self._conn, self._pid = conn, conn.info.backend_pid
            if self._taken is not None:
                self._taken(conn, frozenset(self._lost))
        return self._conn

    def _is_away(self, problem: psycopg.Error | DatabaseUnavailable | StoreUnavailable) -> bool:
        if isinstance(problem, StoreUnavailable):
            return True
        if isinstance(problem, DatabaseUnavailable):
            # The index could be opened, so a connection that cannot be made now is an outage, not a wrong URL.
            return self._conn is None
        return failures.is_lost(problem, self._conn)

    def _let_go(self, problem: psycopg.Error | DatabaseUnavailable | StoreUnavailable) -> None:
        if isinstance(problem, StoreUnavailable):
            # The connection to PostgreSQL is sound, and so are the locks of its session.
            self._say(f"the store does not answer: {problem.message.rstrip('.')}")
            return
        if self._conn is not None:
            self._lost.add(self._pid)
            self._conn.close()
            self._conn = None
            self._reason = failures.words(problem)
        self._reason = self._reason or failures.words(problem)
        self._held.close()
        self._say(f"PostgreSQL does not answer: {self._reason}")

    def _say(self, reason: str) -> None:
        if self._began is None:
            self._began = time.monotonic()
        self._tell(reason)

    def _refuse_to_wait_longer(self, problem: Exception) -> None:
        away = 0.0 if self._began is None else time.monotonic() - self._began
        if not self._stop.is_set() and not (self._gives_up and away >= GIVE_UP_SECONDS):
            return
        if isinstance(problem, StoreUnavailable):
            raise StoreUnavailable(
                f"The store has not answered for {away:.0f} s: {problem.message.rstrip('.')}.",
                next_step="Everything that was written is kept; bring the store back and run the same command again.",
            ) from problem
        raise DatabaseUnavailable(
            f"PostgreSQL has not answered for {away:.0f} s: {self._reason}.",
            next_step="Everything that was committed is kept; start the server and run the same command again.",
        )

    def _tell(self, reason: str) -> None:
        if self.waiting is not None:
            self.waiting(reason)


def only_run(name: str, refusal: str, *, next_step: str) -> Taken:
    """Takes the turn `name`, or raises Stopped with the refusal and who has it. Released when the connection closes, even after a crash.

    After a lost connection its own server process may hold the lock a little longer: that one is ended. Whoever else has taken the
    lock meanwhile keeps it. Tried and never waited for: a waiting session holds a snapshot, and an index build waits for snapshots.
    """

    def take(conn: psycopg.Connection, lost: frozenset[int]) -> None:
        deadline = time.monotonic() + END_SECONDS
        while True:
            if turns.try_to_take(conn, name, "of_session"):
                return
            pids = {each.pid for each in holders.of_advisory(conn, name)}
            if pids - lost or time.monotonic() > deadline:
                raise Stopped(f"{refusal}{turns.held_by(conn, name)}.", next_step=next_step, reason="another_run")
            for pid in pids:
                conn.execute(queries("end_session"), {"pid": pid})
            time.sleep(0.05)

    return take
