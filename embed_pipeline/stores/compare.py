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
from embed_pipeline.documents.slices import KeySlices, SlicedQuery, SliceSize, read
from embed_pipeline.documents.source import Source
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.signals import signal
from embed_pipeline.stores.protocol import Found

queries = Queries(__file__, "compare.sql")

LETTERS = 5_000


@dataclass(frozen=True)
class Stored:
    """What a version holds, as the comparison sees it: SQL over the aliases `d` (document) and `v` (what is stored of it).

    `untouched`: neither side has changed since it was known to be equal. `differs`: what is stored is of another text. `is_whole`:
    all of its passages are there. `first_chunk` narrows the join to the row that stands for the document. `is_counted`: rows that the caller
    has counted before, to know afterwards whether each of them has its document.
    """

    relation: sql.Composable
    differs: sql.Composable
    untouched: sql.Composable = field(default_factory=lambda: sql.SQL("false"))
    is_whole: sql.Composable = field(default_factory=lambda: sql.SQL("true"))
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
        self._query = SlicedQuery(source, self._compose)
        self.found = Found()
        self.counted = 0
        """How many rows of the stored side met `Stored.is_counted`."""

    def documents(self, bounds: KeyRange) -> Found:
        """Compare every document of the range."""
        for part in KeySlices(self._conn, self._source, bounds, self._size):
            with self._size.timed():
                self._slice(part)
            signal("compare.slice")
        return self.found

    def orphans(self, stored: Iterable[Sequence[str]]) -> Found:
        """Find what is stored of documents that are gone, and dead letters of such; `stored` gives the stored ids in portions."""
        for portion in chain(self._letters(), stored):
            self._orphans(portion)
        return self.found

    def _compose(self, in_range: sql.Composable) -> sql.Composed:
        source, stored = self._source, self._stored
        return queries(
            "slice",
            doc_id=source.doc_id(),
            source_hash=source.source_hash(),
            documents=source.identifier,
            in_range=in_range,
            stored=stored.relation,
            differs=stored.differs,
            untouched=stored.untouched,
            is_whole=stored.is_whole,
            is_counted=stored.is_counted,
            first_chunk=stored.first_chunk,
        )

    def _slice(self, part: KeyRange) -> None:
        (row,) = self._query.rows(self._conn, part, self._names() | self._stored.values)
        self.found.documents += row[0]
        self.found.current += row[1]
        self.found.dead += row[2]
        self.found.pending += row[3]
        self.found.different.update(zip(row[4], row[5], strict=True))
        self.counted += row[6]

    def _orphans(self, doc_ids: Sequence[str]) -> None:
        parts = self._source.parts()
        stored = self._stored.relation
        query = queries("orphans", documents=parts["documents"], key_is_wanted=parts["key_is_wanted"], stored=stored)
        start = 0
        while start < len(doc_ids):
            rows = self._size.rows
            with self._size.timed():
                found = read(self._conn, query, self._names() | {"doc_ids": list(doc_ids[start : start + rows])})
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
