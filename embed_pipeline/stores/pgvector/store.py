"""pgvector: one table for each version, in the same database as the documents, so that every guard is one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from embed_pipeline.catalog import dead_letters, partitions
from embed_pipeline.catalog.partitions import Fence
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import queue, shape
from embed_pipeline.documents.queue import Claim
from embed_pipeline.documents.ranges import ALL_KEYS, KeyRange
from embed_pipeline.documents.selection import EVERYTHING, Selection
from embed_pipeline.documents.shape import Horizon
from embed_pipeline.documents.source import Source
from embed_pipeline.documents.texts import DocumentText, Rejection
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.errors import VersionRetired
from embed_pipeline.postgres.connection import unhurried, vector_schema
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.signals import signal
from embed_pipeline.spec import AdoptVectorsSpec
from embed_pipeline.stores import compare, ledger
from embed_pipeline.stores.compare import Comparison, Stored, Unchanged
from embed_pipeline.stores.pgvector import exact, hnsw, nearest
from embed_pipeline.stores.pgvector.adopting import ColumnAdoption
from embed_pipeline.stores.pgvector.writes import Writes
from embed_pipeline.stores.protocol import (
    AnnIndex,
    Coverage,
    EmbeddedBatch,
    Filled,
    Found,
    Hit,
    Labels,
    StoredVectors,
    StorePressure,
)

queries = Queries(__file__, "pgvector.sql")

# Ids read at once: none of them is in memory with its vector.
PORTION = 5_000
ALL_ROWS = sql.SQL("true")


class PgvectorStore:
    """VersionStore over pgvector."""

    def __init__(self, version: Version, source: Source, adopted: AdoptVectorsSpec | None = None) -> None:
        self.version = version
        self.source = source
        self.adoption = None if adopted is None else ColumnAdoption(version, source, adopted)
        self._writes = Writes(version)
        self._nearest = nearest.Nearest(version, source)
        names = {"table": version.table, "doc_id": source.doc_id()}
        without_stored = {True: queries("without_stored", **names), False: queries("without_dual_written", **names)}
        self._missing = {begun: ledger.Missing(source, version, condition) for begun, condition in without_stored.items()}

    # Tables

    def prepare(self, conn: psycopg.Connection) -> None:
        """Nothing: the table is made in the transaction that registers the version."""

    def index_payload(self, conn: psycopg.Connection) -> None:
        """Nothing: searches filter by the documents' own columns."""

    def create(self, conn: psycopg.Connection) -> None:
        version = self.version
        pinned: dict[str, sql.Composable] = {
            name: sql.Literal(getattr(version, name)) for name in ("model_name", "model_version", "fingerprint")
        }
        type_ = sql.Identifier(vector_schema(conn), version.precision)
        of_version = sql.SQL("{}({})").format(type_, sql.Literal(version.dimensions))
        # Without a chunker there is no second vector of a document, whoever writes it.
        allowed = sql.SQL("chunk >= 0" if version.is_chunked else "chunk = 0")
        # Names that PostgreSQL would choose may be those of another version's table: docs__v1_pkey.
        key, partition = (sql.Identifier(f"{version.index}__{version.name}__{name}") for name in ("pkey", "partition"))
        pinned |= {"vector_type": of_version, "chunks_allowed": allowed, "primary_key": key}
        conn.execute(queries("create_table", table=version.table, **pinned))
        conn.execute(queries("create_partition_index", table=version.table, name=partition))

    def gone(self, conn: psycopg.Connection) -> str:
        row = conn.execute(queries("is_there"), {"table": self.version.table.as_string(conn)}).fetchone()
        return (
            ""
            if row is not None and row[0]
            else f"its table embed_pipeline.{self.version.index}__{self.version.name} is not there"
        )

    def require_ours(self, conn: psycopg.Connection) -> None:
        """Nothing: no other ledger reaches a table of this one's database."""

    def drop(self, conn: psycopg.Connection) -> None:
        conn.execute(queries("drop_table", table=self.version.table))

    def serve(self, conn: psycopg.Connection, generation: int) -> None:
        """Nothing: every reader of the table learns from the catalog which it is."""

    def pressure(self) -> StorePressure:
        """Always go: what burdens PostgreSQL is watched by the throttle itself."""
        return StorePressure()

    def tables(self) -> tuple[sql.Identifier, ...]:
        return (self.version.table,)

    def close(self) -> None:
        """Nothing: it has no connection of its own."""

    def size_bytes(self, conn: psycopg.Connection) -> int:
        row = conn.execute(queries("size"), {"table": self.version.table.as_string(conn)}).fetchone()
        return int(row[0]) if row else 0

    def count(self, conn: psycopg.Connection) -> int:
        with self._unless_retired():
            row = conn.execute(queries("count", table=self.version.table)).fetchone()
        return int(row[0]) if row else 0

    def labels(self, conn: psycopg.Connection) -> Labels:
        version = self.version
        values = {name: getattr(version, name) for name in ("model_name", "model_version", "fingerprint")}
        with self._unless_retired():
            row = conn.execute(queries("labels", table=version.table), values).fetchone()
        return Labels(0, 0) if row is None else Labels(*row)

    # Backfill

    def missing(self, conn: psycopg.Connection, within: KeyRange, *, begun: bool) -> list[DocumentText]:
        with self._unless_retired():
            return self._missing[begun].documents(conn, within)

    def holds(self, conn: psycopg.Connection, batch: EmbeddedBatch) -> set[str]:
        with self._unless_retired():
            stored = self._whole_hashes(conn, batch.doc_ids)
        return {doc_id for doc_id, digest in zip(batch.doc_ids, batch.hashes, strict=True) if stored.get(doc_id) == digest}

    def insert_new(self, conn: psycopg.Connection, batch: EmbeddedBatch, fence: Fence) -> set[str]:
        if not len(batch):
            return set()
        with self._unless_retired():
            written = self._writes.copy_new(conn, batch, fence)
            if written is None:
                written = self._writes.insert_by_rows(conn, batch, fence)
        signal("store.committed")
        return written

    # Dual-write

    def replace(self, conn: psycopg.Connection, claim: Claim, batch: EmbeddedBatch) -> set[str]:
        if not len(batch):
            return set()
        with self._writing(conn):
            mine = queue.lock_claimed(conn, claim, batch.doc_ids)
            signal("replace.locked")
            self._writes.upsert(conn, batch.only(set(mine)))
            signal("replace.written")
            dead_letters.forget(conn, self.version.index, self.version.name, mine)
            queue.acknowledge(conn, claim, mine)
        signal("store.committed")
        return set(mine)

    def reject(self, conn: psycopg.Connection, by: Claim | Fence, letters: Mapping[str, Rejection]) -> set[str]:
        if not letters:
            return set()
        with self._writing(conn):
            if isinstance(by, Fence):
                partitions.hold(conn, by)
                # Who has a vector by now needs no letter; what is wrong with either, the comparison of the partition finds.
                aside = sorted(letters.keys() - self._stored_hashes(conn, sorted(letters)).keys())
            else:
                aside = queue.lock_claimed(conn, by, letters)
                self._writes.delete(conn, aside)
            signal("reject.locked")
            dead_letters.add(conn, self.version.index, self.version.name, {doc_id: letters[doc_id] for doc_id in aside})
            if isinstance(by, Claim):
                queue.acknowledge(conn, by, aside)
        return set(aside)

    def settle(self, conn: psycopg.Connection, claim: Claim, current: Mapping[str, bytes]) -> set[str]:
        with self._writing(conn):
            # A worker whose claim was taken over settles nothing: what it read is older than what the new owner does.
            mine = queue.lock_claimed(conn, claim, claim.seqs)
            signal("settle.locked")
            stored = self._whole_hashes(conn, mine)
            gone = [doc_id for doc_id in mine if doc_id not in current]
            done = [doc_id for doc_id in mine if doc_id not in current or stored.get(doc_id) == current[doc_id]]
            self._writes.delete(conn, gone)
            # Also of what stands there already: a backfill may have written it after its text was mended.
            dead_letters.forget(conn, self.version.index, self.version.name, done)
            queue.acknowledge(conn, claim, done)
        return set(done)

    # Verification

    def stored_ids(self, conn: psycopg.Connection) -> Iterator[list[str]]:
        return self._stored_ids(conn, ALL_ROWS, {})

    def _stored_ids(self, conn: psycopg.Connection, among: sql.Composable, values: dict[str, Any]) -> Iterator[list[str]]:
        after: str | None = None
        while True:
            with self._unless_retired(), unhurried(conn):
                query = queries("stored_ids", table=self.version.table, among=among)
                rows = conn.execute(query, values | {"after": after, "limit": PORTION}).fetchall()
            ids = [doc_id for (doc_id,) in rows]
            if ids:
                yield ids
            if len(ids) < PORTION:
                return
            after = ids[-1]

    def stored_vectors(self, conn: psycopg.Connection, doc_ids: Sequence[str]) -> dict[str, StoredVectors]:
        with self._unless_retired(), unhurried(conn):
            rows = conn.execute(queries("stored_vectors", table=self.version.table), {"doc_ids": list(doc_ids)}).fetchall()
        # Of a document whose passages carry several hashes some are of an older text: any of them shows that.
        return {
            doc_id: StoredVectors(
                bytes(digest),
                np.asarray(vectors, dtype=np.float32),
                None if starts[0] is None else tuple(zip(starts, ends, strict=True)),
            )
            for doc_id, digest, vectors, starts, ends in rows
        }

    def written_since(self, conn: psycopg.Connection, moment: datetime, limit: int) -> list[str]:
        with self._unless_retired(), unhurried(conn):
            query = queries("written_since", table=self.version.table)
            return [doc_id for (doc_id,) in conn.execute(query, {"moment": moment, "limit": limit})]

    def compare(
        self, conn: psycopg.Connection, ranges: Sequence[KeyRange], *, orphans: bool, since: Horizon | None = None
    ) -> Found:
        unchanged = None if since is None else (queries("document_unchanged"), queries("row_unchanged"))
        values = {} if since is None else {"horizon": since.xmin}
        return self._compare(conn, ranges, unchanged, values, orphans_among=ALL_ROWS if orphans else None)

    def compare_partition(self, conn: psycopg.Connection, partition: KeyRange, filled: Filled | None) -> Found:
        values: dict[str, Any] = {"partition": int(partition.partition)}
        values |= {} if filled is None else {"horizon": filled.horizon.xmin, "epoch": filled.fence.epoch}
        unchanged = None if filled is None else (queries("document_unchanged"), queries("row_of_this_fill"))
        return self._compare(conn, [partition], unchanged, values, orphans_among=queries("is_of_partition"))

    def _compare(
        self,
        conn: psycopg.Connection,
        ranges: Sequence[KeyRange],
        unchanged: Unchanged | None,
        values: dict[str, Any],
        *,
        orphans_among: sql.Composable | None,
    ) -> Found:
        values = values | {"settled": shape.oldest_running(conn)}
        settled, unsettled = (0, 0) if orphans_among is None else self._count(conn, orphans_among, values)
        comparison = self._comparison(conn, unchanged, orphans_among, values)
        for each in ranges:
            comparison.documents(each)
        if orphans_among is not None:
            comparison.orphans(self._may_be_orphans(conn, settled - comparison.counted, unsettled, orphans_among, values))
        return comparison.found

    def _may_be_orphans(
        self, conn: psycopg.Connection, missed: int, unsettled: int, among: sql.Composable, values: dict[str, Any]
    ) -> Iterable[list[str]]:
        """The ids that are to be looked up, after the documents were compared.

        Settled rows only become fewer: where as many have been met beside their documents as were counted, all of them have one. Rows that a
        transaction under way may not have seen yet are looked up each. Passages without the row of their document are in neither count.
        """
        if self.version.is_chunked or missed:
            return self._stored_ids(conn, among, values)
        if unsettled:
            return self._stored_ids(conn, sql.SQL("{} AND NOT ({})").format(among, queries("is_settled")), values)
        return ()

    def _count(self, conn: psycopg.Connection, among: sql.Composable, values: dict[str, Any]) -> tuple[int, int]:
        with self._unless_retired(), unhurried(conn):
            query = queries("count_settled", table=self.version.table, is_settled=queries("is_settled"), among=among)
            row = conn.execute(query, values).fetchone()
        assert row is not None
        return row[0], row[1]

    def coverage(self, conn: psycopg.Connection, since: Horizon | None = None) -> Coverage:
        found = self.compare(conn, [ALL_KEYS], orphans=True, since=since)
        with self._unless_retired(), unhurried(conn):
            row = conn.execute(queries("count_vectors", table=self.version.table)).fetchone()
        assert row is not None
        return found.coverage(vectors=row[0])

    def _comparison(
        self, conn: psycopg.Connection, unchanged: Unchanged | None, among: sql.Composable | None, values: dict[str, Any]
    ) -> Comparison:
        is_counted = sql.SQL("false") if among is None else sql.SQL("{} AND {}").format(among, queries("is_settled"))
        stored = Stored(
            relation=self.version.table,
            differs=queries("differs", source_hash=self.source.source_hash()),
            unchanged=unchanged,
            is_whole=queries("is_whole", table=self.version.table) if self.version.is_chunked else None,
            is_counted=is_counted,
            first_chunk=sql.SQL("AND v.chunk = 0"),
            values=values,
        )
        return compare.Comparison(conn, self.source, self.version, stored)

    # ANN index and search

    def ann_index(self, conn: psycopg.Connection) -> AnnIndex | None:
        return hnsw.find(conn, self.version)

    def build_ann_index(self, conn: psycopg.Connection, progress: Callable[[str, float], None] | None = None) -> AnnIndex:
        with self._unless_retired():
            return hnsw.build(conn, self.version, progress)

    def search(
        self, conn: psycopg.Connection, query: Vectors, k: int, *, exact: bool = False, among: Selection = EVERYTHING
    ) -> list[Hit]:
        return self._nearest.search(conn, query, k, exact=exact, among=among)

    def search_exact(self, conn: psycopg.Connection, queries: Vectors, k: int) -> list[list[Hit]]:
        gone: frozenset[str] = frozenset()
        while True:
            found = exact.search(conn, self.version, queries, k, gone)
            more = self._nearest.gone(conn, sorted({hit.doc_id for hits in found for hit in hits}))
            if not more:
                return found
            gone |= more

    def distances(self, conn: psycopg.Connection, query: Vectors, doc_ids: Sequence[str]) -> dict[str, float]:
        with self._unless_retired():
            return self._nearest.distances(conn, query, doc_ids) if doc_ids else {}

    @contextmanager
    def _writing(self, conn: psycopg.Connection) -> Iterator[None]:
        """One write transaction. It ends by itself when its worker freezes."""
        with self._unless_retired(), conn.transaction():
            conn.execute(queries("commit_lazily"))
            yield

    @contextmanager
    def _unless_retired(self) -> Iterator[None]:
        """VersionRetired when the version's table has gone while work for it was under way."""
        try:
            yield
        except psycopg.errors.UndefinedTable as gone:
            if f"{self.version.index}__{self.version.name}" not in str(gone.diag.message_primary):
                raise  # It is the documents' own that is missing.
            raise VersionRetired(
                f"Version {self.version.name} of {self.version.index} was retired meanwhile; nothing more is written to it.",
                next_step=f"Run: embed-pipeline status {self.version.index}",
            ) from gone

    def _stored_hashes(self, conn: psycopg.Connection, doc_ids: list[str]) -> dict[str, bytes]:
        query = queries("stored_hashes", table=self.version.table)
        return {doc_id: bytes(digest) for doc_id, digest in conn.execute(query, {"doc_ids": doc_ids})}

    def _whole_hashes(self, conn: psycopg.Connection, doc_ids: list[str]) -> dict[str, bytes]:
        if not self.version.is_chunked:
            return self._stored_hashes(conn, doc_ids)
        query = queries("whole_hashes", table=self.version.table, is_whole=queries("is_whole", table=self.version.table))
        return {doc_id: bytes(digest) for doc_id, digest in conn.execute(query, {"doc_ids": doc_ids})}

    def _names(self) -> dict[str, Any]:
        return {"index": self.version.index, "version": self.version.name}
