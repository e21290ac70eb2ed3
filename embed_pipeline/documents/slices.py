"""Reading the documents in slices. A read holds the table's lightest lock, and an application that truncates its table with a lock_timeout
of 50 ms must get through: no statement of ours holds it for longer than half of that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
from psycopg import errors, sql

from embed_pipeline.documents.ranges import KeyRange, within
from embed_pipeline.documents.source import Source, hash_of
from embed_pipeline.documents.source import queries as source_queries
from embed_pipeline.postgres import connection
from embed_pipeline.postgres.queries import Queries, with_parameters
from embed_pipeline.signals import signal

queries = Queries(__file__, "slices.sql")

LONGEST_SECONDS = 0.025
# Aimed at: a machine whose cores are busy takes longer than it did the time before.
TARGET_SECONDS = 0.008
LEAST = 64

# A domain refuses by its constraints.
NO_KEY = (errors.DataError, errors.CheckViolation, errors.NotNullViolation)
NOWHERE = sql.SQL("false")

Compose = Callable[[sql.Composable], sql.Composed]
"""A query, given the condition that its documents meet."""


class SlicedQuery:
    """A query over one slice after another: composed once for each form that its bounds have, and read in one round trip."""

    def __init__(self, source: Source, compose: Compose) -> None:
        self._source = source
        self._compose = compose
        self._composed: dict[tuple[bool, bool], bytes] = {}

    def rows(
        self, conn: psycopg.Connection, part: KeyRange, values: Mapping[str, Any], *, binary: bool = False
    ) -> list[tuple[Any, ...]]:
        """The query's rows for the slice, read through the index of the documents' key."""
        return read(conn, self._of(conn, part), {**values, "lower": part.lower, "upper": part.upper}, binary=binary)

    def _of(self, conn: psycopg.Connection, part: KeyRange) -> bytes:
        form = (part.lower is not None, part.upper is not None)
        if form not in self._composed:
            self._composed[form] = with_parameters(self._compose(within(self._source, *form, after=False))).as_bytes(conn)
        return self._composed[form]


def read(
    conn: psycopg.Connection, query: bytes | sql.Composed, values: Mapping[str, Any], *, binary: bool = False
) -> list[tuple[Any, ...]]:
    """One statement that reads documents: one round trip, and nothing is held after it.

    What goes through a pipeline is one transaction, which ends with the pipeline; BEGIN and COMMIT of their own, as psycopg sends them, are
    three round trips, and a client that is slow between them holds the documents.
    """
    with conn.pipeline():
        conn.execute(queries(connection.by_server("begin", conn)), {"milliseconds": str(connection.FROZEN_MS)})
        cursor = conn.execute(query, values, binary=binary)
        signal("slice.reading")
    return cursor.fetchall()


def read_by_id(
    conn: psycopg.Connection, source: Source, compose: Compose, values: Mapping[str, Any], *, binary: bool = False
) -> list[tuple[Any, ...]]:
    """`read` of a query over the ids `values["doc_ids"]`, given the condition that a document `d` is the one that `w.doc_id` names.

    An id is the text that a key had. Under another type, or after an enum's label was renamed, that text may be none of its values: then no
    document meets the condition, and the others of its batch are not held up.
    """
    try:
        return read(conn, compose(source.key_matches(sql.SQL("w.doc_id"))), values, binary=binary)
    except NO_KEY:
        doc_ids = list(values["doc_ids"])
        unfit = _no_keys(conn, source, doc_ids)
        if not unfit:
            raise
        fit = [doc_id for doc_id in doc_ids if doc_id not in unfit]
        found = read(conn, compose(source.key_matches(sql.SQL("w.doc_id"))), {**values, "doc_ids": fit}, binary=binary)
        return found + read(conn, compose(NOWHERE), {**values, "doc_ids": sorted(unfit)}, binary=binary)


def read_current(conn: psycopg.Connection, source: Source, doc_ids: list[str]) -> dict[str, tuple[str, bytes]]:
    """id -> (text, source_hash) of the documents that exist now; each as it is when its part of them is read."""
    parts = source.parts()

    def compose(matches: sql.Composable) -> sql.Composed:
        return source_queries("read_current", documents=parts["documents"], text=parts["text"], key_is_wanted=matches)

    found: dict[str, tuple[str, bytes]] = {}
    size, start = SliceSize(), 0
    while start < len(doc_ids):
        portion = doc_ids[start : start + size.rows]
        start += len(portion)
        with size.timed():
            rows = read_by_id(conn, source, compose, {"doc_ids": portion}, binary=True)
        found.update((doc_id, (text, hash_of(text))) for doc_id, text in rows)
    return found


def _no_keys(conn: psycopg.Connection, source: Source, doc_ids: list[str]) -> set[str]:
    """Those of these ids that are no key, found by halves."""
    try:
        read(
            conn,
            source_queries("are_keys", key_is_wanted=source.key_matches(sql.SQL("w.doc_id")), documents=source.identifier),
            {"doc_ids": doc_ids},
        )
    except NO_KEY:
        if len(doc_ids) == 1:
            return {doc_ids[0]}
        middle = len(doc_ids) // 2
        return _no_keys(conn, source, doc_ids[:middle]) | _no_keys(conn, source, doc_ids[middle:])
    return set()


class SliceSize:
    """How many rows a statement may read: as many as one reads in TARGET_SECONDS.

    Follows the best of the last statements: a busy machine holds one up now and then, and tiny ones would only cost it more. One that
    really took too long counts at once. It begins small: how busy the machine is now, only the first statement tells.
    """

    def __init__(self, first: int = LEAST, most: int = 20_000) -> None:
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
        self.rows = max(LEAST, int(min(self._rate * TARGET_SECONDS, 4 * self.rows, self._most)))


class KeySlices:
    """The slices of key ranges, in key order, each as long as `size` says at the time. Read each one under its `timed`."""

    def __init__(self, source: Source, size: SliceSize) -> None:
        self.size = size
        parts = source.parts()
        wanted = {name: parts[name] for name in ("documents", "key_array", "key_columns")}
        self._bound = SlicedQuery(source, lambda in_range: queries("bound", in_range=in_range, **wanted))

    def of(self, conn: psycopg.Connection, bounds: KeyRange) -> Iterator[KeyRange]:
        """All slices of the range."""
        left: KeyRange | None = bounds
        while left is not None and not left.is_empty:
            part, left = self.first(conn, left)
            yield part

    def first(self, conn: psycopg.Connection, bounds: KeyRange) -> tuple[KeyRange, KeyRange | None]:
        """The first slice of a range that is not empty, and what is left of the range; None after the last one."""
        # The key behind the last one of the slice begins the next one.
        rows = self._bound.rows(conn, bounds, {"size": self.size.rows + 1})
        if not rows:
            return bounds, None
        until = list(rows[0][0])
        return replace(bounds, upper=until), replace(bounds, lower=until)
