"""Vectors that are in the documents' database already become a version: one INSERT ... SELECT for each slice of keys.

The consistency argument is docs/how-to/adopt-a-column.md's: a change that the version was told of is never answered with an old vector.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np
import psycopg
from psycopg import errors, sql

from embed_pipeline.catalog import partitions
from embed_pipeline.catalog.partitions import Fence
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import shape
from embed_pipeline.documents.ranges import ALL_KEYS, KeyRange, within
from embed_pipeline.documents.slices import KeySlices, SlicedQuery, SliceSize, read_by_id
from embed_pipeline.documents.slices import queries as slices
from embed_pipeline.documents.source import LONGEST_ID, Source
from embed_pipeline.postgres import connection
from embed_pipeline.postgres.connection import vector_schema
from embed_pipeline.postgres.queries import Queries, with_parameters
from embed_pipeline.signals import signal
from embed_pipeline.spec import AdoptVectorsSpec
from embed_pipeline.stores.adopting import Looked, OldVector, doubted
from embed_pipeline.stores.pgvector import layout
from embed_pipeline.stores.pgvector.layout import Layout

queries = Queries(__file__, "adopting.sql")
stored = Queries(__file__, "pgvector.sql")

# For another worker's uncommitted row of the same document, or the application's lock on its table.
LOCK_WAIT_MS = 2_000
TRIES = 30


@dataclass
class ColumnAdoption:
    """Adoption over a column of pgvector's."""

    version: Version
    source: Source
    declared: AdoptVectorsSpec

    @property
    def min_agreement(self) -> float:
        return self.declared.min_agreement

    def find(self, conn: psycopg.Connection) -> str:
        return str(self._layout(conn))

    def look(self, conn: psycopg.Connection, size: int) -> Looked:
        parts = self._parts(conn)
        query = SlicedQuery(self.source, lambda in_range: queries("look", in_range=in_range, **parts))
        documents = usable = 0
        chosen: list[tuple[int, str]] = []
        slice_size = SliceSize()
        for part in KeySlices(self.source, slice_size).of(conn, ALL_KEYS):
            with slice_size.timed():
                ((seen, ids),) = query.rows(conn, part, {})
            documents, usable = documents + seen, usable + len(ids)
            drawn = [(int.from_bytes(blake2b(doc_id.encode(), digest_size=8).digest()), doc_id) for doc_id in ids]
            chosen = heapq.nsmallest(size, chosen + drawn)
        return Looked(documents, usable, tuple(doc_id for _, doc_id in chosen))

    def vectors(self, conn: psycopg.Connection, doc_ids: list[str]) -> list[OldVector]:
        parts = self._parts(conn)

        def compose(matches: sql.Composable) -> sql.Composed:
            return queries("sample", key_is_wanted=matches, **parts)

        rows = read_by_id(conn, self.source, compose, {"doc_ids": doc_ids})
        return [OldVector(doc_id, text, np.asarray(vector, dtype=np.float64)) for doc_id, text, vector in rows]

    def copy(self, conn: psycopg.Connection, part: KeyRange, fence: Fence) -> int:
        for _ in range(TRIES - 1):
            try:
                return self._copy(conn, part, fence)
            except (errors.LockNotAvailable, errors.DeadlockDetected):
                continue
        return self._copy(conn, part, fence)

    def _copy(self, conn: psycopg.Connection, part: KeyRange, fence: Fence) -> int:
        version = self.version
        names = {"index": version.index, "version": version.name, "partition": fence.number, "epoch": fence.epoch}
        query = self._statement(conn, (part.lower is not None, part.upper is not None))
        with conn.transaction():
            conn.execute(slices(connection.by_server("begin", conn)), {"milliseconds": str(connection.FROZEN_MS)})
            conn.execute(stored("commit_lazily"))
            conn.execute(stored("wait_briefly"), {"milliseconds": str(LOCK_WAIT_MS)})
            partitions.hold(conn, fence)
            signal("adopt.copying")
            row = conn.execute(query, names | {"lower": part.lower, "upper": part.upper}).fetchone()
            signal("adopt.copied")
        assert row is not None
        return int(row[0])

    def is_over(self, conn: psycopg.Connection) -> bool:
        names = {"index": self.version.index, "version": self.version.name}
        row = conn.execute(queries("was_made_again"), names).fetchone()
        return row is not None and bool(row[0])

    def refuse_doubted(self, conn: psycopg.Connection) -> None:
        index, version = self.version.index, self.version.name
        row = conn.execute(queries("was_doubted"), {"index": index, "version": version}).fetchone()
        was = row is not None and bool(row[0])
        if was or shape.open_doubts(conn, index) or shape.has_changed(conn, self.source, index):
            raise doubted(index, version)

    def _statement(self, conn: psycopg.Connection, bounds: tuple[bool, bool]) -> bytes:
        """Composed once for each form of bounds: the catalogs need not be asked for each slice."""
        if bounds not in self._statements:
            composed = self._compose(conn, within(self.source, *bounds, after=False))
            self._statements[bounds] = with_parameters(composed).as_bytes(conn)
        return self._statements[bounds]

    @cached_property
    def _statements(self) -> dict[tuple[bool, bool], bytes]:
        return {}

    def _compose(self, conn: psycopg.Connection, in_range: sql.Composable) -> sql.Composed:
        chunked = self.version.is_chunked
        table, source = self.version.table, self.source
        found = queries(
            "found",
            in_range=in_range,
            source_hash=source.source_hash(),
            longest_id=sql.Literal(LONGEST_ID),
            start=queries("where_it_is", text=source.text()) if chunked else queries("whole_text"),
            without_stored=stored("without_stored", table=table, doc_id=source.doc_id()),
            **self._parts(conn),
        )
        return queries("copy_passages" if chunked else "copy", table=table, announced=queries("announced"), found=found)

    def _parts(self, conn: psycopg.Connection) -> dict[str, sql.Composable]:
        """The pieces that every statement here asks for."""
        schema = vector_schema(conn)
        of_version = sql.SQL("{}({})").format(
            sql.Identifier(schema, self.version.precision), sql.Literal(self.version.dimensions)
        )
        parts = self.source.parts()
        return {
            "documents": parts["documents"],
            "doc_id": parts["doc_id"],
            "text": parts["text"],
            "vector": sql.SQL("(e.vector::{})").format(of_version),
            "vectors": self._layout(conn).vectors(self.source, schema, self.version.dimensions, chunked=self.version.is_chunked),
        }

    def _layout(self, conn: psycopg.Connection) -> Layout:
        return layout.find(conn, self.source, self.declared, self.version)
