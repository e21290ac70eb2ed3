"""A VersionStore in this process's memory, for tests: exact search, and every guard in one transaction of the ledger, behind one lock."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from embed_pipeline.catalog import dead_letters, partitions
from embed_pipeline.catalog import ledger as ledgers
from embed_pipeline.catalog.partitions import Fence
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import filters, queue
from embed_pipeline.documents.filters import Filters
from embed_pipeline.documents.queue import Claim
from embed_pipeline.documents.ranges import ALL_KEYS, KeyRange
from embed_pipeline.documents.selection import EVERYTHING, Document, Selection, Shown
from embed_pipeline.documents.shape import Horizon
from embed_pipeline.documents.source import Source
from embed_pipeline.documents.texts import DocumentText, Rejection
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.errors import ConfigurationError, VersionRetired
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.signals import signal
from embed_pipeline.stores import compare, ledger
from embed_pipeline.stores.distances import distances_to
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
from embed_pipeline.testing.held import Entry, Key, Room, entries_of, rooms

queries = Queries(__file__, "memory.sql")

# Hits that are looked up at once.
PORTION = 1_000
EXACT = AnnIndex(
    1, valid=True, bytes=0, note="every search compares with every vector: there is no ANN index, and ANN recall says nothing"
)


class MemoryStore:
    """VersionStore over the memory of this process."""

    def __init__(self, version: Version, source: Source) -> None:
        self.version = version
        self.source = source
        self._missing = ledger.Missing(source, version, sql.SQL(""))
        self._filters = Filters(source)
        self._shown = Shown(source)
        self._ledger: Key | None = None

    # Room for the version

    def prepare(self, conn: psycopg.Connection) -> None:
        """Nothing: `create` takes no time."""

    def create(self, conn: psycopg.Connection) -> None:
        """What is undone with the transaction leaves an empty room behind."""
        rooms.setdefault(self._key(conn), Room())

    def index_payload(self, conn: psycopg.Connection) -> None:
        """Nothing: searches filter by the documents' own columns."""

    def gone(self, conn: psycopg.Connection) -> str:
        return "" if self._key(conn) in rooms else "its vectors are not in the memory of this process"

    def require_ours(self, conn: psycopg.Connection) -> None:
        """Nothing: no other ledger's are under this key."""

    def drop(self, conn: psycopg.Connection) -> None:
        rooms.pop(self._key(conn), None)

    def serve(self, conn: psycopg.Connection, generation: int) -> None:
        """Nothing: every reader learns from the catalog which version serves."""

    def pressure(self) -> StorePressure:
        """Always go."""
        return StorePressure()

    def tables(self) -> tuple[sql.Identifier, ...]:
        return ()

    def close(self) -> None:
        """Nothing: the vectors stay for the other stores of this process."""

    def _key(self, conn: psycopg.Connection) -> Key:
        if self._ledger is None:
            ours = ledgers.read(conn)
            self._ledger = (ours.id, ours.system, ours.database)
        return (*self._ledger, self.version.index, self.version.name, self.version.fingerprint)

    def room(self, conn: psycopg.Connection) -> Room:
        """Where the version's vectors are. VersionRetired where this process has none."""
        found = rooms.get(self._key(conn))
        if found is None:
            raise VersionRetired(
                f"Version {self.version.name} of {self.version.index} was retired, or its vectors are in another process's memory.",
                next_step=f"Run: embed-pipeline status {self.version.index}",
            )
        return found

    # Backfill

    def missing(self, conn: psycopg.Connection, within: KeyRange, *, begun: bool) -> list[DocumentText]:
        entries = self.room(conn).entries
        return [each for each in self._missing.documents(conn, within) if each.doc_id not in entries]

    def holds(self, conn: psycopg.Connection, batch: EmbeddedBatch) -> set[str]:
        return self._with_hash(self.room(conn), dict(zip(batch.doc_ids, batch.hashes, strict=True)))

    def insert_new(self, conn: psycopg.Connection, batch: EmbeddedBatch, fence: Fence) -> set[str]:
        room = self.room(conn)
        with room.changing(conn) as changes:
            partitions.hold(conn, fence)
            new = {doc_id for doc_id in batch.doc_ids if doc_id not in room.entries}
            for doc_id, entry in self._entries(conn, batch, new, fence.partition):
                changes.put(doc_id, entry)
        signal("store.committed")
        return new

    # Dual-write

    def replace(self, conn: psycopg.Connection, claim: Claim, batch: EmbeddedBatch) -> set[str]:
        with self.room(conn).changing(conn) as changes:
            mine = queue.lock_claimed(conn, claim, batch.doc_ids)
            for doc_id, entry in self._entries(conn, batch, set(mine), None):
                changes.put(doc_id, entry)
            dead_letters.forget(conn, self.version.index, self.version.name, mine)
            queue.acknowledge(conn, claim, mine)
        signal("store.committed")
        return set(mine)

    def reject(self, conn: psycopg.Connection, by: Claim | Fence, letters: Mapping[str, Rejection]) -> set[str]:
        room = self.room(conn)
        with room.changing(conn) as changes:
            if isinstance(by, Fence):
                partitions.hold(conn, by)
                # Who has a vector by now needs no letter; what is wrong with either, the comparison of the partition finds.
                aside = sorted(letters.keys() - room.entries.keys())
            else:
                aside = queue.lock_claimed(conn, by, letters)
                for doc_id in aside:
                    changes.put(doc_id, None)
            dead_letters.add(conn, self.version.index, self.version.name, {doc_id: letters[doc_id] for doc_id in aside})
            if isinstance(by, Claim):
                queue.acknowledge(conn, by, aside)
        return set(aside)

    def settle(self, conn: psycopg.Connection, claim: Claim, current: Mapping[str, bytes]) -> set[str]:
        room = self.room(conn)
        with room.changing(conn) as changes:
            mine = queue.lock_claimed(conn, claim, claim.seqs)
            for doc_id in mine:
                if doc_id not in current:
                    changes.put(doc_id, None)
            done = sorted(
                set(mine) - current.keys() | self._with_hash(room, {each: current[each] for each in mine if each in current})
            )
            dead_letters.forget(conn, self.version.index, self.version.name, done)
            queue.acknowledge(conn, claim, done)
        return set(done)

    def _entries(
        self, conn: psycopg.Connection, batch: EmbeddedBatch, wanted: set[str], partition: str | None
    ) -> Iterator[tuple[str, Entry]]:
        # By the clock that `written_since` is asked by.
        row = conn.execute(queries("now")).fetchone()
        assert row is not None
        return entries_of(batch, wanted, partition, row[0], half=self.version.precision == "halfvec")

    def _with_hash(self, room: Room, hashes: Mapping[str, bytes]) -> set[str]:
        """Those that are held with the very hash."""
        found = {doc_id: room.entries.get(doc_id) for doc_id in hashes}
        return {doc_id for doc_id, entry in found.items() if entry is not None and entry.source_hash == hashes[doc_id]}

    # Verification

    def stored_ids(self, conn: psycopg.Connection) -> Iterator[list[str]]:
        ids = sorted(self.room(conn).entries)
        for start in range(0, len(ids), PORTION):
            yield ids[start : start + PORTION]

    def stored_vectors(self, conn: psycopg.Connection, doc_ids: Sequence[str]) -> dict[str, StoredVectors]:
        found = {doc_id: self.room(conn).entries.get(doc_id) for doc_id in doc_ids}
        return {
            doc_id: StoredVectors(entry.source_hash, entry.vectors, entry.offsets)
            for doc_id, entry in found.items()
            if entry is not None
        }

    def written_since(self, conn: psycopg.Connection, moment: datetime, limit: int) -> list[str]:
        entries = list(self.room(conn).entries.items())
        newest = sorted(entries, key=lambda each: each[1].written_at, reverse=True)
        return [doc_id for doc_id, entry in newest if entry.written_at > moment][:limit]

    def labels(self, conn: psycopg.Connection) -> Labels:
        """No vector of another fingerprint is under the version's key."""
        return Labels(self._vectors(self.room(conn)), 0)

    def _vectors(self, room: Room) -> int:
        return sum(len(entry.vectors) for entry in list(room.entries.values()))

    def compare(
        self, conn: psycopg.Connection, ranges: Sequence[KeyRange], *, orphans: bool, since: Horizon | None = None
    ) -> Found:
        """`since` makes no difference: everything is compared."""
        room = self.room(conn)
        with room.lock:
            return self._compare(conn, room, ranges, sorted(room.entries) if orphans else None)

    def compare_partition(self, conn: psycopg.Connection, partition: KeyRange, filled: Filled | None) -> Found:
        room = self.room(conn)
        with room.lock:
            written = sorted(doc_id for doc_id, entry in room.entries.items() if entry.partition == partition.partition)
            return self._compare(conn, room, [partition], written)

    def coverage(self, conn: psycopg.Connection, since: Horizon | None = None) -> Coverage:
        room = self.room(conn)
        with room.lock:
            return self.compare(conn, [ALL_KEYS], orphans=True).coverage(self._vectors(room))

    def _compare(self, conn: psycopg.Connection, room: Room, ranges: Sequence[KeyRange], among: Sequence[str] | None) -> Found:
        """With the room's lock nothing is written meanwhile, so that what is held and the ledger are of one moment."""
        stored = compare.Stored(
            relation=sql.SQL("pg_temp.embed_pipeline_held"), differs=queries("differs", source_hash=self.source.source_hash())
        )
        with _copied(conn, room):
            comparison = compare.Comparison(conn, self.source, self.version, stored)
            for each in ranges:
                comparison.documents(each)
            if among is not None:
                comparison.orphans([among[start : start + PORTION] for start in range(0, len(among), PORTION)])
            return comparison.found

    # ANN index and search

    def ann_index(self, conn: psycopg.Connection) -> AnnIndex | None:
        return None if self.gone(conn) else EXACT

    def build_ann_index(self, conn: psycopg.Connection, progress: Callable[[str, float], None] | None = None) -> AnnIndex:
        self.room(conn)
        return EXACT

    def search(
        self, conn: psycopg.Connection, query: Vectors, k: int, *, exact: bool = False, among: Selection = EVERYTHING
    ) -> list[Hit]:
        ranked = self._ranked(list(self.room(conn).entries.items()), query)
        signal("search.found")
        try:
            return self._chosen(conn, ranked, k, among)
        except psycopg.errors.InsufficientPrivilege as problem:
            raise ConfigurationError(
                f"This role may not search here: {problem.diag.message_primary}.",
                next_step=f"Grant it SELECT on all tables of the schema embed_pipeline, and on {self.source}.",
            ) from problem
        except psycopg.errors.UndefinedColumn as problem:
            raise ConfigurationError(
                f"{self.source} has no such column: {problem.diag.message_primary}.", next_step="Ask for its columns."
            ) from problem

    def search_exact(self, conn: psycopg.Connection, queries: Vectors, k: int) -> list[list[Hit]]:
        return [self.search(conn, query, k, exact=True) for query in queries]

    def distances(self, conn: psycopg.Connection, query: Vectors, doc_ids: Sequence[str]) -> dict[str, float]:
        # What waits is asked for first: what is worked off in between has been written then, and is read as it is now.
        waiting = {doc_id for (doc_id,) in conn.execute(queries("waiting"), self._names(doc_ids))}
        entries = self.room(conn).entries
        found = [(doc_id, entries.get(doc_id)) for doc_id in doc_ids if doc_id not in waiting]
        hits = self._ranked([(doc_id, entry) for doc_id, entry in found if entry is not None], query)
        return {hit.doc_id: hit.distance for hit in hits if not math.isnan(hit.distance)}

    def count(self, conn: psycopg.Connection) -> int:
        """0 also when they are gone: a retire that died after removing them must be able to finish."""
        return 0 if self.gone(conn) else len(self.room(conn).entries)

    def size_bytes(self, conn: psycopg.Connection) -> int:
        return 0 if self.gone(conn) else sum(each.vectors.nbytes for each in list(self.room(conn).entries.values()))

    def _ranked(self, entries: Sequence[tuple[str, Entry]], query: Vectors) -> list[Hit]:
        """Each document by its nearest passage, nearest first."""
        if not entries:
            return []
        apart = distances_to(np.concatenate([entry.vectors for _, entry in entries]), query, self.version.distance)
        hits, first = [], 0
        for doc_id, entry in entries:
            own = apart[first : first + len(entry.vectors)]
            first += len(own)
            chunk = int(np.argmin(own))
            place = (None, None) if entry.offsets is None else entry.offsets[chunk]
            hits.append(Hit(doc_id, chunk, float(own[chunk]), *place))
        return sorted(hits, key=lambda hit: hit.distance)

    def _chosen(self, conn: psycopg.Connection, ranked: list[Hit], k: int, among: Selection) -> list[Hit]:
        """The first `k` whose documents are there and meet the selection."""
        self._filters.forget()
        values: dict[str, Any] = {}
        condition = filters.as_sql(self._filters.read(conn, among.where), values)
        kept: list[Hit] = []
        for start in range(0, len(ranked), max(k, PORTION)):
            portion = ranked[start : start + max(k, PORTION)]
            ids = [hit.doc_id for hit in portion]
            if among.is_everything:
                row = conn.execute(queries("gone"), self._names(ids)).fetchone()
                assert row is not None
                gone = set(row[0])
                kept += [hit for hit in portion if hit.doc_id not in gone]
            else:
                shown: dict[str, Document] = self._shown.read(conn, ids, among, condition, values)
                seen = [hit for hit in portion if hit.doc_id in shown]
                kept += seen if among.columns is None else [hit._replace(document=shown[hit.doc_id]) for hit in seen]
            if len(kept) >= k:
                break
        return kept[:k]

    def _names(self, doc_ids: Sequence[str]) -> dict[str, Any]:
        return {"index": self.version.index, "version": self.version.name, "doc_ids": list(doc_ids)}


@contextmanager
def _copied(conn: psycopg.Connection, room: Room) -> Iterator[None]:
    """What is held in a temporary table, for the length of the block."""
    conn.execute(queries("drop_held"))
    conn.execute(queries("create_held"))
    try:
        with conn.cursor() as cursor, cursor.copy(queries("copy_held")) as copy:
            for doc_id, entry in room.entries.items():
                copy.write_row((doc_id, entry.source_hash))
        yield
    finally:
        if not conn.closed:
            conn.execute(queries("drop_held"))
