"""The connections of an application that searches: a pool that outlives what happens to connections, and forks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from embed_pipeline import forks
from embed_pipeline.errors import DatabaseUnavailable, EmbedPipelineError
from embed_pipeline.postgres import failures
from embed_pipeline.postgres.connection import connect

T = TypeVar("T")

# How long a caller waits for one of the pool's connections, or for a server that is restarted.
WAIT_SECONDS = 30.0
# Each pause of the pool between two tries is twice as long as the one before. After so long it begins anew: left to itself, a server that was
# away for an hour would be found again minutes after it came back.
PATIENCE_SECONDS = 10.0


class _Lost(Exception):
    """The connection is gone."""

    def __init__(self, problem: psycopg.Error) -> None:
        self.problem = problem
        super().__init__(str(problem))


class _Connection(psycopg.Connection[Any]):
    """The pool's connections, opened in the one way of this package."""

    @classmethod
    def connect(  # type: ignore[override]
        cls, conninfo: str = "", *, failed: Callable[[EmbedPipelineError], None], **_: Any
    ) -> psycopg.Connection[Any]:
        try:
            return connect(conninfo, autocommit=True, every_row=False)
        except EmbedPipelineError as problem:
            failed(problem)
            raise


class Sessions:
    """At most `most` connections. Opened at the first use; a forked process opens its own. Thread-safe."""

    def __init__(self, url: str, most: int) -> None:
        self._url = url
        self._most = most
        self._lock = threading.Lock()
        self._pool: ConnectionPool[psycopg.Connection[Any]] | None = None
        self._reason = ""
        self._is_closed = False
        forks.tell(self)

    def run(self, work: Callable[[psycopg.Connection], T]) -> T:
        """What `work` returns, which only reads. Done once more when its connection was lost: a server closes sessions that idle.

        DatabaseUnavailable when no connection can be had.
        """
        pool = self._opened()
        try:
            return self._once(pool, work)
        except _Lost:
            # What else was in the pool is as old, and may be gone for the same reason.
            pool.check()
        try:
            return self._once(pool, work)
        except _Lost as lost:
            raise lost.problem from None

    def _once(self, pool: ConnectionPool[psycopg.Connection[Any]], work: Callable[[psycopg.Connection], T]) -> T:
        try:
            conn = pool.getconn(timeout=WAIT_SECONDS)
        except PoolTimeout:
            raise DatabaseUnavailable(
                f"PostgreSQL has given no connection for {WAIT_SECONDS:.0f} s: {self._reason or 'all of the pool are in use'}",
                next_step="Start the server, or raise max_connections of the Searcher.",
            ) from None
        try:
            return work(conn)
        except psycopg.Error as problem:
            if failures.is_lost(problem, conn):
                raise _Lost(problem) from problem
            raise
        finally:
            # It ends what is open in the session. `pool.connection()` would ask for a commit first, of which there is nothing here.
            pool.putconn(conn)

    def _opened(self) -> ConnectionPool[psycopg.Connection[Any]]:
        if self._pool is not None:
            return self._pool
        with self._lock:
            if self._is_closed:
                raise DatabaseUnavailable("This searcher is closed.", next_step="Open another one.")
            if self._pool is None:
                # A pool tries again without a word: what no try can mend is said at once.
                connect(self._url).close()
                self._pool = ConnectionPool(
                    self._url,
                    connection_class=_Connection,
                    kwargs={"failed": self._failed},
                    min_size=1,
                    max_size=self._most,
                    reconnect_timeout=PATIENCE_SECONDS,
                    reconnect_failed=lambda pool: pool.check(),
                    open=True,
                )
            return self._pool

    def _failed(self, problem: EmbedPipelineError) -> None:
        self._reason = problem.message

    def forked(self) -> None:
        """See `forks.Holder`."""
        forks.abandon(self._pool, self._lock)
        self._pool, self._lock = None, threading.Lock()

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            pool, self._pool, self._is_closed = self._pool, None, True
        if pool is not None:
            pool.close()
