"""What a store of one embedding version can do. Guards against races are the store's own: callers hand over what they embedded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from embed_pipeline.catalog.partitions import Fence
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents.existing import ExistingDocument
from embed_pipeline.documents.queue import Claim
from embed_pipeline.documents.ranges import KeyRange
from embed_pipeline.documents.selection import EVERYTHING, Document, Selection
from embed_pipeline.documents.shape import Horizon
from embed_pipeline.documents.texts import DocumentText, Rejection
from embed_pipeline.embedders.protocol import Vectors

SAMPLES = 5


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


@dataclass(frozen=True)
class StoredVectors:
    """What is stored of one document: the hash of its text, and its vectors [passages, dimensions] in the order of the passages.

    `offsets`: where each passage starts and ends in the text; None: the vector is of the whole document.
    """

    source_hash: bytes
    vectors: NDArray[np.float32]
    offsets: tuple[tuple[int, int], ...] | None = None


class Hit(NamedTuple):
    """One found document by its nearest passage. `distance` is the store's, smaller is nearer; `score` is larger for nearer.
    A tuple: k of them are made for each search, and a frozen dataclass takes four times as long.

    The passage is `text[start:end]` of the document's text (its text columns joined by a blank line), in characters; None: all of it.
    """

    doc_id: str
    chunk: int
    distance: float
    start: int | None = None
    end: int | None = None
    document: Document | None = None
    """What was asked for of the document, as it is now; None when nothing was."""

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
class Filled:
    """A run that has filled a partition: its fence, and the horizon from before it has read the first document."""

    fence: Fence
    horizon: Horizon


@dataclass(frozen=True)
class StorePressure:
    """Whether the store can take more of a backfill now, and why not."""

    answer: Literal["go", "wait", "stop"] = "go"
    reason: str = ""


@dataclass
class Found:
    """What a comparison has seen. `different`: document -> verdict (missing, stale, orphaned, wrong_chunks), of what nothing pending explains."""

    documents: int = 0
    current: int = 0
    dead: int = 0
    pending: int = 0
    different: dict[str, str] = field(default_factory=dict)

    def coverage(self, vectors: int) -> Coverage:
        """The same as counts, with the first differences by id."""
        counts = Counter(self.different.values())
        return Coverage(
            documents=self.documents,
            vectors=vectors,
            current=self.current,
            pending=self.pending,
            dead_letters=self.dead,
            missing=counts["missing"],
            stale=counts["stale"],
            orphaned=counts["orphaned"],
            wrong_chunks=counts["wrong_chunks"],
            samples=tuple(f"{doc_id} is {self.different[doc_id]}" for doc_id in sorted(self.different)[:SAMPLES]),
        )

    @property
    def orphans(self) -> set[str]:
        return {doc_id for doc_id, verdict in self.different.items() if verdict == "orphaned"}


class VersionStore(Protocol):
    """The vectors of one embedding version. Methods take a connection to the ledger and own their transactions.

    Thread-safe: one store serves all threads of a process, each with its own connection. Raises StoreUnavailable where the store does
    not answer, and VersionRetired where the version's vectors are gone.
    """

    version: Version

    def prepare(self, conn: psycopg.Connection) -> None:
        """Create the version's storage, outside any transaction. Idempotent. AnotherLedger where what is there is not this ledger's.

        What only PostgreSQL has to do belongs to `create`: it is undone with the transaction.
        """
        ...

    def create(self, conn: psycopg.Connection) -> None:
        """Make room for the version's vectors, inside the transaction that registers it, or that makes it again."""
        ...

    def index_payload(self, conn: psycopg.Connection) -> None:
        """Make the declared payload indexes that are not there yet, in a store that has such."""
        ...

    def gone(self, conn: psycopg.Connection) -> str:
        """What of the version's place (its table, collection, named vector) is not there, in words; empty while all is."""
        ...

    def require_ours(self, conn: psycopg.Connection) -> None:
        """AnotherLedger where the version's vectors, or what tells readers of them, are another ledger's. Of what is gone nothing.

        Every method that writes elsewhere looks again.
        """
        ...

    def drop(self, conn: psycopg.Connection) -> None:
        """Remove them; doing it twice is allowed. The caller has a transaction for what is in `tables()`.

        Elsewhere it may take minutes over a network, and has none.
        """
        ...

    def serve(self, conn: psycopg.Connection, generation: int) -> None:
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

    def missing(self, conn: psycopg.Connection, within: KeyRange, *, begun: bool) -> list[DocumentText]:
        """The documents of a slice of a partition that have neither a vector nor a dead letter, in key order.

        `begun`: a backfill was at the partition before, so that many of them may be there.
        """
        ...

    def holds(self, conn: psycopg.Connection, batch: EmbeddedBatch) -> set[str]:
        """Those documents of the batch that are stored with the very hash they have in it."""
        ...

    def insert_new(self, conn: psycopg.Connection, batch: EmbeddedBatch, fence: Fence) -> set[str]:
        """Backfill: write documents of which nothing is stored yet. Returns those written; whoever was first keeps the document.

        FencedOff when the partition is another run's by now, or closed.
        """
        ...

    def replace(self, conn: psycopg.Connection, claim: Claim, batch: EmbeddedBatch) -> set[str]:
        """Dual-write: replace the vectors of claimed documents and acknowledge them, atomically where the store allows it.

        Also of a document that has changed since the claim: what is written is late, and the change is still queued. Returns the
        documents written, which are this claim's no more; a claim that was taken over writes nothing.
        """
        ...

    def reject(self, conn: psycopg.Connection, by: Claim | Fence, letters: Mapping[str, Rejection]) -> set[str]:
        """Set documents aside as dead letters, under the guards of who is at it: a dual-write's claim, or a backfill's fence.

        Returns those set aside. A text that can have no vector must not keep the vector of the text before: a claim removes it.
        """
        ...

    def settle(self, conn: psycopg.Connection, claim: Claim, current: Mapping[str, bytes]) -> set[str]:
        """Acknowledge claimed documents that need no embedding: gone ones (removed here) and ones stored with this hash already."""
        ...

    def stored_ids(self, conn: psycopg.Connection) -> Iterator[list[str]]:
        """The ids of every document that something is stored of, in portions."""
        ...

    def stored_vectors(self, conn: psycopg.Connection, doc_ids: Sequence[str]) -> dict[str, StoredVectors]:
        """The vectors of those of these documents that have some, as they are stored."""
        ...

    def written_since(self, conn: psycopg.Connection, moment: datetime, limit: int) -> list[str]:
        """Up to `limit` documents whose vectors were written after `moment`. Looks at everything that is stored, without its vectors."""
        ...

    def labels(self, conn: psycopg.Connection) -> Labels:
        """Look at the provenance that is stored beside every vector."""
        ...

    def compare(
        self, conn: psycopg.Connection, ranges: Sequence[KeyRange], *, orphans: bool, since: Horizon | None = None
    ) -> Found:
        """Compare every document of these ranges with what is stored of it; with `orphans` also look for what belongs to no document.

        `since`: what neither side has changed since then is known to be equal, and is not hashed again.
        """
        ...

    def compare_partition(self, conn: psycopg.Connection, partition: KeyRange, filled: Filled | None) -> Found:
        """The same for one partition that is closed, with the orphans among what its backfills have written.

        `filled`: the run that has filled it just now; what that run has read and written itself is not hashed again where it can be told.
        """
        ...

    def coverage(self, conn: psycopg.Connection, since: Horizon | None = None) -> Coverage:
        """Compare every document with every vector."""
        ...

    def ann_index(self, conn: psycopg.Connection) -> AnnIndex | None:
        """The ANN index, if there is one."""
        ...

    def build_ann_index(self, conn: psycopg.Connection, progress: Callable[[str, float], None] | None = None) -> AnnIndex:
        """Build it while reads and writes go on; a broken one is dropped first, a valid one is kept."""
        ...

    def search(
        self, conn: psycopg.Connection, query: Vectors, k: int, *, exact: bool = False, among: Selection = EVERYTHING
    ) -> Sequence[Hit]:
        """The `k` nearest documents of this version and no other; fewer only where the selection has no more.

        ConfigurationError when the selection asks for a column that is not there, or for a value that the column cannot have.
        """
        ...

    def search_exact(self, conn: psycopg.Connection, queries: Vectors, k: int) -> list[list[Hit]]:
        """The `k` nearest documents to each of many queries, compared with every vector: what an index is measured by."""
        ...

    def distances(self, conn: psycopg.Connection, query: Vectors, doc_ids: Sequence[str]) -> dict[str, float]:
        """Of these documents, how far those are that this version has: the nearest passage counts, smaller is nearer. Compared one by one.

        One whose change is still to be worked off is left out, since what is stored is of an older text; and so is what has no distance.
        Whether a document is still there nobody asks here: the ids are of a search, which has.
        """
        ...

    def count(self, conn: psycopg.Connection) -> int:
        """Documents that have vectors."""
        ...

    def size_bytes(self, conn: psycopg.Connection) -> int:
        """Disk taken by the version's vectors and indexes."""
        ...


@runtime_checkable
class SharedStore(Protocol):
    """What a store can tell besides that other ledgers can reach as well."""

    def whose(self, conn: psycopg.Connection) -> str | None:
        """Whose the version's vectors are, in words; None: this ledger's."""
        ...

    def untold(self) -> str:
        """Of the version that serves: what tells readers of it is not there or says otherwise, in words; empty while it says so."""
        ...

    def claim(self, conn: psycopg.Connection) -> None:
        """Make them this ledger's, whosever they were. AnotherLedger where another one claims them at the same moment."""
        ...


@dataclass(frozen=True)
class Leaving:
    """What a removal takes out of a store, and what it leaves there, each in words."""

    goes: tuple[str, ...]
    stays: tuple[str, ...]


@runtime_checkable
class LeavingStore(Protocol):
    """What a store can do besides, when an index is removed whose vectors are not in tables of the ledger's database."""

    def leaving(self, *, fields: bool) -> Leaving:
        """What `leave` takes out and what stays."""
        ...

    def leave(self, conn: psycopg.Connection, *, fields: bool) -> None:
        """Take out what the index made; what was there before stays. With `fields` also what was written into that. Repeating it is allowed."""
        ...


@runtime_checkable
class AdoptingStore(Protocol):
    """What a store can do besides, when vectors that were there before are to become a version as they are."""

    def existing(self, after: Any = None) -> tuple[list[ExistingDocument], Any]:
        """The next documents that have a vector and no provenance yet, and where to go on: None at the end.

        Begun again from None it finds what is left: that is what makes an adoption resumable.
        """
        ...

    def has_existing(self) -> bool:
        """Whether `existing` finds any."""
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
