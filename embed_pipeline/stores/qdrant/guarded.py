"""The points of one version: read, and written by compare-and-set on what was read.

The order in each write is what makes it safe: read the points, look at the documents in the ledger, ask whether the writer still may,
then write what is still as it was read. Whoever took the work over has written since, if only another seq, and the write finds nothing
to do; or it writes later, over ours. Whatever changes in the documents after the look is queued.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg

from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import queue
from embed_pipeline.documents.source import Source
from embed_pipeline.errors import VersionRetired
from embed_pipeline.signals import signal
from embed_pipeline.stores.protocol import EmbeddedBatch
from embed_pipeline.stores.qdrant import adopting, compare, documents
from embed_pipeline.stores.qdrant.documents import Now
from embed_pipeline.stores.qdrant.engine import CollectionGone, Engine, VectorGone
from embed_pipeline.stores.qdrant.ids import point_id
from embed_pipeline.stores.qdrant.layout import Layout
from embed_pipeline.stores.qdrant.points import Content, Stored, provenance
from embed_pipeline.stores.qdrant.writes import Change, compare_and_set, read_points

# Versions that share points get in each other's way; each round begins with what the other one has written.
ROUNDS = 8

Decide = Callable[[str, Stored | None, Now | None], Content | None]
"""What a document's point shall hold, from the point as read and the document as it is; None: leave it."""

Right = Callable[[Sequence[str]], AbstractContextManager[Collection[str]]]
"""Those of the documents that the writer may still write. Asked after their points were read, and held while they are written."""


class GuardedPoints:
    """One version's points. Thread-safe."""

    def __init__(self, engine: Engine, layout: Layout, version: Version, source: Source) -> None:
        self._engine = engine
        self._layout = layout
        self._version = version
        self._source = source
        self.place = layout.place(version)
        self._further: frozenset[str] | None = None

    def read(self, doc_ids: Sequence[str], *, vectors: bool) -> dict[str, Stored]:
        """The points of those documents that have one."""
        ids = {point_id(doc_id): doc_id for doc_id in doc_ids}
        with self.unless_retired():
            found = read_points(self._engine, self.place.collection, list(ids), vectors=vectors)
        return {ids[each]: point for each, point in found.items()}

    def change(
        self, conn: psycopg.Connection, doc_ids: Sequence[str], decide: Decide, right: Right, *, keep_own: bool = False
    ) -> set[str]:
        """Read, look, decide, write; what somebody else wrote meanwhile goes round again. Returns the documents written.

        `keep_own`: what is decided keeps the version's own vector as it was read.
        """
        done: set[str] = set()
        with self.unless_retired():
            # One request at a time is written under a right.
            most = self._engine.limits(self.place.collection).points_per_write
            for start in range(0, len(doc_ids), most):
                done |= self._change(conn, list(doc_ids[start : start + most]), decide, right, keep_own)
        return done

    def _change(self, conn: psycopg.Connection, doc_ids: list[str], decide: Decide, right: Right, keep_own: bool) -> set[str]:
        done: set[str] = set()
        left = doc_ids
        for _ in range(ROUNDS):
            if not left:
                break
            changes = self._decided(conn, left, decide, keep_own)
            left = []
            # Each is one request, and is asked for right before it: a process may be stopped between two.
            for is_new in (True, False):
                together = {doc_id: change for doc_id, change in changes.items() if (change.read is None) == is_new}
                if not together:
                    continue
                with right(list(together)) as mine:
                    wanted = {doc_id: change for doc_id, change in together.items() if doc_id in mine}
                    written = self._write(conn, list(wanted.values())) if wanted else set()
                done |= {doc_id for doc_id, change in wanted.items() if change.id in written}
                left += [doc_id for doc_id, change in wanted.items() if change.id not in written]
        return done

    def _decided(self, conn: psycopg.Connection, doc_ids: list[str], decide: Decide, keep_own: bool) -> dict[str, Change]:
        there = self.read(doc_ids, vectors=keep_own or self._has_further_vectors())
        signal("qdrant.read")
        # In this order: what the ledger says is younger than what was read of the points.
        now = documents.look(conn, self._source, doc_ids)
        changes = {}
        for doc_id in doc_ids:
            read = there.get(doc_id)
            content = decide(doc_id, read, now.get(doc_id))
            if content is not None:
                changes[doc_id] = Change(point_id(doc_id), content, read, self._source.text_field)
        further = self._further_vectors()
        if not further:
            return changes
        return adopting.with_further(self._engine, self._layout.beside(self._version), further, changes)

    def _write(self, conn: psycopg.Connection, changes: list[Change]) -> set[int | str]:
        seq = queue.next_seq(conn)
        signal("qdrant.decided")
        try:
            return compare_and_set(self._layout.own.writer(conn), self.place.collection, self._version.name, changes, seq)
        except VectorGone:
            # Another version of these points was retired between reading and writing.
            if not compare.has_vector(self._engine, self.place):
                raise
            return set()

    def contents(self, batch: EmbeddedBatch, partition: int | None = None) -> dict[str, NewVector]:
        """What the points of a batch shall hold of this version. `partition`: of the backfill that writes it."""
        contents: dict[str, NewVector] = {}
        start = 0
        for doc_id, digest, chunks in zip(batch.doc_ids, batch.hashes, batch.chunks, strict=True):
            rows = batch.vectors[start : start + chunks]
            offsets = None if batch.offsets is None else batch.offsets[start : start + chunks].tolist()
            vector = rows.tolist() if self._version.is_chunked else rows[0].tolist()
            contents[doc_id] = (vector, provenance(self._version, digest, chunks, offsets, partition))
            start += chunks
        return contents

    def with_vector(self, doc_id: str, read: Stored | None, now: Now, new: NewVector) -> Content:
        """The point with another vector of this version."""
        found = self.without_vector(doc_id, read, now)
        return Content(
            doc_id=doc_id,
            vectors={**found.vectors, self.place.vector: new[0]},
            versions={**found.versions, self._version.name: new[1]},
            payload=found.payload,
            payload_hash=found.payload_hash,
        )

    def without_vector(self, doc_id: str, read: Stored | None, now: Now) -> Content:
        """The point with nothing of this version."""
        return self.as_it_is(doc_id, read, now).without(self._version.name, self.place.vector)

    def as_it_is(self, doc_id: str, read: Stored | None, now: Now) -> Content:
        """The point of a document that is there: its payload as the ledger has it, its vectors and their labels as they were read."""
        vectors = {} if read is None else read.vectors
        labels = {} if read is None else read.versions
        if self.place.shared:
            # A label whose vector is gone is of a version that is being retired: written back, it would outlive it.
            labels = {
                name: label
                for name, label in labels.items()
                if name == self._version.name or self._layout.vector_of(name, str(label.get("fingerprint"))) in vectors
            }
        return Content(doc_id, vectors, labels, payload=now.payload, payload_hash=now.payload_hash)

    def hash(self, read: Stored | None) -> str | None:
        """source_hash of this version's vector; None also when what stands there is of another space under this version's name."""
        found = None if read is None else read.versions.get(self._version.name)
        if found is None or found.get("fingerprint") != self._version.fingerprint:
            return None
        return found.get("source_hash")

    def is_whole(self, read: Stored) -> bool:
        """Whether the vector that the label speaks of is there, with every passage. `read` with vectors."""
        vector = read.vectors.get(self.place.vector)
        if vector is None or not self._version.is_chunked:
            return vector is not None
        return len(vector) == read.versions.get(self._version.name, {}).get("chunks")

    def _has_further_vectors(self) -> bool:
        """Whether points have vectors that are not this version's, which a write must carry along."""
        return self.place.shared or bool(self._further_vectors())

    def _further_vectors(self) -> frozenset[str]:
        """Names of the vectors in a collection of this version's own that are not the version's. Shared points have all in one."""
        if self._further is None:
            self._further = frozenset() if self.place.shared else compare.further_vectors(self._engine, self.place)
        return self._further

    @contextmanager
    def unless_retired(self) -> Iterator[None]:
        """VersionRetired when the version's vectors have gone while work for it was under way."""
        try:
            yield
        except (CollectionGone, VectorGone) as gone:
            raise VersionRetired(
                f"Version {self._version.name} of {self._version.index} was retired meanwhile, or its collection "
                f"{self.place.collection} was removed; nothing more is written to it.",
                next_step=f"Run: embed-pipeline status {self._version.index}",
            ) from gone


NewVector = tuple[Any, Mapping[str, Any]]
"""A vector, or the rows of a document's passages, and its provenance."""


def tombstone(doc_id: str) -> Content:
    """A deleted document, for as long as a write of it could still be on its way."""
    return Content(doc_id=doc_id, vectors={}, versions={}, deleted_at=compare.clock())
