"""The writes of a version whose points are outside the ledger's database: VersionStore's, over any `Points`.

There is no transaction over the points and the ledger: what makes each write safe is the order of its steps (`loop.py`). Nothing that an
application could wait for is locked in PostgreSQL while the store is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Generic

import psycopg

from embed_pipeline.catalog import dead_letters, partitions
from embed_pipeline.catalog.partitions import Fence
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import queue
from embed_pipeline.documents.queue import Claim
from embed_pipeline.documents.source import Source
from embed_pipeline.documents.texts import Rejection
from embed_pipeline.postgres.connection import carried_on_within
from embed_pipeline.signals import signal
from embed_pipeline.stores.guarded import documents
from embed_pipeline.stores.guarded.documents import Now
from embed_pipeline.stores.guarded.loop import Decide, Loop, Right
from embed_pipeline.stores.guarded.points import Content, Points, Read
from embed_pipeline.stores.protocol import EmbeddedBatch


class GuardedWrites(Generic[Read, Content]):
    """What a VersionStore writes. Thread-safe."""

    def __init__(self, points: Points[Read, Content], version: Version, source: Source) -> None:
        self._points = points
        self._loop = Loop(points, source)
        self._version = version
        self._source = source

    # Backfill

    def insert_new(self, conn: psycopg.Connection, batch: EmbeddedBatch, fence: Fence) -> set[str]:
        with_vectors = self._points.with_vectors(batch, fence.number)
        hashes = dict(zip(batch.doc_ids, batch.hashes, strict=True))

        def decide(doc_id: str, read: Read | None, now: Now | None) -> Content | None:
            # Whoever has changed it, or removed it, has queued that; and its text may have been set aside since.
            if now is None or now.source_hash != hashes[doc_id] or self._points.hash(read) is not None:
                return None
            return with_vectors(doc_id, read, now)

        with documents.writing(conn, self._version.index):
            written = self._loop.change(conn, batch.doc_ids, decide, partial(self._fenced, conn, fence))
        signal("store.committed")
        self._announce_gone(conn, batch.doc_ids)
        return written

    def _announce_gone(self, conn: psycopg.Connection, doc_ids: Sequence[str]) -> None:
        """A TRUNCATE announces what it finds stored, and may have looked before these were. What is there now, it finds later."""
        gone = documents.gone(conn, self._source, doc_ids)
        queue.enqueue(conn, self._version.index, self._version.name, gone, removed=gone)

    @contextmanager
    def _fenced(self, conn: psycopg.Connection, fence: Fence, doc_ids: Sequence[str]) -> Iterator[Sequence[str]]:
        """Nobody closes the partition while the block writes: the comparison then sees what was written.

        The server ends the transaction of a process that is stopped in here, but of none that waits for the store. What a stopped one has
        sent, or sends when it goes on, no fence can hold back: searches look every hit up. The documents are not looked at in here, or
        their table would be locked for as long as the store takes.
        """
        with conn.transaction():
            carried_on_within(conn, self._points.longest_call_seconds)
            partitions.hold(conn, fence)
            signal("insert_new.held")
            yield doc_ids
            signal("insert_new.written")

    # Dual-write

    def replace(self, conn: psycopg.Connection, claim: Claim, batch: EmbeddedBatch) -> set[str]:
        with_vectors = self._points.with_vectors(batch)

        def decide(doc_id: str, read: Read | None, now: Now | None) -> Content | None:
            # That it is gone is queued: whoever claims it next removes the point.
            return None if now is None else with_vectors(doc_id, read, now)

        with documents.writing(conn, self._version.index):
            written = self._loop.change(conn, batch.doc_ids, decide, partial(_claimed, conn, claim))
        signal("store.committed")
        return self._acknowledge(conn, claim, written)

    def reject(self, conn: psycopg.Connection, by: Claim | Fence, letters: Mapping[str, Rejection]) -> set[str]:
        if not letters:
            return set()
        right: Right = partial(self._fenced, conn, by) if isinstance(by, Fence) else partial(_claimed, conn, by)

        def decide(doc_id: str, read: Read | None, now: Now | None) -> Content | None:
            # Who has a vector by now needs no letter of a backfill.
            if now is None or (isinstance(by, Fence) and self._points.hash(read) is not None):
                return None
            # Written even when there is nothing to take away: an insert that is on its way must find the point taken.
            return self._points.without_vectors(doc_id, read, now)

        with documents.writing(conn, self._version.index):
            emptied = self._loop.change(conn, sorted(letters), decide, right)
        signal("reject.emptied")
        # Whoever has changed one since has queued it: a letter of a backfill would be about a text that is gone.
        now = documents.look(conn, self._source, sorted(emptied)) if isinstance(by, Fence) else {}
        with conn.transaction():
            if isinstance(by, Fence):
                partitions.hold(conn, by)
                aside = [doc_id for doc_id, found in now.items() if found.source_hash == letters[doc_id][0]]
            else:
                aside = queue.lock_claimed(conn, by, emptied)
            dead_letters.add(conn, self._version.index, self._version.name, {doc_id: letters[doc_id] for doc_id in aside})
            if isinstance(by, Claim):
                queue.acknowledge(conn, by, aside)
        return set(aside)

    def settle(self, conn: psycopg.Connection, claim: Claim, current: Mapping[str, bytes]) -> set[str]:
        """`current` is what the caller has seen; what counts is what the documents are after the points were read."""

        def decide(doc_id: str, read: Read | None, now: Now | None) -> Content | None:
            if now is None:
                return self._points.tombstone(doc_id)
            if read is None or self._points.hash(read) != now.source_hash.hex() or not self._points.is_whole(read):
                return None
            # The same once more, under another seq: a worker that still holds an older text finds the point changed.
            return self._points.as_it_is(doc_id, read, now)

        with documents.writing(conn, self._version.index):
            written = self._loop.change(conn, list(claim.seqs), decide, partial(_claimed, conn, claim), keep_own=True)
        return self._acknowledge(conn, claim, written)

    def _acknowledge(self, conn: psycopg.Connection, claim: Claim, doc_ids: set[str]) -> set[str]:
        """In one transaction, and only for what is still claimed: else a letter that another worker has just written would go."""
        with conn.transaction():
            mine = queue.lock_claimed(conn, claim, doc_ids)
            dead_letters.forget(conn, self._version.index, self._version.name, mine)
            queue.acknowledge(conn, claim, mine)
        return set(mine)

    # Adoption

    def mark(self, conn: psycopg.Connection, doc_ids: Sequence[str], decide: Decide[Read, Content]) -> set[str]:
        """Change points that nobody has a claim on, and keep their vectors."""
        with documents.writing(conn, self._version.index):
            return self._loop.change(conn, doc_ids, decide, nullcontext, keep_own=True)


@contextmanager
def _claimed(conn: psycopg.Connection, claim: Claim, doc_ids: Sequence[str]) -> Iterator[set[str]]:
    """Whoever takes a claim over writes every one of its points anew. So it is enough that it was ours after the points were read."""
    yield queue.still_claimed(conn, claim, doc_ids)
