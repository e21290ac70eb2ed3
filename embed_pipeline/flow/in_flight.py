"""Requests in flight: a pool sends them, and one thread writes the answers in the order in which they arrive.

What was paid for is written, whatever else fails. What is held in memory is what is in flight, what may wait to be written, and one write
batch, whatever the size of the corpus.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import numpy as np

from embed_pipeline.flow.embed import Gathered
from embed_pipeline.signals import signal
from embed_pipeline.stores.protocol import EmbeddedBatch

# A write batch of a version with a chunker ends here, however few its documents are.
MOST_VECTORS = 8_000


class InFlight:
    """`submit` queues a request. Leaving the block waits until every request is answered and written, and raises the first error.

    After an error nothing more is asked. When it is the writing that fails, what comes back later cannot be kept.
    """

    def __init__(
        self, calls: int, most: Callable[[], int], write: Callable[[Gathered], None], *, may_wait: int | None = None
    ) -> None:
        """`calls` at once; `write` gets at most `most()` documents.

        While `may_wait` documents are answered and not written, nothing more is asked; None: one write batch.
        """
        self._calls, self._most, self._write, self._may_wait = calls, most, write, may_wait
        self._pool = ThreadPoolExecutor(calls, thread_name_prefix="embed")
        self._writer = threading.Thread(target=self._write_all, name="write", daemon=True)
        self._changed = threading.Condition()
        self._asked = 0
        self._ready: deque[Gathered] = deque()
        self._over = False
        self._problem: BaseException | None = None
        self._lost = False

    def __enter__(self) -> InFlight:
        self._writer.start()
        return self

    def wait_for_room(self) -> None:
        """Until something may be asked: one more than are in flight may stand ready, so that no caller has to wait for a read.

        Raises the error of an earlier request or write.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._problem is not None or self._has_room())
            if self._problem is not None:
                raise self._problem

    def submit(self, work: Callable[[], Gathered]) -> None:
        """Ask when there is room. Raises the error of an earlier request or write."""
        self.wait_for_room()
        with self._changed:
            self._asked += 1
        self._pool.submit(self._ask, work)

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        if problem is not None:
            self._fail(problem)
        self._pool.shutdown()
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._writer.join()
        if problem is None and self._problem is not None:
            raise self._problem

    def _has_room(self) -> bool:
        may_wait = self._most() if self._may_wait is None else self._may_wait
        return self._asked <= self._calls and sum(each.documents for each in self._ready) < may_wait

    def _ask(self, work: Callable[[], Gathered]) -> None:
        answered: Gathered | None = None
        try:
            # What stood ready and was not asked for yet need not be paid for any more.
            if self._problem is None:
                answered = work()
        except BaseException as problem:
            self._fail(problem)
        if answered is not None and answered.failure is not None:
            self._fail(answered.failure)
        with self._changed:
            self._asked -= 1
            if answered is not None and answered.documents:
                self._ready.append(answered)
            self._changed.notify_all()

    def _fail(self, problem: BaseException) -> None:
        with self._changed:
            self._problem = self._problem or problem
            self._changed.notify_all()
        signal("in_flight.failed")

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ready or self._over)
                if not self._ready:
                    return
                answered = self._take()
                self._changed.notify_all()
            if self._lost:
                continue
            try:
                self._write(answered)
            except BaseException as problem:
                self._lost = True
                self._fail(problem)

    def _take(self) -> Gathered:
        """As much of what is ready as one write takes; the rest of a request stays, so that a full write batch is full."""
        most = max(self._most(), 1)
        taken = [self._ready.popleft()]
        documents, vectors = taken[0].documents, len(taken[0].batch.vectors)
        while self._ready and documents < most and vectors < MOST_VECTORS and _alike(taken[0], self._ready[0]):
            taken.append(self._ready.popleft())
            documents, vectors = documents + taken[-1].documents, vectors + len(taken[-1].batch.vectors)
        joined = taken[0] if len(taken) == 1 else _joined(taken)
        if len(joined.batch) <= most:
            return joined
        first, rest = _cut(joined, most)
        self._ready.appendleft(rest)
        return first


def _alike(one: Gathered, other: Gathered) -> bool:
    return (one.batch.offsets is None) == (other.batch.offsets is None)


def _joined(taken: Sequence[Gathered]) -> Gathered:
    batches = [each.batch for each in taken]
    offsets = [batch.offsets for batch in batches if batch.offsets is not None]
    batch = EmbeddedBatch(
        doc_ids=[doc_id for each in batches for doc_id in each.doc_ids],
        hashes=[digest for each in batches for digest in each.hashes],
        chunks=[count for each in batches for count in each.chunks],
        vectors=np.concatenate([each.vectors for each in batches]),
        offsets=np.concatenate(offsets) if offsets else None,
        tokens=sum(each.tokens for each in batches),
    )
    letters = {doc_id: letter for each in taken for doc_id, letter in each.letters.items()}
    return Gathered(batch, letters, sum(each.truncated for each in taken))


def _cut(answered: Gathered, documents: int) -> tuple[Gathered, Gathered]:
    """The first `documents`, and the rest. Letters and counts go with the first."""
    batch = answered.batch
    at = sum(batch.chunks[:documents])

    def part(of: slice, rows: slice, tokens: int) -> EmbeddedBatch:
        offsets = None if batch.offsets is None else batch.offsets[rows]
        return EmbeddedBatch(batch.doc_ids[of], batch.hashes[of], batch.chunks[of], batch.vectors[rows], offsets, tokens)

    first = part(slice(documents), slice(at), batch.tokens)
    rest = part(slice(documents, None), slice(at, None), 0)
    return Gathered(first, answered.letters, answered.truncated), Gathered(rest, {}, 0)
