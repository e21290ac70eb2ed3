"""From the inbox to the queue: what the application's transactions left behind is handed to every live version.

`seq` is drawn here and not when the change was made: a change is numbered when it can be seen, so that a mark needs to wait for no
open transaction. Whatever commits later is later for every version alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psycopg
from psycopg import errors, sql

from embed_pipeline.documents import queue, unwieldy
from embed_pipeline.documents.slices import SliceSize, read_by_id
from embed_pipeline.documents.slices import queries as slices
from embed_pipeline.documents.source import Source
from embed_pipeline.errors import DatabaseUnavailable
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.signals import signal

queries = Queries(__file__, "inbox.sql")

# Of one transaction: short ones, so that the first documents can be claimed while the last are still in the inbox, and another
# distributor has some to take. As many ids as one row of the inbox holds (capture.sql: write_ids).
IDS, ROWS = 1_000, 2_000
LOCK_WAIT_MS = 2_000
FLOOR_SECONDS = 1.0
# A worker that freezes in a write holds what it writes until the server ends it. The rows of the inbox come again.
GIVES_WAY = (errors.LockNotAvailable, errors.DeadlockDetected)

StoredIds = Callable[[psycopg.Connection, str], Iterator[list[str]]]
"""Version name -> ids of the documents that its store holds, in slices. Asked for after a TRUNCATE."""


@dataclass(frozen=True)
class Waiting:
    """Changes that are not distributed yet: ids, the age in seconds of the oldest, and whether a TRUNCATE is among them."""

    ids: int
    oldest_seconds: float
    truncate: bool


class Distributor:
    """Distributes one index's inbox. For one thread; any number of them may work at once."""

    def __init__(
        self, index: str, source: Source, live: Callable[[psycopg.Connection], Sequence[str]], stored: StoredIds
    ) -> None:
        """`live` names the live versions, `stored` what each of them holds."""
        self._index = index
        self._source = source
        self._live = live
        self._stored = stored
        self._floors = _Floors(index)
        self._slice = SliceSize()

    def distribute(self, conn: psycopg.Connection, told: Callable[[], None] = lambda: None) -> int:
        """Hand over everything that is in the inbox now; returns how many ids. `told` is called after each piece."""
        total = 0
        while True:
            rows, ids = self._piece(conn)
            total += ids
            if not rows:
                break
            told()
        for row in self._truncates(conn):
            with suppress(*GIVES_WAY):
                self._expand(conn, row)
                told()
        self._floors.advance(conn)
        return total

    def rest(self, conn: psycopg.Connection) -> None:
        """Move the floors past what was worked off since the last piece: while nothing new comes nobody else would."""
        self._floors.catch_up(conn)

    def take_mark(self, conn: psycopg.Connection, deadline_seconds: float = 60.0) -> int:
        """A number such that everything that was committed before this call is pending with a smaller one, or done."""
        row = conn.execute(queries("visible"), {"index": self._index}).fetchone()
        last = row[0] if row is not None and row[0] is not None else 0
        deadline = time.monotonic() + deadline_seconds
        while True:
            self.distribute(conn)
            left = conn.execute(queries("any_up_to"), {"index": self._index, "last": last}).fetchone()
            if left is None or not left[0]:
                return queue.next_seq(conn)
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(
                    f"Changes of {self._index} that were committed more than {deadline_seconds:.0f} s ago could not be handed to its "
                    "versions: another session has them, or a document that they are about, in its hands.",
                    next_step="See in pg_locks who holds rows of embed_pipeline.inbox or embed_pipeline.pending, and run it again.",
                )
            # What is left another distributor has in its hands, or waits for a worker that has its document.
            time.sleep(0.01)

    def _piece(self, conn: psycopg.Connection) -> tuple[int, int]:
        values = {"index": self._index, "after": self._floors.after, "rows": ROWS, "ids": IDS}
        try:
            with conn.transaction():
                _begin(conn)
                signal("inbox.distributing")
                row = conn.execute(queries("distribute"), values).fetchone()
                signal("inbox.announced")
        except errors.ProgramLimitExceeded:
            return self._by_halves(conn)
        except GIVES_WAY:
            return 0, 0
        assert row is not None
        return int(row[0]), int(row[1])

    def _by_halves(self, conn: psycopg.Connection) -> tuple[int, int]:
        """Row by row, and where one fails its ids half by half: the one that no key can hold is set aside, and the rest goes on."""
        found = conn.execute(queries("row_ids"), {"index": self._index, "rows": ROWS}).fetchall()
        done = ids = 0
        for (number,) in found:
            with suppress(*GIVES_WAY), conn.transaction():
                _begin(conn)
                row = conn.execute(queries("lock_row"), {"id": number}).fetchone()
                if row is None:
                    continue
                self._announce(conn, row[0], row[1])
                conn.execute(queries("forget"), {"ids": [number]})
                done, ids = done + 1, ids + len(row[0])
        return done, ids

    def _announce(self, conn: psycopg.Connection, doc_ids: list[str], removed: bool) -> None:
        try:
            with conn.transaction():
                conn.execute(queries("announce"), {"index": self._index, "doc_ids": doc_ids, "removed": removed})
        except errors.ProgramLimitExceeded:
            if len(doc_ids) == 1:
                unwieldy.set_aside(conn, self._index, doc_ids)
                return
            middle = len(doc_ids) // 2
            self._announce(conn, doc_ids[:middle], removed)
            self._announce(conn, doc_ids[middle:], removed)

    def _truncates(self, conn: psycopg.Connection) -> list[int]:
        return [number for (number,) in conn.execute(queries("truncates"), {"index": self._index})]

    def _expand(self, conn: psycopg.Connection, row: int) -> None:
        """Announce what is no longer there of every live version: work under way first, then what is stored. The row stays until then.

        In this order: what a worker has written meanwhile is stored when the store is looked at.
        """
        for version in self._live(conn):
            names = {"index": self._index, "version": version}
            known = [doc_id for (doc_id,) in conn.execute(queries("known_ids"), names)]
            self._announce_gone(conn, version, known)
            signal("inbox.known")
            for stored in self._stored(conn, version):
                self._announce_gone(conn, version, stored)
                # A large table takes a while, and what comes meanwhile does not wait for it.
                self._piece(conn)
        conn.execute(queries("forget"), {"ids": [row]})

    def _announce_gone(self, conn: psycopg.Connection, version: str, doc_ids: list[str]) -> None:
        start = 0
        while start < len(doc_ids):
            rows = self._slice.rows
            gone = _gone(conn, self._source, doc_ids[start : start + rows], self._slice)
            if gone:
                with conn.transaction():
                    _begin(conn)
                    queue.enqueue(conn, self._index, version, gone, removed=gone)
            start += rows


class _Floors:
    """Where searches and distributors begin to look: what is below is worked off, and none comes there any more.

    A number that was drawn belongs to a transaction that had its own id by then. When all of those have ended, whatever is still to be
    seen below can be seen. Dead entries stay in an index as long as any old snapshot needs them; nobody has to walk through them.
    """

    def __init__(self, index: str) -> None:
        self._index = index
        self._noted: tuple[int, int, int] | None = None
        self._next = 0.0
        self._is_reached = False
        self.after = 0

    def advance(self, conn: psycopg.Connection) -> None:
        """Note where numbers are now; and when what was under way at the last note has ended, move the floors there."""
        self._is_reached = False
        if time.monotonic() >= self._next:
            self._advance(conn)

    def catch_up(self, conn: psycopg.Connection) -> None:
        """The same at once, unless the floors are where numbers were noted last."""
        if not self._is_reached:
            self._advance(conn)

    def _advance(self, conn: psycopg.Connection) -> None:
        self._next = time.monotonic() + FLOOR_SECONDS
        reached: tuple[int, int] | None = None
        if self._noted is not None:
            inbox, seq, transaction = self._noted
            row = conn.execute(queries("oldest_running")).fetchone()
            if row is None or row[0] < transaction:
                return
            # None where they are there or beyond already.
            moved = conn.execute(queries("advance_floors"), {"index": self._index, "inbox": inbox, "seq": seq}).fetchone()
            reached = (inbox, seq) if moved is None or moved == (inbox, seq) else None
            left = conn.execute(queries("any_up_to"), {"index": self._index, "last": inbox}).fetchone()
            if left is not None and not left[0]:
                self.after = max(self.after, inbox)
        self._noted = self._note(conn)
        self._is_reached = self._noted is not None and self._noted[:2] == reached

    def _note(self, conn: psycopg.Connection) -> tuple[int, int, int] | None:
        signal("inbox.noting")
        numbers = conn.execute(queries("numbers")).fetchone()
        # Afterwards, and one of our own: a snapshot says nothing about those that have begun since the last one that ended.
        transaction = conn.execute(queries("next_transaction")).fetchone()
        return None if numbers is None or transaction is None else (numbers[0], numbers[1], transaction[0])


def waiting(conn: psycopg.Connection, index: str) -> Waiting:
    """The inbox as it is now."""
    row = conn.execute(queries("waiting"), {"index": index}).fetchone()
    return Waiting(0, 0.0, False) if row is None else Waiting(*row)


def has_rows(conn: psycopg.Connection, index: str) -> bool:
    row = conn.execute(queries("has_rows"), {"index": index}).fetchone()
    return bool(row and row[0])


def announce_again(conn: psycopg.Connection, source: Source, index: str, version: str) -> None:
    """Give everything that is pending another number, and note what of it is gone.

    After a change that capture has missed: a worker may have read a text from before it, and would acknowledge what it did not see.
    """
    names = {"index": index, "version": version}
    ids = [doc_id for (doc_id,) in conn.execute(queries("pending_ids"), names)]
    size = SliceSize()
    while ids:
        portion, ids = ids[: size.rows], ids[size.rows :]
        gone = _gone(conn, source, portion, size)
        with conn.transaction():
            _begin(conn)
            conn.execute(queries("announce_again"), names | {"doc_ids": portion, "gone": gone})


def _gone(conn: psycopg.Connection, source: Source, doc_ids: list[str], size: SliceSize) -> list[str]:
    """Those of these ids that are no document. In a transaction of its own: whoever announces them may wait for a worker, and must not do
    so with a lock on the documents in its hands. What is deleted after this look has an inbox row of its own, and of what comes back a
    worker finds out."""

    def compose(matches: sql.Composable) -> sql.Composed:
        return queries("gone", documents=source.identifier, key_is_wanted=matches)

    with size.timed():
        return [doc_id for (doc_id,) in read_by_id(conn, source, compose, {"doc_ids": doc_ids})]


def _begin(conn: psycopg.Connection) -> None:
    # Workers wait for the rows, and a retire for the versions.
    queue.commit_now(conn)
    conn.execute(slices("lock_timeout"), {"milliseconds": str(LOCK_WAIT_MS)})
