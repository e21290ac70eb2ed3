"""How vectors get into a version's table. All writers go in one order, and whoever has the row of chunk 0 has the document."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

import psycopg
from psycopg import sql

from embed_pipeline.catalog import partitions
from embed_pipeline.catalog.partitions import Fence
from embed_pipeline.catalog.versions import Version
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.signals import signal
from embed_pipeline.stores.pgvector import copy_format
from embed_pipeline.stores.protocol import EmbeddedBatch

queries = Queries(__file__, "pgvector.sql")

# How long a worker waits for another worker's uncommitted row before it lets go of everything and comes round again.
LOCK_WAIT_MS = 2_000
# The same of a backfill that has copied vectors already: it does the batch in another way then.
COPIED_WAIT_MS = 200
# How often a backfill comes back to a batch, which is paid for: the server ends the transaction of who is frozen long before.
INSERT_TRIES = 30


class Writes:
    """Writes of one version. The transactions of a backfill are its own; a dual-write's are its caller's."""

    def __init__(self, version: Version) -> None:
        self._version = version
        self._half = version.precision == "halfvec"

    def copy_new(self, conn: psycopg.Connection, batch: EmbeddedBatch, fence: Fence) -> set[str] | None:
        """All of the batch by one COPY; None, with nothing done, when another worker is or was at one of its documents."""
        try:
            with conn.transaction():
                self._begin(conn, COPIED_WAIT_MS)
                partitions.hold(conn, fence)
                signal("insert_new.held")
                self._copy(conn, batch, fence)
                signal("insert_new.written")
        except (psycopg.errors.UniqueViolation, psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            return None
        return set(batch.doc_ids)

    def insert_by_rows(self, conn: psycopg.Connection, batch: EmbeddedBatch, fence: Fence) -> set[str]:
        """What can be inserted of the batch: slower; waits for a concurrent insert of the same document, which keeps it."""
        for _ in range(INSERT_TRIES - 1):
            with suppress(psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                return self._insert_by_rows(conn, batch, fence)
        return self._insert_by_rows(conn, batch, fence)

    def _insert_by_rows(self, conn: psycopg.Connection, batch: EmbeddedBatch, fence: Fence) -> set[str]:
        with conn.transaction():
            self._begin(conn, LOCK_WAIT_MS)
            partitions.hold(conn, fence)
            signal("insert_new.by_rows")
            won = set(self._insert(conn, batch, fence, "first", queries("first_wins")))
            signal("insert_new.inserted")
            if self._version.is_chunked:
                self._insert(conn, batch.only(won), fence, "further", sql.SQL(""))
            signal("insert_new.written")
        return won

    def upsert(self, conn: psycopg.Connection, batch: EmbeddedBatch) -> None:
        """Replace what is stored of these documents, which the caller has claimed and locked."""
        if not len(batch):
            return
        conn.execute(queries("wait_briefly"), {"milliseconds": str(LOCK_WAIT_MS)})
        statement = queries("upsert", table=self._version.table)
        if not self._version.is_chunked:
            conn.execute(statement, copy_format.columns(batch, half=self._half))
            return
        # Waits for a backfill's uncommitted rows of the same document, and sees them in the next statement.
        conn.execute(statement, copy_format.columns(batch, half=self._half, chunks="first"))
        signal("replace.first")
        conn.execute(queries("delete_further", table=self._version.table), {"doc_ids": batch.doc_ids})
        signal("replace.deleted")
        further = copy_format.columns(batch, half=self._half, chunks="further")
        if further["doc_ids"]:
            conn.execute(statement, further)

    def delete(self, conn: psycopg.Connection, doc_ids: Sequence[str]) -> None:
        if doc_ids:
            conn.execute(queries("delete", table=self._version.table), {"doc_ids": list(doc_ids)})

    def _begin(self, conn: psycopg.Connection, milliseconds: int) -> None:
        conn.execute(queries("commit_lazily"))
        conn.execute(queries("wait_briefly"), {"milliseconds": str(milliseconds)})

    def _copy(self, conn: psycopg.Connection, batch: EmbeddedBatch, fence: Fence) -> None:
        statement = queries("copy" if batch.offsets is None else "copy_passages", table=self._version.table)
        with conn.cursor() as cursor, cursor.copy(statement) as copy:
            for piece in copy_format.rows(batch, fence.number, fence.epoch, half=self._half):
                copy.write(piece)
                signal("store.copying")

    def _insert(
        self,
        conn: psycopg.Connection,
        batch: EmbeddedBatch,
        fence: Fence,
        chunks: Literal["first", "further"],
        first_wins: sql.Composable,
    ) -> list[str]:
        """The ids that the statement returns."""
        query = queries("insert", table=self._version.table, first_wins=first_wins)
        values = copy_format.columns(batch, half=self._half, chunks=chunks)
        if not values["doc_ids"]:
            return []  # Of no vector psycopg could not tell the type.
        cursor = conn.execute(query, values | {"partition": fence.number, "epoch": fence.epoch})
        return [doc_id for (doc_id,) in cursor] if cursor.description else []
