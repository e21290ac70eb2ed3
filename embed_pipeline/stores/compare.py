"""Comparing documents with what a version holds of them, slice by slice. No flag is believed.

Each slice is one snapshot of documents, vectors and queue together, so that a difference which nothing pending explains is one. Slices
are short: an application that wants its table for itself waits for one of them at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import psycopg
from psycopg import sql

from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents.ranges import KeyRange
from embed_pipeline.documents.slices import Compose, KeySlices, SlicedQuery, SliceSize, read_by_id
from embed_pipeline.documents.source import LONGEST_ID, Source
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.signals import signal
from embed_pipeline.stores.protocol import Found

queries = Queries(__file__, "compare.sql")

LETTERS = 5_000
# Slices that are compared in full between two tries to find one as it was known.
MOST_IN_FULL = 15
YES, NO = sql.SQL("true"), sql.SQL("false")

Unchanged = tuple[sql.Composable, sql.Composable]
"""Conditions on a document `d` and on its row `v`."""


@dataclass(frozen=True)
class Stored:
    """What a version holds, as the comparison sees it: SQL over the aliases `d` (document) and `v` (what is stored of it).

    `unchanged`: that the document, and that its row, has not changed since both were known to be equal. `differs`: what is stored is of
    another text. `is_whole`: all of its passages are there; None: there is one for each document. `first_chunk` narrows the join to the row
    that stands for the document. `is_counted`: rows that the caller has counted before, to know afterwards whether each of them has its
    document.
    """

    relation: sql.Composable
    differs: sql.Composable
    unchanged: Unchanged | None = None
    is_whole: sql.Composable | None = None
    is_counted: sql.Composable = field(default_factory=lambda: sql.SQL("false"))
    first_chunk: sql.Composable = field(default_factory=lambda: sql.SQL(""))
    values: dict[str, Any] = field(default_factory=dict)


class Comparison:
    """One comparison of a version; `documents` and `orphans` may be called for parts of it."""

    def __init__(self, conn: psycopg.Connection, source: Source, version: Version, stored: Stored) -> None:
        self._conn = conn
        self._source = source
        self._version = version
        self._stored = stored
        self._size = SliceSize()
        self._slices = KeySlices(source, self._size)
        self._query = SlicedQuery(source, self._compose("slice"))
        self._as_known = SlicedQuery(source, self._compose("slice_as_known"))
        self._may_be_as_known = stored.unchanged is not None and stored.is_whole is None
        # So many slices are compared in full before it is tried again whether one is as it was known.
        self._in_full = self._pause = 0
        self.found = Found()
        self.counted = 0
        """How many rows of the stored side met `Stored.is_counted`."""

    def documents(self, bounds: KeyRange) -> Found:
        """Compare every document of the range."""
        for part in self._slices.of(self._conn, bounds):
            with self._size.timed():
                self._slice(part)
            signal("compare.slice")
        return self.found

    def orphans(self, stored: Iterable[Sequence[str]]) -> Found:
        """Find what is stored of documents that are gone, and dead letters of such; `stored` gives the stored ids in portions."""
        for portion in chain(self._letters(), stored):
            self._orphans(portion)
        return self.found

    def _compose(self, name: str) -> Compose:
        source, stored = self._source, self._stored
        document_unchanged, row_unchanged = stored.unchanged or (NO, NO)
        parts: dict[str, sql.Composable] = {
            "doc_id": source.doc_id(),
            "documents": source.identifier,
            "document_unchanged": document_unchanged,
            "row_unchanged": row_unchanged,
            "stored": stored.relation,
            "is_counted": stored.is_counted,
            "first_chunk": stored.first_chunk,
        }
        if name == "slice":
            parts |= {
                "longest_id": sql.Literal(LONGEST_ID),
                "source_hash": source.source_hash(),
                "differs": stored.differs,
                "is_whole": stored.is_whole or YES,
            }
        return lambda in_range: queries(name, in_range=in_range, **parts)

    def _slice(self, part: KeyRange) -> None:
        if not self._is_as_known(part):
            self._compare(part)

    def _is_as_known(self, part: KeyRange) -> bool:
        """Whether nothing has changed in the slice, which is counted then. Where much has it is tried less and less often."""
        if not self._may_be_as_known or self._in_full:
            self._in_full = max(self._in_full - 1, 0)
            return False
        ((documents, is_as_known, counted),) = self._as_known.rows(self._conn, part, self._names() | self._stored.values)
        self._in_full = self._pause = 0 if is_as_known else min(2 * self._pause + 1, MOST_IN_FULL)
        if is_as_known:
            self.found.documents += documents
            self.found.current += documents
            self.counted += counted
        return bool(is_as_known)

    def _compare(self, part: KeyRange) -> None:
        (row,) = self._query.rows(self._conn, part, self._names() | self._stored.values)
        self.found.documents += row[0]
        self.found.current += row[1]
        self.found.dead += row[2]
        self.found.pending += row[3]
        self.found.different.update(zip(row[4], row[5], strict=True))
        self.counted += row[6]

    def _orphans(self, doc_ids: Sequence[str]) -> None:
        def compose(matches: sql.Composable) -> sql.Composed:
            return queries("orphans", documents=self._source.identifier, key_is_wanted=matches, stored=self._stored.relation)

        start = 0
        while start < len(doc_ids):
            rows = self._size.rows
            with self._size.timed():
                portion = self._names() | {"doc_ids": list(doc_ids[start : start + rows])}
                found = read_by_id(self._conn, self._source, compose, portion)
            for doc_id, pending in found:
                if pending:
                    self.found.pending += 1
                else:
                    self.found.different[doc_id] = "orphaned"
            start += rows

    def _letters(self) -> Iterator[list[str]]:
        after: str | None = None
        while True:
            values = self._names() | {"after": after, "limit": LETTERS}
            ids = [doc_id for (doc_id,) in self._conn.execute(queries("letters"), values)]
            if ids:
                yield ids
            if len(ids) < LETTERS:
                return
            after = ids[-1]

    def _names(self) -> dict[str, Any]:
        return {"index": self._version.index, "version": self._version.name}
