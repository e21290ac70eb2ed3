"""Qdrant's VersionStore. A document is one point; every write of a point is a compare-and-set on what was read of it.

There is no transaction over Qdrant and the ledger: what makes each write safe is the order of its steps (`guarded.py`). Nothing that an
application could wait for is locked in PostgreSQL while Qdrant is asked.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from embed_pipeline.catalog import dead_letters, partitions
from embed_pipeline.catalog.partitions import Fence
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import queue
from embed_pipeline.documents.existing import ExistingDocument
from embed_pipeline.documents.queue import Claim
from embed_pipeline.documents.ranges import ALL_KEYS, KeyRange
from embed_pipeline.documents.selection import EVERYTHING, Selection
from embed_pipeline.documents.shape import Horizon
from embed_pipeline.documents.source import Source
from embed_pipeline.documents.texts import DocumentText, Rejection
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.postgres.connection import carried_on_within
from embed_pipeline.signals import signal
from embed_pipeline.spec import QdrantSpec
from embed_pipeline.stores import ledger
from embed_pipeline.stores.protocol import (
    AnnIndex,
    Coverage,
    EmbeddedBatch,
    Filled,
    Found,
    Hit,
    Labels,
    Leaving,
    StoredVectors,
    StorePressure,
)
from embed_pipeline.stores.qdrant import adopting, documents, engines, indexing, leaving, nearest, payload_indexes, pressure
from embed_pipeline.stores.qdrant import compare as compare_points
from embed_pipeline.stores.qdrant.documents import Now
from embed_pipeline.stores.qdrant.engine import CollectionGone, VectorGone
from embed_pipeline.stores.qdrant.guarded import GuardedPoints, Right, tombstone
from embed_pipeline.stores.qdrant.layout import open_layout
from embed_pipeline.stores.qdrant.points import Content, Stored


class QdrantStore:
    """VersionStore over Qdrant."""

    def __init__(self, version: Version, source: Source, spec: QdrantSpec) -> None:
        self.version = version
        self.source = replace(source, text_field=spec.text_field())
        self._engine = engines.take(spec)
        self._layout = open_layout(self._engine, spec, version.index, self.source)
        self._own = self._layout.own
        self._points = GuardedPoints(self._engine, self._layout, version, self.source)
        self.place = self._points.place
        self._departure = leaving.Departure(self._engine, self._layout, spec, version)
        self._nearest = nearest.Nearest(self._engine, self.place, version, self.source)
        self._pressure = pressure.Watch(self._engine, self.place.collection, spec)
        self._missing = ledger.Missing(source, version, sql.SQL(""))

    # Room for the version

    def prepare(self, conn: psycopg.Connection) -> None:
        self._layout.prepare(conn, self.version)

    def create(self, conn: psycopg.Connection) -> None:
        """Nothing: a collection is made by `prepare`, outside of any transaction."""

    def index_payload(self, conn: psycopg.Connection) -> None:
        with self._points.unless_retired():
            wanted = payload_indexes.wanted(self.version.name, self.source.payload_indexes, None)
            payload_indexes.make(self._own.writer(conn), self.place.collection, wanted)

    def drop(self, conn: psycopg.Connection) -> None:
        self._layout.drop(conn, self.version)

    def leaving(self, *, fields: bool) -> Leaving:
        return self._departure.words(fields=fields)

    def leave(self, conn: psycopg.Connection, *, fields: bool) -> None:
        self._departure.leave(conn, fields=fields)

    def tables(self) -> tuple[sql.Identifier, ...]:
        return ()

    def serve(self, conn: psycopg.Connection, generation: int) -> None:
        self._layout.serve(conn, self.version, generation)

    def require_ours(self, conn: psycopg.Connection) -> None:
        self._layout.require_ours(conn, self.version)

    def gone(self, conn: psycopg.Connection) -> str:
        return self._layout.gone(self.version)

    def whose(self, conn: psycopg.Connection) -> str | None:
        return self._own.whose(conn, self.place.collection)

    def untold(self) -> str:
        return self._layout.untold(self.version)

    def claim(self, conn: psycopg.Connection) -> None:
        self._own.claim(conn, self.place.collection)

    def pressure(self) -> StorePressure:
        with self._points.unless_retired():
            return self._pressure.read()

    def close(self) -> None:
        engines.give_back(self._engine)

    def count(self, conn: psycopg.Connection) -> int:
        """0 also when the vectors are gone: a retire that died after removing them must be able to finish."""
        try:
            return compare_points.count(self._engine, self.place)
        except (CollectionGone, VectorGone):
            return 0

    def size_bytes(self, conn: psycopg.Connection) -> int:
        """Bytes of the vectors themselves: Qdrant does not tell what its files take."""
        width = 2 if self.version.precision == "halfvec" else 4
        return self.count(conn) * self.version.dimensions * width

    def labels(self, conn: psycopg.Connection) -> Labels:
        with self._points.unless_retired():
            return compare_points.labels(self._engine, self.place, self.version)

    # Backfill

    def missing(self, conn: psycopg.Connection, within: KeyRange, *, begun: bool) -> list[DocumentText]:
        found = self._missing.documents(conn, within)
        if not found:
            return found
        self._require_ours(conn)
        there = self._points.read([each.doc_id for each in found], vectors=False)
        return [each for each in found if self._points.hash(there.get(each.doc_id)) is None]

    def holds(self, conn: psycopg.Connection, batch: EmbeddedBatch) -> set[str]:
        self._require_ours(conn)
        there = self._points.read(batch.doc_ids, vectors=False)
        wanted = zip(batch.doc_ids, batch.hashes, strict=True)
        return {doc_id for doc_id, digest in wanted if self._points.hash(there.get(doc_id)) == digest.hex()}

    def insert_new(self, conn: psycopg.Connection, batch: EmbeddedBatch, fence: Fence) -> set[str]:
        contents = self._points.contents(batch, fence.number)
        hashes = dict(zip(batch.doc_ids, batch.hashes, strict=True))

        def decide(doc_id: str, read: Stored | None, now: Now | None) -> Content | None:
            # Whoever has changed it, or removed it, has queued that; and its text may have been set aside since.
            if now is None or now.source_hash != hashes[doc_id] or self._points.hash(read) is not None:
                return None
            return self._points.with_vector(doc_id, read, now, contents[doc_id])

        with documents.writing(conn, self.version.index):
            written = self._points.change(conn, batch.doc_ids, decide, partial(self._fenced, conn, fence))
        signal("store.committed")
        self._announce_gone(conn, batch.doc_ids)
        return written

    def _announce_gone(self, conn: psycopg.Connection, doc_ids: Sequence[str]) -> None:
        """A TRUNCATE announces what it finds stored, and may have looked before these were. What is there now, it finds later."""
        gone = documents.gone(conn, self.source, doc_ids)
        queue.enqueue(conn, self.version.index, self.version.name, gone, removed=gone)

    @contextmanager
    def _fenced(self, conn: psycopg.Connection, fence: Fence, doc_ids: Sequence[str]) -> Iterator[Sequence[str]]:
        """Nobody closes the partition while the block writes: the comparison then sees what was written.

        The server ends the transaction of a process that is stopped in here, but of none that waits for Qdrant. What a stopped one has
        sent, or sends when it goes on, no fence can hold back: searches look every hit up. The documents are not looked at in here, or
        their table would be locked for as long as Qdrant takes.
        """
        with conn.transaction():
            carried_on_within(conn, self._engine.longest_call_seconds)
            partitions.hold(conn, fence)
            signal("insert_new.held")
            yield doc_ids
            signal("insert_new.written")

    # Dual-write

    def replace(self, conn: psycopg.Connection, claim: Claim, batch: EmbeddedBatch) -> set[str]:
        contents = self._points.contents(batch)

        def decide(doc_id: str, read: Stored | None, now: Now | None) -> Content | None:
            # That it is gone is queued: whoever claims it next removes the point.
            return None if now is None else self._points.with_vector(doc_id, read, now, contents[doc_id])

        with documents.writing(conn, self.version.index):
            written = self._points.change(conn, batch.doc_ids, decide, partial(_claimed, conn, claim))
        signal("store.committed")
        return self._acknowledge(conn, claim, written)

    def reject(self, conn: psycopg.Connection, by: Claim | Fence, letters: Mapping[str, Rejection]) -> set[str]:
        if not letters:
            return set()
        right: Right = partial(self._fenced, conn, by) if isinstance(by, Fence) else partial(_claimed, conn, by)

        def decide(doc_id: str, read: Stored | None, now: Now | None) -> Content | None:
            # Who has a vector by now needs no letter of a backfill.
            if now is None or (isinstance(by, Fence) and self._points.hash(read) is not None):
                return None
            # Written even when there is nothing to take away: an insert that is on its way must find the point taken.
            return self._points.without_vector(doc_id, read, now)

        with documents.writing(conn, self.version.index):
            emptied = self._points.change(conn, sorted(letters), decide, right)
        signal("reject.emptied")
        # Whoever has changed one since has queued it: a letter of a backfill would be about a text that is gone.
        now = documents.look(conn, self.source, sorted(emptied)) if isinstance(by, Fence) else {}
        with conn.transaction():
            if isinstance(by, Fence):
                partitions.hold(conn, by)
                aside = [doc_id for doc_id, found in now.items() if found.source_hash == letters[doc_id][0]]
            else:
                aside = queue.lock_claimed(conn, by, emptied)
            dead_letters.add(conn, self.version.index, self.version.name, {doc_id: letters[doc_id] for doc_id in aside})
            if isinstance(by, Claim):
                queue.acknowledge(conn, by, aside)
        return set(aside)

    def settle(self, conn: psycopg.Connection, claim: Claim, current: Mapping[str, bytes]) -> set[str]:
        """`current` is what the caller has seen; what counts is what the documents are after the points were read."""

        def decide(doc_id: str, read: Stored | None, now: Now | None) -> Content | None:
            if now is None:
                return tombstone(doc_id)
            if read is None or self._points.hash(read) != now.source_hash.hex() or not self._points.is_whole(read):
                return None
            # The same once more, under another seq: a worker that still holds an older text finds the point changed.
            return self._points.as_it_is(doc_id, read, now)

        with documents.writing(conn, self.version.index):
            written = self._points.change(conn, list(claim.seqs), decide, partial(_claimed, conn, claim), keep_own=True)
        return self._acknowledge(conn, claim, written)

    def _acknowledge(self, conn: psycopg.Connection, claim: Claim, doc_ids: set[str]) -> set[str]:
        """In one transaction, and only for what is still claimed: else a letter that another worker has just written would go."""
        with conn.transaction():
            mine = queue.lock_claimed(conn, claim, doc_ids)
            dead_letters.forget(conn, self.version.index, self.version.name, mine)
            queue.acknowledge(conn, claim, mine)
        return set(mine)

    # Adoption of what was there before

    def existing(self, after: Any = None) -> tuple[list[ExistingDocument], Any]:
        with self._points.unless_retired():
            return adopting.page(self._engine, self.place, self._text_field(), after)

    def count_existing(self) -> tuple[int, int]:
        with self._points.unless_retired():
            return adopting.count(self._engine, self.place)

    def has_existing(self) -> bool:
        with self._points.unless_retired():
            return adopting.is_there(self._engine, self.place)

    def existing_vectors(self, doc_ids: Sequence[str]) -> dict[str, Any]:
        with self._points.unless_retired():
            return adopting.vectors(self._engine, self.place, doc_ids)

    def mark(self, conn: psycopg.Connection, doc_ids: Sequence[str]) -> set[str]:
        def decide(doc_id: str, read: Stored | None, now: Now | None) -> Content | None:
            return adopting.marked(self.version, self.place, self._text_field(), doc_id, read, now)

        with documents.writing(conn, self.version.index):
            return self._points.change(conn, doc_ids, decide, nullcontext, keep_own=True)

    def _text_field(self) -> str:
        if self.source.text_field is None:
            raise ConfigurationError(
                f"The store of index {self.version.index!r} declares nothing to adopt.",
                next_step="Declare store.adopt in the index's defs.yaml.",
            )
        return self.source.text_field

    # Verification

    def stored_ids(self, conn: psycopg.Connection) -> Iterator[list[str]]:
        with self._points.unless_retired():
            yield from compare_points.stored_ids(self._engine, self.place)

    def stored_vectors(self, conn: psycopg.Connection, doc_ids: Sequence[str]) -> dict[str, StoredVectors]:
        found: dict[str, StoredVectors] = {}
        for doc_id, point in self._points.read(doc_ids, vectors=True).items():
            digest, vector = self._points.hash(point), point.vectors.get(self.place.vector)
            if digest is not None and vector is not None:
                vectors = np.asarray(vector, dtype=np.float32).reshape(-1, self.version.dimensions)
                offsets = point.versions[self.version.name].get("offsets")
                passages = None if offsets is None else tuple((int(start), int(end)) for start, end in offsets)
                found[doc_id] = StoredVectors(bytes.fromhex(digest), vectors, passages)
        return found

    def written_since(self, conn: psycopg.Connection, moment: datetime, limit: int) -> list[str]:
        with self._points.unless_retired():
            return compare_points.written_since(self._engine, self.place, self.version, moment, limit)

    def compare(
        self, conn: psycopg.Connection, ranges: Sequence[KeyRange], *, orphans: bool, since: Horizon | None = None
    ) -> Found:
        """`since` makes no difference: Qdrant does not tell what has changed since then."""
        if not ranges and not orphans:
            return Found()
        with self._comparing(conn) as comparing:
            comparing.see_everything()
            return comparing.compare(ranges, orphans=orphans)

    def compare_partition(self, conn: psycopg.Connection, partition: KeyRange, filled: Filled | None) -> Found:
        """The first run at a partition has announced its orphans itself, if it is the one that compares: only then Qdrant does not have
        to look through all points for those of the partition."""
        with self._comparing(conn) as comparing:
            comparing.see_documents(partition)
            if filled is None or filled.fence.epoch > 1:
                comparing.see_filled(partition)
            return comparing.compare([partition], orphans=True)

    def coverage(self, conn: psycopg.Connection, since: Horizon | None = None) -> Coverage:
        self._require_ours(conn)
        with self._comparing(conn) as comparing:
            comparing.see_everything()
            found = comparing.compare([ALL_KEYS], orphans=True).coverage(comparing.vectors())
        if not found.differences:
            self._sweep(conn)
        return found

    @contextmanager
    def _comparing(self, conn: psycopg.Connection) -> Iterator[compare_points.Comparing]:
        comparing = compare_points.comparing(conn, self._engine, self.place, self.version, self.source)
        with self._points.unless_retired(), comparing as found:
            yield found

    def _sweep(self, conn: psycopg.Connection) -> None:
        with documents.nobody_writing(conn, self.version.index) as alone:
            if alone:
                compare_points.sweep_tombstones(self._own.writer(conn), self.place)

    # ANN index

    def ann_index(self, conn: psycopg.Connection) -> AnnIndex | None:
        # What a gate has judged is the index as it is searched.
        searched = json.dumps(self.version.declared.store_config.get("search_params", {}), sort_keys=True)
        identity = zlib.crc32(f"{self.place.collection}/{self.place.vector}{'' if searched == '{}' else searched}".encode())
        return indexing.find(self._engine, self.place, identity)

    def build_ann_index(self, conn: psycopg.Connection, progress: Callable[[str, float], None] | None = None) -> AnnIndex:
        with self._points.unless_retired():
            indexing.build(self._own.writer(conn), self.place, progress)
        built = self.ann_index(conn)
        assert built is not None
        return built

    # Search

    def search(
        self, conn: psycopg.Connection, query: Vectors, k: int, *, exact: bool = False, among: Selection = EVERYTHING
    ) -> list[Hit]:
        with self._points.unless_retired():
            self._require_ours_to_read(conn)
            return self._nearest.search(conn, query, k, exact=exact, among=among)

    def distances(self, conn: psycopg.Connection, query: Vectors, doc_ids: Sequence[str]) -> dict[str, float]:
        with self._points.unless_retired():
            self._require_ours_to_read(conn)
            return self._nearest.distances(conn, query, doc_ids) if doc_ids else {}

    def _require_ours_to_read(self, conn: psycopg.Connection) -> None:
        try:
            self._own.require(conn, self.place.collection, to_read=True)
        except psycopg.errors.InsufficientPrivilege as problem:
            raise nearest.may_not_search(problem) from problem

    def _require_ours(self, conn: psycopg.Connection) -> None:
        """What another ledger has written is not what this version holds."""
        with self._points.unless_retired():
            self._own.require(conn, self.place.collection)

    def search_exact(self, conn: psycopg.Connection, queries: Vectors, k: int) -> list[list[Hit]]:
        with self._points.unless_retired():
            self._own.require(conn, self.place.collection, to_read=True)
            return self._nearest.search_exact(conn, queries, k)


@contextmanager
def _claimed(conn: psycopg.Connection, claim: Claim, doc_ids: Sequence[str]) -> Iterator[set[str]]:
    """Whoever takes a claim over writes every one of its points anew. So it is enough that it was ours after the points were read."""
    yield queue.still_claimed(conn, claim, doc_ids)
