"""What a store of one embedding version can do. Guards against races are the store's own: callers hand over what they embedded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents.capture import CapturedVersion
from embed_pipeline.documents.existing import ExistingDocument
from embed_pipeline.documents.queue import Claim
from embed_pipeline.documents.ranges import KeyRange
from embed_pipeline.embedders.protocol import Vectors


@dataclass(frozen=True)
class EmbeddedBatch:
    """Documents with their vectors, columnar: `vectors` holds `chunks[i]` rows for document i, in order.

    `offsets` has the passage (start, end) of each vector, in characters of the document's text; None: all are whole documents.
    `tokens`: what the provider billed for it, texts that were rejected included; 0 where nobody bills.
    """

    doc_ids: list[str]
    hashes: list[bytes]
    chunks: list[int]
    vectors: Vectors
    offsets: NDArray[np.int32] | None = None
    tokens: int = 0

    def __len__(self) -> int:
        return len(self.doc_ids)

    def only(self, wanted: set[str]) -> EmbeddedBatch:
        """The documents in `wanted`, with their vectors."""
        if len(wanted) == len(self):
            return self
        kept = [n for n, doc_id in enumerate(self.doc_ids) if doc_id in wanted]
        rows = np.isin(np.repeat(np.arange(len(self)), self.chunks), kept)
        return EmbeddedBatch(
            [self.doc_ids[n] for n in kept],
            [self.hashes[n] for n in kept],
            [self.chunks[n] for n in kept],
            self.vectors[rows],
            None if self.offsets is None else self.offsets[rows],
        )


class MissingDocument(NamedTuple):
    """A document that the version has nothing for yet."""

    doc_id: str
    text: str
    source_hash: bytes


@dataclass(frozen=True)
class Hit:
    """One found document by its nearest passage. `distance` is the store's, smaller is nearer; `score` is larger for nearer.

    The passage is `text[start:end]` of the document's text (its text columns joined by a blank line), in characters; None: all of it.
    """

    doc_id: str
    chunk: int
    distance: float
    start: int | None = None
    end: int | None = None

    @property
    def score(self) -> float:
        return -self.distance


@dataclass(frozen=True)
class AnnIndex:
    """The ANN index as it stands: its identity (changes when it is rebuilt), and whether searches can use it.

    `bytes` None: the store does not tell. `note`: what a person has to know about it, empty where it is what one expects.
    """

    oid: int
    valid: bool
    bytes: int | None
    note: str = ""


@dataclass(frozen=True)
class Labels:
    """How many vectors a version has, and how many of them carry another model, model version or fingerprint than the version's."""

    vectors: int
    foreign: int


@dataclass(frozen=True)
class Coverage:
    """One comparison of every document with every vector of a version, in one snapshot.

    `differences` are documents or vectors that are wrong and that no queued change explains.
    """

    documents: int
    vectors: int
    current: int
    pending: int
    dead_letters: int
    missing: int
    stale: int
    orphaned: int
    wrong_chunks: int
    samples: tuple[str, ...] = ()

    @property
    def differences(self) -> int:
        return self.missing + self.stale + self.orphaned + self.wrong_chunks

    @property
    def share(self) -> float:
        """Documents that are as they should be, of all; 1.0 for an empty table."""
        return 1.0 if self.documents == 0 else (self.current + self.dead_letters) / self.documents


@dataclass(frozen=True)
class StorePressure:
    """Whether the store can take more of a backfill now, and why not."""

    answer: Literal["go", "wait", "stop"] = "go"
    reason: str = ""


class VersionStore(Protocol):
    """The vectors of one embedding version. Methods take a connection to the ledger and own their transactions.

    Thread-safe: one store serves all threads of a process, each with its own connection. Raises StoreUnavailable where the store does
    not answer, and VersionRetired where the version's vectors are gone.
    """

    version: Version

    def prepare(self) -> None:
        """Make room outside any transaction, before registration takes the documents lock; doing it twice is allowed.

        What only PostgreSQL has to do belongs to `create`: it is undone with the transaction.
        """
        ...

    def create(self, conn: psycopg.Connection) -> None:
        """Make room for the version's vectors, inside the caller's transaction, under the documents lock: nothing slow belongs here."""
        ...

    def drop(self, conn: psycopg.Connection) -> None:
        """Remove them; doing it twice is allowed. The caller holds no lock on the documents, and has a transaction for what is in `tables()`.

        Elsewhere it may take minutes over a network, and has none.
        """
        ...

    def serve(self, generation: int) -> None:
        """The catalog's pointer has moved to this version (committed): tell readers who do not ask the catalog.

        `generation` is the pointer's. Doing it twice is allowed. The caller sees to it that no other move is under way.
        """
        ...

    def pressure(self) -> StorePressure:
        """How much more the store can take now."""
        ...

    def tables(self) -> tuple[sql.Identifier, ...]:
        """The version's tables in the ledger's database, to watch; none for a store elsewhere."""
        ...

    def close(self) -> None:
        """Let go of connections; the store is not used again."""
        ...

    def captured(self) -> CapturedVersion:
        """What change capture has to know."""
        ...

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
        """The next documents of a key range, in key order after the key `after`, that have neither a vector nor a dead letter.

        `unqueued`: only those that no queued change is about. `unlocked`: only those that could be written this moment.
        """
        ...

    def holds(self, conn: psycopg.Connection, batch: EmbeddedBatch) -> set[str]:
        """Those documents of the batch that are stored with the very hash they have in it."""
        ...

    def insert_new(self, conn: psycopg.Connection, batch: EmbeddedBatch) -> set[str]:
        """Backfill: write documents that have no row yet, exist, are unlocked and still have this hash. Returns those written."""
        ...

    def replace(self, conn: psycopg.Connection, claim: Claim, batch: EmbeddedBatch) -> set[str]:
        """Dual-write: replace the vectors of claimed documents and acknowledge them, atomically. Returns those done."""
        ...

    def reject(self, conn: psycopg.Connection, claim: Claim | None, letters: Mapping[str, tuple[bytes, str]]) -> set[str]:
        """Set documents aside as dead letters, under the same guards. Returns those done."""
        ...

    def settle(self, conn: psycopg.Connection, claim: Claim, current: Mapping[str, bytes]) -> set[str]:
        """Acknowledge claimed documents that need no embedding: gone ones (removed here) and ones stored with this hash already."""
        ...

    def labels(self, conn: psycopg.Connection) -> Labels:
        """Look at the provenance that is stored beside every vector."""
        ...

    def coverage(self, conn: psycopg.Connection) -> Coverage:
        """Compare every document with every vector."""
        ...

    def enqueue_differences(self, conn: psycopg.Connection, unfilled: Sequence[KeyRange] = ()) -> int:
        """Queue every document whose vectors differ and every orphan; returns how many.

        What is missing in the ranges `unfilled` is left to the backfill.
        """
        ...

    def ann_index(self, conn: psycopg.Connection) -> AnnIndex | None:
        """The ANN index, if there is one."""
        ...

    def build_ann_index(self, conn: psycopg.Connection, progress: Callable[[str, float], None] | None = None) -> AnnIndex:
        """Build it while reads and writes go on; a broken one is dropped first, a valid one is kept."""
        ...

    def search(
        self, conn: psycopg.Connection, query: Vectors, k: int, *, exact: bool = False, where: Mapping[str, Any] | None = None
    ) -> Sequence[Hit]:
        """The `k` nearest documents of this version and no other.

        `where` asks for equality; ConfigurationError when there is no such column to filter by.
        """
        ...

    def count(self, conn: psycopg.Connection) -> int:
        """Documents that have vectors."""
        ...

    def size_bytes(self, conn: psycopg.Connection) -> int:
        """Disk taken by the version's vectors and indexes."""
        ...


@runtime_checkable
class AdoptingStore(Protocol):
    """What a store can do besides, when vectors that were there before are to become a version as they are."""

    def existing(self, after: Any = None) -> tuple[list[ExistingDocument], Any]:
        """The next documents that have a vector and no provenance yet, and where to go on: None at the end.

        Begun again from None it finds what is left: that is what makes an adoption resumable.
        """
        ...

    def count_existing(self) -> tuple[int, int]:
        """How many `existing` finds in all, and how many entries it passes by because they lack the version's vector."""
        ...

    def existing_vectors(self, doc_ids: Sequence[str]) -> dict[str, Any]:
        """The vectors of those that are there, as found."""
        ...

    def mark(self, conn: psycopg.Connection, doc_ids: Sequence[str]) -> set[str]:
        """Write the version's provenance beside each vector that is of the very text that the document has now. Returns those done.

        Compare-and-set, also on the text as found: a writer that knows nothing of this package is not overwritten.
        """
        ...
