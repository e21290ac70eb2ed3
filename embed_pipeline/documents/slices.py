"""Reading the documents in slices. A read holds the table's lightest lock, and an application that truncates its table with a lock_timeout
of 50 ms must get through: no statement of ours holds it for longer than half of that.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from embed_pipeline.documents.ranges import KeyRange, within
from embed_pipeline.documents.slice_size import SliceSize as SliceSize
from embed_pipeline.documents.source import Source
from embed_pipeline.postgres.connection import unhurried
from embed_pipeline.postgres.queries import Queries

queries = Queries(__file__, "slices.sql")


class KeySlices:
    """The slices of a key range, in key order. Iterate, and read each one under `timed`."""

    def __init__(self, conn: psycopg.Connection, source: Source, bounds: KeyRange, size: SliceSize) -> None:
        self._conn = conn
        self._source = source
        self._bounds = bounds
        self.size = size

    def __iter__(self) -> Iterator[KeyRange]:
        if self._bounds.is_empty:
            return
        lower, upper = self._bounds.lower, self._bounds.upper
        while True:
            until = self._until(lower)
            yield KeyRange(self._bounds.partition, lower, upper if until is None else until)
            if until is None:
                return
            lower = until

    def _until(self, lower: list[str] | None) -> list[str] | None:
        """The first key after a slice from `lower`, or None where the slice is the last one."""
        parts = self._source.parts()
        query = queries(
            "bound",
            in_range=within(self._source, lower is not None, self._bounds.upper is not None, after=False),
            **{name: parts[name] for name in ("documents", "key_array", "key_columns")},
        )
        # The key behind the last one of the slice begins the next one.
        values = {"lower": lower, "upper": self._bounds.upper, "size": self.size.rows + 1}
        with unhurried(self._conn):
            row = self._conn.execute(query, values).fetchone()
        return None if row is None else list(row[0])
