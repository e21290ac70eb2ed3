"""Qdrant's VersionStore. A document is one point; `stores/guarded` writes it by compare-and-set on what was read of it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from embed_pipeline.catalog.partitions import Fence
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents.existing import ExistingDocument
from embed_pipeline.documents.queue import Claim
from embed_pipeline.documents.ranges import ALL_KEYS, KeyRange
from embed_pipeline.documents.selection import EVERYTHING, Selection
from embed_pipeline.documents.shape import Horizon
from embed_pipeline.documents.source import Source
from embed_pipeline.documents.texts import DocumentText, Rejection
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.spec import QdrantSpec
from embed_pipeline.stores import ledger
from embed_pipeline.stores.guarded import documents
from embed_pipeline.stores.guarded.documents import Now
from embed_pipeline.stores.guarded.writes import GuardedWrites
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
from embed_pipeline.stores.qdrant import adopting, engines, indexing, leaving, nearest, payload_indexes, pressure
from embed_pipeline.stores.qdrant import compare as compare_points
from embed_pipeline.stores.qdrant.engine import CollectionGone, VectorGone
from embed_pipeline.stores.qdrant.layout import open_layout
from embed_pipeline.stores.qdrant.points import Content, Stored
from embed_pipeline.stores.qdrant.version_points import VersionPoints


class QdrantStore:
    """VersionStore over Qdrant."""

    def __init__(self, version: Version, source: Source, spec: QdrantSpec) -> None:
        self.version = version
        self.source = replace(source, text_field=spec.text_field())
        self._engine = engines.take(spec)
        self._layout = open_layout(self._engine, spec, version.index, self.source)
        self._own = self._layout.own
        self._points = VersionPoints(self._engine, self._layout, version, self.source)
        self._writes: GuardedWrites[Stored, Content] = GuardedWrites(self._points, version, self.source)
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
        return self._writes.insert_new(conn, batch, fence)

    # Dual-write

    def replace(self, conn: psycopg.Connection, claim: Claim, batch: EmbeddedBatch) -> set[str]:
        return self._writes.replace(conn, claim, batch)

    def reject(self, conn: psycopg.Connection, by: Claim | Fence, letters: Mapping[str, Rejection]) -> set[str]:
        return self._writes.reject(conn, by, letters)

    def settle(self, conn: psycopg.Connection, claim: Claim, current: Mapping[str, bytes]) -> set[str]:
        return self._writes.settle(conn, claim, current)

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

        return self._writes.mark(conn, doc_ids, decide)

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
