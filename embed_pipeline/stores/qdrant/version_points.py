"""The points of one version in Qdrant, as the compare-and-set loop of `stores/guarded` reads and writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg

from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents.source import Source
from embed_pipeline.errors import VersionRetired
from embed_pipeline.stores.guarded.documents import Now
from embed_pipeline.stores.guarded.points import Change
from embed_pipeline.stores.protocol import EmbeddedBatch
from embed_pipeline.stores.qdrant import adopting, compare, writes
from embed_pipeline.stores.qdrant.engine import CollectionGone, Engine, VectorGone
from embed_pipeline.stores.qdrant.ids import point_id
from embed_pipeline.stores.qdrant.layout import Layout
from embed_pipeline.stores.qdrant.points import Content, Stored, provenance
from embed_pipeline.stores.qdrant.writes import read_points

NewVector = tuple[Any, Mapping[str, Any]]
"""A vector, or the rows of a document's passages, and its provenance."""


class VersionPoints:
    """Points (`stores/guarded/points.py`) of one version. Thread-safe."""

    def __init__(self, engine: Engine, layout: Layout, version: Version, source: Source) -> None:
        self._engine = engine
        self._layout = layout
        self._version = version
        self._source = source
        self.place = layout.place(version)
        self._further: frozenset[str] | None = None

    @property
    def longest_call_seconds(self) -> float:
        return self._engine.longest_call_seconds

    def most_written(self) -> int:
        with self.unless_retired():
            return self._engine.limits(self.place.collection).points_per_write

    def read(self, doc_ids: Sequence[str], *, vectors: bool) -> dict[str, Stored]:
        """The points of those documents that have one."""
        ids = {point_id(doc_id): doc_id for doc_id in doc_ids}
        with self.unless_retired():
            found = read_points(self._engine, self.place.collection, list(ids), vectors=vectors)
        return {ids[each]: point for each, point in found.items()}

    def read_to_change(self, doc_ids: Sequence[str], *, keep_own: bool) -> dict[str, Stored]:
        with self.unless_retired():
            return self.read(doc_ids, vectors=keep_own or self._has_further_vectors())

    def taking_over(self, changes: Mapping[str, Change[Stored, Content]]) -> Mapping[str, Change[Stored, Content]]:
        with self.unless_retired():
            further = self._further_vectors()
            if not further:
                return changes
            return adopting.with_further(self._engine, self._layout.beside(self._version), further, changes)

    def compare_and_set(self, conn: psycopg.Connection, changes: Mapping[str, Change[Stored, Content]], seq: int) -> set[str]:
        ids = {point_id(doc_id): doc_id for doc_id in changes}
        wanted = [
            writes.Change(each, changes[doc_id].content, changes[doc_id].read, self._source.text_field)
            for each, doc_id in ids.items()
        ]
        writer = self._layout.own.writer(conn)
        with self.unless_retired():
            try:
                written = writes.compare_and_set(writer, self.place.collection, self._version.name, wanted, seq)
            except VectorGone:
                # Another version of these points was retired between reading and writing.
                if not compare.has_vector(self._engine, self.place):
                    raise
                return set()
        return {ids[each] for each in written}

    def with_vectors(self, batch: EmbeddedBatch, partition: int | None = None) -> Callable[[str, Stored | None, Now], Content]:
        new = self._new_vectors(batch, partition)

        def content(doc_id: str, read: Stored | None, now: Now) -> Content:
            found = self.without_vectors(doc_id, read, now)
            vector, label = new[doc_id]
            return Content(
                doc_id=doc_id,
                vectors={**found.vectors, self.place.vector: vector},
                versions={**found.versions, self._version.name: label},
                payload=found.payload,
                payload_hash=found.payload_hash,
            )

        return content

    def _new_vectors(self, batch: EmbeddedBatch, partition: int | None) -> dict[str, NewVector]:
        """What the points of a batch shall hold of this version."""
        contents: dict[str, NewVector] = {}
        start = 0
        for doc_id, digest, chunks in zip(batch.doc_ids, batch.hashes, batch.chunks, strict=True):
            rows = batch.vectors[start : start + chunks]
            offsets = None if batch.offsets is None else batch.offsets[start : start + chunks].tolist()
            vector = rows.tolist() if self._version.is_chunked else rows[0].tolist()
            contents[doc_id] = (vector, provenance(self._version, digest, chunks, offsets, partition))
            start += chunks
        return contents

    def without_vectors(self, doc_id: str, read: Stored | None, now: Now) -> Content:
        return self.as_it_is(doc_id, read, now).without(self._version.name, self.place.vector)

    def as_it_is(self, doc_id: str, read: Stored | None, now: Now) -> Content:
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
        # What stands there under this version's name may be of another space.
        found = None if read is None else read.versions.get(self._version.name)
        if found is None or found.get("fingerprint") != self._version.fingerprint:
            return None
        return found.get("source_hash")

    def is_whole(self, read: Stored) -> bool:
        vector = read.vectors.get(self.place.vector)
        if vector is None or not self._version.is_chunked:
            return vector is not None
        return len(vector) == read.versions.get(self._version.name, {}).get("chunks")

    def tombstone(self, doc_id: str) -> Content:
        return Content(doc_id=doc_id, vectors={}, versions={}, deleted_at=compare.clock())

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
