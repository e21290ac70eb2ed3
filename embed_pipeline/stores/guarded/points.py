"""What the compare-and-set loop asks of a store outside the ledger's database: one point for a document, read and written whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import psycopg

from embed_pipeline.stores.guarded.documents import Now
from embed_pipeline.stores.protocol import EmbeddedBatch

Read = TypeVar("Read")
"""A point as the store returned it."""
Content = TypeVar("Content")
"""What a point shall hold. Written whole: nothing of what was there before is left."""


@dataclass(frozen=True)
class Change(Generic[Read, Content]):
    """What a document's point shall hold, and what was read of it. `read` None: there was no such point."""

    content: Content
    read: Read | None


class Points(Protocol[Read, Content]):
    """The points of one version. Every method that asks the store raises VersionRetired where the version's vectors are gone."""

    @property
    def longest_call_seconds(self) -> float:
        """How long one request may take."""
        ...

    def most_written(self) -> int:
        """How many points one request may write."""
        ...

    def read_to_change(self, doc_ids: Sequence[str], *, keep_own: bool) -> Mapping[str, Read]:
        """The points of those documents that have one, with what a write has to keep. `keep_own`: also with this version's vectors."""
        ...

    def taking_over(self, changes: Mapping[str, Change[Read, Content]]) -> Mapping[str, Change[Read, Content]]:
        """The changes, with what new points take over from elsewhere in the store."""
        ...

    def compare_and_set(self, conn: psycopg.Connection, changes: Mapping[str, Change[Read, Content]], seq: int) -> set[str]:
        """Write each point that still is as it was read; returns the documents whose content now stands there.

        `seq` is a number that no other write has.
        """
        ...

    def hash(self, read: Read | None) -> str | None:
        """source_hash (hex) of this version's vector; None where there is none of this version's space."""
        ...

    def is_whole(self, read: Read) -> bool:
        """Whether every vector that the point's label speaks of is there. `read` with this version's vectors."""
        ...

    def with_vectors(self, batch: EmbeddedBatch, partition: int | None = None) -> Callable[[str, Read | None, Now], Content]:
        """The point of each document of the batch with its vectors. `partition`: of the backfill that writes it."""
        ...

    def without_vectors(self, doc_id: str, read: Read | None, now: Now) -> Content:
        """The point with nothing of this version."""
        ...

    def as_it_is(self, doc_id: str, read: Read | None, now: Now) -> Content:
        """The point with the document's payload of now, its vectors and their labels as they were read."""
        ...

    def tombstone(self, doc_id: str) -> Content:
        """The point of a deleted document, for as long as a write of it could still be on its way."""
        ...
