"""pgvector: two tables for each version, in the same database as the documents, so that every guard is one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import psycopg
from pgvector import HalfVector, Vector
from psycopg import sql

from embed_pipeline.catalog import dead_letters
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import queue, ranges
from embed_pipeline.documents.capture import CapturedVersion
from embed_pipeline.documents.queue import Claim
from embed_pipeline.documents.ranges import KeyRange
from embed_pipeline.documents.source import Source
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.errors import ConfigurationError, VersionRetired
from embed_pipeline.postgres.connection import end_when_frozen, unhurried
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.signals import signal
from embed_pipeline.stores import copy_format, hnsw, passages
from embed_pipeline.stores.protocol import AnnIndex, Coverage, EmbeddedBatch, Hit, Labels, MissingDocument, StorePressure

queries = Queries(__file__, "pgvector.sql")
ledger = Queries(__file__, "ledger.sql")

OPERATORS = {"cosine": "<=>", "inner_product": "<#>", "l2": "<->"}

# How long a worker waits for another worker's uncommitted row before it lets go of everything and comes round again.
LOCK_WAIT_MS = 2_000
# The same of a backfill that has copied vectors already: it does the batch in another way then.
COPIED_WAIT_MS = 200

NO_VECTORS: Vectors = np.empty((0, 0), dtype=np.float32)


class PgvectorStore:
    """VersionStore over pgvector."""

    def __init__(self, version: Version, source: Source) -> None:
        self.version = version
        self.source = source
        self._tables: dict[str, sql.Composable] = {
            "version_documents": version.documents_table,
            "version_vectors": version.vectors_table,
        }
        self._vector_type = sql.SQL("{}({})").format(sql.Identifier(version.precision), sql.Literal(version.dimensions))

    # Tables

    def prepare(self) -> None:
        """Nothing: tables are made in the transaction that registers the version."""

    def create(self, conn: psycopg.Connection) -> None:
        pinned = {name: sql.Literal(getattr(self.version, name)) for name in ("model_name", "model_version", "fingerprint")}
        conn.execute(queries("create_documents", version_documents=self.version.documents_table, **pinned))
        row = conn.execute(queries("vector_schema")).fetchone()
        assert row is not None
        vector_type = sql.SQL("{}.{}").format(sql.Identifier(row[0]), self._vector_type)
        conn.execute(queries("create_vectors", version_vectors=self.version.vectors_table, vector_type=vector_type))

    def drop(self, conn: psycopg.Connection) -> None:
        conn.execute(queries("drop_tables", **self._tables))

    def serve(self, generation: int) -> None:
        """Nothing: every reader of these tables learns from the catalog which they are."""

    def pressure(self) -> StorePressure:
        """Always go: what burdens PostgreSQL is watched by the throttle itself."""
        return StorePressure()

    def tables(self) -> tuple[sql.Identifier, ...]:
        return (self.version.documents_table, self.version.vectors_table)

    def close(self) -> None:
        """Nothing: it has no connection of its own."""

    def captured(self) -> CapturedVersion:
        return CapturedVersion(self.version.name, self.version.documents_table, self.version.vectors_table)

    def size_bytes(self, conn: psycopg.Connection) -> int:
        names = {
            "documents": self.version.documents_table.as_string(conn),
            "vectors": self.version.vectors_table.as_string(conn),
        }
        row = conn.execute(queries("size"), names).fetchone()
        return int(row[0]) if row else 0

    def count(self, conn: psycopg.Connection) -> int:
        row = conn.execute(queries("count", version_documents=self.version.documents_table)).fetchone()
        return int(row[0]) if row else 0

    def labels(self, conn: psycopg.Connection) -> Labels:
        version = self.version
        values = {
            "index": version.index,
            "version": version.name,
            "model_name": version.model_name,
            "model_version": version.model_version,
            "fingerprint": version.fingerprint,
        }
        row = conn.execute(queries("labels"), values).fetchone()
        return Labels(0, 0) if row is None else Labels(*row)

    # Backfill reads

    def missing(
        self,
        conn: psycopg.Connection,
        within: KeyRange,
        after: list[str] | None,
        limit: int,
        *,
        unqueued: bool = False,
        unlocked: bool = False,
    ) -> list[MissingDocument]:
        parts = self.source.parts()
        # Usually there are none, and then a look at them for every document would be a tenth of the work.
        letters = dead_letters.count(conn, self.version.index, self.version.name) > 0
        query = queries(
            "missing",
            version_documents=self.version.documents_table,
            in_range=ranges.within(self.source, within.lower is not None, within.upper is not None, after is not None),
            without_dead_letters=ledger("without_dead_letters", doc_id=parts["doc_id"], source_hash=parts["source_hash"])
            if letters
            else sql.SQL(""),
            without_queued=ledger("without_queued", doc_id=parts["doc_id"]) if unqueued else sql.SQL(""),
            without_locked=queries("without_locked") if unlocked else sql.SQL(""),
            **{name: parts[name] for name in ("documents", "doc_id", "text", "source_hash", "key_columns")},
        )
        values = {
            "index": self.version.index,
            "version": self.version.name,
            "lower": within.lower,
            "upper": within.upper,
            "after": after,
            "limit": limit,
        }
        with self._unless_retired(), conn.transaction():
            conn.execute(ledger("by_key"))
            return [MissingDocument(*row) for row in conn.execute(query, values, binary=True)]

    def holds(self, conn: psycopg.Connection, batch: EmbeddedBatch) -> set[str]:
        stored = self._stored_hashes(conn, batch.doc_ids)
        return {doc_id for doc_id, digest in zip(batch.doc_ids, batch.hashes, strict=True) if stored.get(doc_id) == digest}

    # Guarded writes

    def insert_new(self, conn: psycopg.Connection, batch: EmbeddedBatch) -> set[str]:
        if not len(batch):
            return set()
        written = self._insert_copied(conn, batch)
        if written is None:
            written = self._insert_by_rows(conn, batch)
        signal("store.committed")
        return written

    def replace(self, conn: psycopg.Connection, claim: Claim, batch: EmbeddedBatch) -> set[str]:
        if not len(batch):
            return set()
        with self._writing(conn):
            # The source rows come first, while nothing is held: a table lock of the application is waited for with empty hands.
            current = self._lock_current(conn, dict(zip(batch.doc_ids, batch.hashes, strict=True)))
            conn.execute(queries("wait_briefly"), {"milliseconds": str(LOCK_WAIT_MS)})
            mine = [doc_id for doc_id in queue.still_mine(conn, claim, current) if doc_id in current]
            signal("replace.locked")
            self._delete(conn, mine)
            signal("replace.deleted")
            done = self._take_rows(conn, batch.only(set(mine)))
            signal("replace.inserted")
            self._insert_vectors(conn, batch, done)
            signal("replace.written")
            dead_letters.forget(conn, self.version.index, self.version.name, sorted(done))
            queue.acknowledge(conn, claim, sorted(done))
        signal("store.committed")
        return done

    def reject(self, conn: psycopg.Connection, claim: Claim | None, letters: Mapping[str, tuple[bytes, str]]) -> set[str]:
        if not letters:
            return set()
        with self._writing(conn):
            current = self._lock_current(conn, {doc_id: digest for doc_id, (digest, _) in letters.items()})
            conn.execute(queries("wait_briefly"), {"milliseconds": str(LOCK_WAIT_MS)})
            if claim is not None:
                current = set(queue.still_mine(conn, claim, current))
                # A text that can have no vector must not keep the vector of the text before.
                self._delete(conn, sorted(current))
            signal("reject.locked")
            # A backfill's insert that is not committed yet is not seen and not deleted. Taking the document's row waits for it.
            ids = sorted(current)
            taken = self._take_rows(conn, EmbeddedBatch(ids, [letters[each][0] for each in ids], [1] * len(ids), NO_VECTORS))
            self._delete(conn, sorted(taken))
            dead_letters.add(conn, self.version.index, self.version.name, {doc_id: letters[doc_id] for doc_id in taken})
            if claim is not None:
                queue.acknowledge(conn, claim, sorted(taken))
            return taken

    def settle(self, conn: psycopg.Connection, claim: Claim, current: Mapping[str, bytes]) -> set[str]:
        with self._writing(conn):
            # A worker whose lease was taken over settles nothing: what it read is older than what the new owner does.
            conn.execute(queries("wait_briefly"), {"milliseconds": str(LOCK_WAIT_MS)})
            mine = queue.still_mine(conn, claim, claim.seqs)
            signal("settle.locked")
            stored = self._stored_hashes(conn, mine)
            unchanged = {doc_id for doc_id in mine if doc_id in current and stored.get(doc_id) == current[doc_id]}
            gone = [doc_id for doc_id in mine if doc_id not in current]
            if gone:
                query = queries("delete_gone", **self._tables, **self._key_parts())
                self._delete_vectors(conn, [doc_id for (doc_id,) in conn.execute(query, {"doc_ids": gone})])
                # A row that is still there is locked by somebody, or the document came back: look again next time.
                left = self._stored_hashes(conn, gone)
                gone = [doc_id for doc_id in gone if doc_id not in left]
            done = unchanged | set(gone)
            # Also of what stands there already: a backfill may have written it after its text was mended.
            dead_letters.forget(conn, self.version.index, self.version.name, sorted(done))
            queue.acknowledge(conn, claim, sorted(done))
        return done

    @contextmanager
    def _writing(self, conn: psycopg.Connection) -> Iterator[None]:
        """One write transaction. It ends by itself when its worker freezes."""
        with self._unless_retired(), conn.transaction():
            end_when_frozen(conn)
            yield

    @contextmanager
    def _unless_retired(self) -> Iterator[None]:
        """VersionRetired when the version's tables have gone while work for it was under way."""
        try:
            yield
        except psycopg.errors.UndefinedTable as gone:
            raise VersionRetired(
                f"Version {self.version.name} of {self.version.index} was retired meanwhile; nothing more is written to it.",
                next_step=f"Run: embed-pipeline status {self.version.index}",
            ) from gone

    def _insert_copied(self, conn: psycopg.Connection, batch: EmbeddedBatch) -> set[str] | None:
        """Copy the vectors, then insert the documents' rows; None, with nothing done, when another worker is at one of them.

        The vectors come first, while nothing is held that an application could wait for: PostgreSQL looks at no timeout while a COPY
        waits for its rows, so nobody would throw out a worker that freezes there.
        """
        try:
            with self._writing(conn):
                # A dual-write takes the row first and the vectors then: who waits for it here might be waited for.
                conn.execute(queries("wait_briefly"), {"milliseconds": str(COPIED_WAIT_MS)})
                self._copy(conn, batch)
                signal("insert_new.copied")
                conn.execute(ledger("by_key"))
                written = set(batch.doc_ids) if self._insert_all(conn, batch) else self._insert_rows(conn, batch)
                signal("insert_new.inserted")
                if len(written) < len(batch):
                    # Changed, gone or held meanwhile: their vectors go again, before anybody has seen them.
                    self._delete_vectors(conn, [doc_id for doc_id in batch.doc_ids if doc_id not in written])
                signal("insert_new.written")
        except (psycopg.errors.UniqueViolation, psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            return None
        return written

    def _insert_by_rows(self, conn: psycopg.Connection, batch: EmbeddedBatch) -> set[str]:
        """The rows first and the vectors then, as a dual-write does it: slower, and whoever was first is waited for."""
        with self._writing(conn):
            conn.execute(ledger("by_key"))
            written = self._insert_rows(conn, batch)
            signal("insert_new.inserted")
            self._insert_vectors(conn, batch, written)
            signal("insert_new.written")
        return written

    def _insert_all(self, conn: psycopg.Connection, batch: EmbeddedBatch) -> bool:
        """All of the batch, or nothing and False: nearly always nobody was there first, and not expecting it is a quarter faster."""
        whole = False
        try:
            with suppress(psycopg.errors.UniqueViolation), conn.transaction():
                whole = self._insert(conn, batch, sql.SQL("")).rowcount == len(batch)
                if not whole:
                    raise psycopg.Rollback
        except psycopg.Rollback as unheard:
            # Nobody is left to roll it back: the server went away in that moment.
            raise psycopg.OperationalError("the connection was lost before a rollback") from unheard
        return whole

    def _insert_rows(self, conn: psycopg.Connection, batch: EmbeddedBatch) -> set[str]:
        """What can be inserted of the batch; whoever was first keeps the document's row."""
        return {doc_id for (doc_id,) in self._insert(conn, batch, queries("first_wins"))}

    def _insert(self, conn: psycopg.Connection, batch: EmbeddedBatch, first_wins: sql.Composable) -> psycopg.Cursor:
        query = queries(
            "insert_new",
            first_wins=first_wins,
            version_documents=self.version.documents_table,
            source_hash=self.source.source_hash(),
            **self._key_parts(),
        )
        return conn.execute(query, {"doc_ids": batch.doc_ids, "hashes": batch.hashes, "chunks": batch.chunks})

    def _take_rows(self, conn: psycopg.Connection, batch: EmbeddedBatch) -> set[str]:
        """Insert the rows of documents that this transaction has locked already; whoever was first keeps the document's row."""
        query = queries("take_rows", version_documents=self.version.documents_table)
        values = {"doc_ids": batch.doc_ids, "hashes": batch.hashes, "chunks": batch.chunks}
        return {doc_id for (doc_id,) in conn.execute(query, values)}

    def _lock_current(self, conn: psycopg.Connection, hashes: Mapping[str, bytes]) -> set[str]:
        query = queries("lock_current", source_hash=self.source.source_hash(), **self._key_parts())
        ids = sorted(hashes)
        values = {"doc_ids": ids, "hashes": [hashes[doc_id] for doc_id in ids]}
        return {doc_id for (doc_id,) in conn.execute(query, values)}

    def _delete(self, conn: psycopg.Connection, doc_ids: Sequence[str]) -> None:
        query = queries("delete_rows", version_documents=self.version.documents_table)
        self._delete_vectors(conn, [doc_id for (doc_id,) in conn.execute(query, {"doc_ids": list(doc_ids)})])

    def _delete_vectors(self, conn: psycopg.Connection, doc_ids: Sequence[str]) -> None:
        conn.execute(queries("delete_vectors", version_vectors=self.version.vectors_table), {"doc_ids": list(doc_ids)})

    def _copy(self, conn: psycopg.Connection, batch: EmbeddedBatch) -> None:
        name = "copy_vectors" if batch.offsets is None else "copy_passages"
        statement = queries(name, version_vectors=self.version.vectors_table)
        with conn.cursor() as cursor, cursor.copy(statement) as copy:
            for piece in copy_format.rows(batch, half=self.version.precision == "halfvec"):
                copy.write(piece)
                signal("store.copying")

    def _insert_vectors(self, conn: psycopg.Connection, batch: EmbeddedBatch, wanted: set[str]) -> None:
        """Vectors of `wanted`, whose document rows are this transaction's. In one message: whoever freezes in it is thrown out."""
        chosen = batch.only(wanted)
        if not len(chosen):
            return
        query = queries(
            "insert_vectors", version_vectors=self.version.vectors_table, vector_type=sql.Identifier(self.version.precision)
        )
        conn.execute(query, copy_format.columns(chosen, half=self.version.precision == "halfvec"))

    def _stored_hashes(self, conn: psycopg.Connection, doc_ids: list[str]) -> dict[str, bytes]:
        query = queries("stored_hashes", version_documents=self.version.documents_table)
        return {doc_id: bytes(digest) for doc_id, digest in conn.execute(query, {"doc_ids": doc_ids})}

    def _key_parts(self) -> dict[str, sql.Composable]:
        return {"documents": self.source.identifier, "key_is_wanted": self.source.key_matches(sql.SQL("w.doc_id"))}

    # Verification

    def coverage(self, conn: psycopg.Connection) -> Coverage:
        query = queries(
            "coverage",
            doc_id=self.source.doc_id(),
            source_hash=self.source.source_hash(),
            documents=self.source.identifier,
            **self._tables,
        )
        with unhurried(conn):
            row = conn.execute(query, {"index": self.version.index, "version": self.version.name}).fetchone()
        assert row is not None
        values = [*row[:9], tuple(row[9] or ())]
        return Coverage(*values)

    def enqueue_differences(self, conn: psycopg.Connection, unfilled: Sequence[KeyRange] = ()) -> int:
        values: dict[str, Any] = {"index": self.version.index, "version": self.version.name}
        query = queries(
            "enqueue_differences",
            doc_id=self.source.doc_id(),
            source_hash=self.source.source_hash(),
            version_documents=self.version.documents_table,
            is_unfilled=ranges.within_any(self.source, unfilled, values),
            **self._key_parts(),
        )
        with unhurried(conn):
            return conn.execute(query, values).rowcount

    # ANN index

    def ann_index(self, conn: psycopg.Connection) -> AnnIndex | None:
        return hnsw.find(conn, self.version)

    def build_ann_index(self, conn: psycopg.Connection, progress: Callable[[str, float], None] | None = None) -> AnnIndex:
        return hnsw.build(conn, self.version, progress)

    # Search

    def search(
        self, conn: psycopg.Connection, query: Vectors, k: int, *, exact: bool = False, where: Mapping[str, Any] | None = None
    ) -> list[Hit]:
        parts: dict[str, sql.Composable] = {
            "version_vectors": self.version.vectors_table,
            "operator": sql.SQL(OPERATORS[self.version.distance]),
            "vector_type": sql.Identifier(self.version.precision),
        }
        values: dict[str, Any] = {"query": self._wrapped(query), "k": k}
        name = "search"
        if where:
            name = "search_filtered"
            parts["documents"] = self.source.identifier
            parts["key_is_wanted"] = self.source.key_matches(sql.SQL("v.doc_id"))
            parts["condition"] = _equal(where, values)
        if self.version.is_chunked:
            parts["among"] = queries("among_filtered", **parts) if where else queries("among_all")
        settings = {
            "ef_search": str(max(k, int(self.version.spec.get("hnsw", {}).get("ef_search", 100)))),
            "iterative": "strict_order" if where or self.version.is_chunked else "off",
            "index_scan": "off" if exact and not self.version.is_chunked else "on",
            "seq_scan": "on",
        }
        try:
            if self.version.is_chunked:
                with conn.transaction():
                    conn.execute(queries("search_settings"), settings)
                    return passages.nearest_documents(conn, parts, values, k, exact=exact)
            with conn.transaction(), conn.pipeline():
                conn.execute(queries("search_settings"), settings)
                cursor = conn.execute(queries(name, **parts), values)
                rows = cursor.fetchall()
        except psycopg.errors.InsufficientPrivilege as problem:
            raise ConfigurationError(
                f"This role may not search here: {problem.diag.message_primary}.",
                next_step=f"Grant it SELECT on the version's tables, and on {self.source} when filtering.",
            ) from problem
        except psycopg.errors.UndefinedColumn as problem:
            raise ConfigurationError(
                f"{self.source} has no such column: {problem.diag.message_primary}.", next_step="Filter by one of its columns."
            ) from problem
        return [Hit(doc_id, chunk, distance) for doc_id, chunk, distance in rows]

    def _wrapped(self, query: Vectors) -> Vector | HalfVector:
        return HalfVector(query) if self.version.precision == "halfvec" else Vector(np.asarray(query, dtype=np.float32))


def _equal(where: Mapping[str, Any], values: dict[str, Any]) -> sql.Composable:
    conditions = []
    for number, (column, value) in enumerate(where.items()):
        name = f"where_{number}"
        values[name] = value
        conditions.append(sql.SQL("{} = {}").format(sql.Identifier("d", column), sql.Placeholder(name)))
    return sql.SQL(" AND ").join(conditions)
