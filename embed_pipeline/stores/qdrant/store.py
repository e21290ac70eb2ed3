"""Qdrant's VersionStore. A document is one point; every write of a point is a compare-and-set on what was read of it.

The order in each write is what makes it safe: read the points, then look at the documents in the ledger, then write what is still as
it was read. Whoever wrote in between has drawn another seq, and the write finds nothing to do. Whatever changes after the look is
queued, and will be written over ours. Nothing in PostgreSQL is locked while Qdrant is asked.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
from psycopg import sql

from embed_pipeline.catalog import dead_letters
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import queue
from embed_pipeline.documents.capture import CapturedVersion
from embed_pipeline.documents.existing import ExistingDocument
from embed_pipeline.documents.queue import Claim
from embed_pipeline.documents.ranges import KeyRange
from embed_pipeline.documents.source import Source
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.errors import ConfigurationError, VersionRetired
from embed_pipeline.signals import signal
from embed_pipeline.spec import QdrantSpec
from embed_pipeline.stores.protocol import AnnIndex, Coverage, EmbeddedBatch, Hit, Labels, MissingDocument, StorePressure
from embed_pipeline.stores.qdrant import adopting, compare, documents, engines, indexing, nearest, pressure
from embed_pipeline.stores.qdrant.documents import Now
from embed_pipeline.stores.qdrant.engine import CollectionGone, VectorGone
from embed_pipeline.stores.qdrant.ids import point_id
from embed_pipeline.stores.qdrant.layout import open_layout
from embed_pipeline.stores.qdrant.points import Content, Stored, provenance
from embed_pipeline.stores.qdrant.writes import Change, compare_and_set, read_points

# One document that is missing may stand behind thousands that are there.
SMALLEST_PAGE = 1_000
# Versions that share points get in each other's way; each round begins with what the other one has written.
ROUNDS = 8

Decide = Callable[[str, Stored | None, Now | None], Content | None]
"""What a document's point shall hold, from the point as read and the document as it is; None: leave it."""


class QdrantStore:
    """VersionStore over Qdrant."""

    def __init__(self, version: Version, source: Source, spec: QdrantSpec) -> None:
        self.version = version
        self.source = replace(source, text_field=spec.text_field())
        self._engine = engines.take(spec)
        self._layout = open_layout(self._engine, spec, version.index)
        self.place = self._layout.place(version)
        self._pressure = pressure.Watch(self._engine, self.place.collection, spec)
        self._further: frozenset[str] | None = None

    # Room for the version

    def prepare(self) -> None:
        self._layout.prepare(self.version)

    def create(self, conn: psycopg.Connection) -> None:
        """Nothing: a collection is made by `prepare`, outside of any transaction."""

    def drop(self, conn: psycopg.Connection) -> None:
        self._layout.drop(self.version)

    def captured(self) -> CapturedVersion:
        return CapturedVersion(self.version.name, payload=True)

    def tables(self) -> tuple[sql.Identifier, ...]:
        return ()

    def serve(self, generation: int) -> None:
        self._layout.serve(self.version, generation)

    def pressure(self) -> StorePressure:
        with self._unless_retired():
            return self._pressure.read()

    def close(self) -> None:
        engines.give_back(self._engine)

    def count(self, conn: psycopg.Connection) -> int:
        """0 also when the vectors are gone: a retire that died after removing them must be able to finish."""
        try:
            return compare.count(self._engine, self.place)
        except (CollectionGone, VectorGone):
            return 0

    def size_bytes(self, conn: psycopg.Connection) -> int:
        """Bytes of the vectors themselves: Qdrant does not tell what its files take."""
        width = 2 if self.version.precision == "halfvec" else 4
        return self.count(conn) * self.version.dimensions * width

    def labels(self, conn: psycopg.Connection) -> Labels:
        with self._unless_retired():
            return Labels(self.count(conn), compare.count_foreign(self._engine, self.place, self.version))

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
        """`unlocked` makes no difference: a document that the application has locked can be written here."""
        found: list[MissingDocument] = []
        size = max(limit, SMALLEST_PAGE)
        while True:
            page = documents.page(conn, self.source, self.version, within, after, size, unqueued=unqueued)
            there = self._read(page, vectors=False)
            signal("qdrant.paged")
            absent = [doc_id for doc_id in page if not self._is_there(there.get(doc_id))]
            wanted = absent[: limit - len(found)]
            # What was deleted since has no text; fewer than asked for would be taken for the end of the range.
            found += documents.texts(conn, self.source, wanted)
            whole = len(wanted) == len(absent)
            if len(found) == limit or (whole and len(page) < size):
                return found
            after = self.source.key_of(page[-1] if whole else wanted[-1])

    def holds(self, conn: psycopg.Connection, batch: EmbeddedBatch) -> set[str]:
        there = self._read(batch.doc_ids, vectors=False)
        wanted = zip(batch.doc_ids, batch.hashes, strict=True)
        return {doc_id for doc_id, digest in wanted if self._hash(there.get(doc_id)) == digest.hex()}

    # Guarded writes

    def insert_new(self, conn: psycopg.Connection, batch: EmbeddedBatch) -> set[str]:
        contents = self._contents(batch)

        def decide(doc_id: str, read: Stored | None, now: Now | None) -> Content | None:
            if now is None or self._is_there(read) or now.source_hash != contents[doc_id][0]:
                return None
            return self._with_vector(doc_id, read, now, contents[doc_id])

        with documents.writing(conn, self.version.index):
            written = self._change(conn, batch.doc_ids, decide)
        signal("store.committed")
        return written

    def replace(self, conn: psycopg.Connection, claim: Claim, batch: EmbeddedBatch) -> set[str]:
        contents = self._contents(batch)

        def decide(doc_id: str, read: Stored | None, now: Now | None) -> Content | None:
            if now is None or now.source_hash != contents[doc_id][0]:
                return None
            return self._with_vector(doc_id, read, now, contents[doc_id])

        with documents.writing(conn, self.version.index):
            written = self._change(conn, batch.doc_ids, decide)
        signal("store.committed")
        return self._acknowledge(conn, claim, written)

    def reject(self, conn: psycopg.Connection, claim: Claim | None, letters: Mapping[str, tuple[bytes, str]]) -> set[str]:
        if not letters:
            return set()

        def decide(doc_id: str, read: Stored | None, now: Now | None) -> Content | None:
            if now is None or now.source_hash != letters[doc_id][0] or (claim is None and self._is_there(read)):
                return None
            # Written even when there is nothing to take away: a backfill's insert that is on its way must find the point taken.
            return self._document(doc_id, read, now).without(self.version.name, self.place.vector)

        with documents.writing(conn, self.version.index):
            emptied = self._change(conn, list(letters), decide)
        signal("reject.emptied")
        with conn.transaction():
            mine = emptied if claim is None else set(queue.still_mine(conn, claim, emptied))
            set_aside = documents.unchanged(conn, self.source, {doc_id: letters[doc_id][0] for doc_id in mine})
            dead_letters.add(conn, self.version.index, self.version.name, {doc_id: letters[doc_id] for doc_id in set_aside})
            if claim is not None:
                queue.acknowledge(conn, claim, sorted(set_aside))
        return set_aside

    def settle(self, conn: psycopg.Connection, claim: Claim, current: Mapping[str, bytes]) -> set[str]:
        """Writes a new seq also where nothing has to change: a worker that lost this claim and is about to write must find it gone."""

        def decide(doc_id: str, read: Stored | None, now: Now | None) -> Content | None:
            if now is None:
                return _tombstone(doc_id)
            if read is None or self._hash(read) != now.source_hash.hex() or self.place.vector not in read.vectors:
                return None
            return self._document(doc_id, read, now)

        with documents.writing(conn, self.version.index):
            written = self._change(conn, list(claim.seqs), decide, keep_own=True)
        return self._acknowledge(conn, claim, written)

    def _change(self, conn: psycopg.Connection, doc_ids: Sequence[str], decide: Decide, *, keep_own: bool = False) -> set[str]:
        """Read, look, decide, write; what somebody else wrote meanwhile goes round again. Returns the documents written."""
        done: set[str] = set()
        left = list(doc_ids)
        for _ in range(ROUNDS):
            if not left:
                break
            with self._unless_retired():
                changes = self._decided(conn, left, decide, keep_own)
                if not changes:
                    break
                seq = queue.next_seq(conn)
                signal("qdrant.decided")
                try:
                    written = compare_and_set(self._engine, self.place.collection, self.version.name, list(changes.values()), seq)
                except VectorGone:
                    # Another version of these points was retired between reading and writing.
                    if not self._has_vector():
                        raise
                    continue
            done |= {doc_id for doc_id, change in changes.items() if change.id in written}
            left = [doc_id for doc_id in changes if doc_id not in done]
        return done

    def _decided(self, conn: psycopg.Connection, doc_ids: Sequence[str], decide: Decide, keep_own: bool) -> dict[str, Change]:
        there = self._read(doc_ids, vectors=keep_own or self._has_further_vectors())
        signal("qdrant.read")
        # In this order: what the ledger says is younger than what was read of the points.
        now = documents.look(conn, self.source, doc_ids)
        changes = {}
        for doc_id in doc_ids:
            read = there.get(doc_id)
            content = decide(doc_id, read, now.get(doc_id))
            if content is not None:
                changes[doc_id] = Change(point_id(doc_id), content, read, self.source.text_field)
        further = self._further_vectors()
        if not further:
            return changes
        return adopting.with_further(self._engine, self._layout.beside(self.version), further, changes)

    def _acknowledge(self, conn: psycopg.Connection, claim: Claim, doc_ids: set[str]) -> set[str]:
        """In one transaction, and only for what is still claimed: else a letter that another worker has just written would go."""
        with conn.transaction():
            mine = queue.still_mine(conn, claim, doc_ids)
            dead_letters.forget(conn, self.version.index, self.version.name, mine)
            queue.acknowledge(conn, claim, mine)
        return set(mine)

    def _contents(self, batch: EmbeddedBatch) -> dict[str, tuple[bytes, Any, dict[str, Any]]]:
        """Document -> (hash, vector, provenance)."""
        contents = {}
        start = 0
        for doc_id, digest, chunks in zip(batch.doc_ids, batch.hashes, batch.chunks, strict=True):
            rows = batch.vectors[start : start + chunks]
            offsets = None if batch.offsets is None else batch.offsets[start : start + chunks].tolist()
            vector = rows.tolist() if self.version.is_chunked else rows[0].tolist()
            contents[doc_id] = (digest, vector, provenance(self.version, digest, chunks, offsets))
            start += chunks
        return contents

    def _document(self, doc_id: str, read: Stored | None, now: Now) -> Content:
        """The point of a document that is there: its payload as the ledger has it, its vectors and their labels as they were read."""
        vectors = {} if read is None else read.vectors
        labels = {} if read is None else read.versions
        if self.place.shared:
            # A label whose vector is gone is of a version that is being retired: written back, it would outlive it.
            labels = {
                name: label
                for name, label in labels.items()
                if name == self.version.name or self._layout.vector_of(name, str(label.get("fingerprint"))) in vectors
            }
        return Content(doc_id, vectors, labels, payload=now.payload, payload_hash=now.payload_hash)

    def _with_vector(self, doc_id: str, read: Stored | None, now: Now, new: tuple[bytes, Any, dict[str, Any]]) -> Content:
        found = self._document(doc_id, read, now).without(self.version.name, self.place.vector)
        return Content(
            doc_id=doc_id,
            vectors={**found.vectors, self.place.vector: new[1]},
            versions={**found.versions, self.version.name: new[2]},
            payload=found.payload,
            payload_hash=found.payload_hash,
        )

    def _read(self, doc_ids: Sequence[str], *, vectors: bool) -> dict[str, Stored]:
        ids = {point_id(doc_id): doc_id for doc_id in doc_ids}
        with self._unless_retired():
            found = read_points(self._engine, self.place.collection, list(ids), vectors=vectors)
        return {ids[each]: point for each, point in found.items()}

    def _hash(self, read: Stored | None) -> str | None:
        """source_hash of this version's vector; None also when what stands there is of another space under this version's name."""
        found = None if read is None else read.versions.get(self.version.name)
        if found is None or found.get("fingerprint") != self.version.fingerprint:
            return None
        return found.get("source_hash")

    def _is_there(self, read: Stored | None) -> bool:
        return self._hash(read) is not None

    def _has_further_vectors(self) -> bool:
        """Whether points have vectors that are not this version's, which a write must carry along."""
        return self.place.shared or bool(self._further_vectors())

    def _further_vectors(self) -> frozenset[str]:
        """Names of the vectors in a collection of this version's own that are not the version's. Shared points have all in one."""
        if self._further is None:
            self._further = frozenset() if self.place.shared else compare.further_vectors(self._engine, self.place)
        return self._further

    def _has_vector(self) -> bool:
        return compare.has_vector(self._engine, self.place)

    @contextmanager
    def _unless_retired(self) -> Iterator[None]:
        """VersionRetired when the version's vectors have gone while work for it was under way."""
        try:
            yield
        except (CollectionGone, VectorGone) as gone:
            raise VersionRetired(
                f"Version {self.version.name} of {self.version.index} was retired meanwhile, or its collection "
                f"{self.place.collection} was removed; nothing more is written to it.",
                next_step=f"Run: embed-pipeline status {self.version.index}",
            ) from gone

    # Adoption of what was there before

    def existing(self, after: Any = None) -> tuple[list[ExistingDocument], Any]:
        with self._unless_retired():
            return adopting.page(self._engine, self.place, self._text_field(), after)

    def count_existing(self) -> tuple[int, int]:
        with self._unless_retired():
            return adopting.count(self._engine, self.place)

    def existing_vectors(self, doc_ids: Sequence[str]) -> dict[str, Any]:
        with self._unless_retired():
            return adopting.vectors(self._engine, self.place, doc_ids)

    def mark(self, conn: psycopg.Connection, doc_ids: Sequence[str]) -> set[str]:
        def decide(doc_id: str, read: Stored | None, now: Now | None) -> Content | None:
            return adopting.marked(self.version, self.place, self._text_field(), doc_id, read, now)

        with documents.writing(conn, self.version.index):
            return self._change(conn, doc_ids, decide, keep_own=True)

    def _text_field(self) -> str:
        if self.source.text_field is None:
            raise ConfigurationError(
                f"The store of index {self.version.index!r} declares nothing to adopt.",
                next_step="Declare store.adopt in the index's defs.yaml.",
            )
        return self.source.text_field

    # Verification

    def coverage(self, conn: psycopg.Connection) -> Coverage:
        with self._unless_retired(), compare.seen(conn, self._engine, self.place, self.version):
            found = compare.coverage(conn, self._engine, self.place, self.version, self.source)
        if not found.differences:
            self._sweep(conn)
        return found

    def enqueue_differences(self, conn: psycopg.Connection, unfilled: Sequence[KeyRange] = ()) -> int:
        with self._unless_retired(), compare.seen(conn, self._engine, self.place, self.version):
            different = compare.differences(conn, self._engine, self.place, self.version, self.source, unfilled)
        ids = sorted(different)
        queue.enqueue(conn, self.version.index, self.version.name, ids)
        return len(ids)

    def _sweep(self, conn: psycopg.Connection) -> None:
        with documents.nobody_writing(conn, self.version.index) as alone:
            if alone:
                compare.sweep_tombstones(self._engine, self.place)

    # ANN index

    def ann_index(self, conn: psycopg.Connection) -> AnnIndex | None:
        identity = zlib.crc32(f"{self.place.collection}/{self.place.vector}".encode())
        return indexing.find(self._engine, self.place, identity)

    def build_ann_index(self, conn: psycopg.Connection, progress: Callable[[str, float], None] | None = None) -> AnnIndex:
        with self._unless_retired():
            indexing.build(self._engine, self.place, progress)
        built = self.ann_index(conn)
        assert built is not None
        return built

    # Search

    def search(
        self, conn: psycopg.Connection, query: Vectors, k: int, *, exact: bool = False, where: Mapping[str, Any] | None = None
    ) -> list[Hit]:
        condition = nearest.condition(self.source, where) if where else None
        with self._unless_retired():
            return nearest.search(self._engine, self.place, self.version, query, k, exact=exact, condition=condition)


def _tombstone(doc_id: str) -> Content:
    """A deleted document, for as long as a write of it could still be on its way."""
    return Content(doc_id=doc_id, vectors={}, versions={}, deleted_at=compare.clock())
