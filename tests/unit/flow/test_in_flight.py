"""Requests in flight, without a database: taken as they complete, written together, bounded, and never thrown away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import chain

import numpy as np
import pytest

from embed_pipeline.errors import EmbedderError
from embed_pipeline.flow.embed import Gathered
from embed_pipeline.flow.in_flight import InFlight
from embed_pipeline.stores.protocol import EmbeddedBatch

DEADLINE_SECONDS = 20.0


def answered(*names: str, chunks: int = 1) -> Gathered:
    """An answer in which every vector of a document is its place among `names`."""
    rows = np.repeat(np.arange(len(names), dtype=np.float32), chunks)[:, None]
    offsets = np.tile(np.array([[0, 1]], dtype=np.int32), (len(rows), 1)) if chunks > 1 else None
    batch = EmbeddedBatch(list(names), [name.encode() for name in names], [chunks] * len(names), rows, offsets, tokens=7)
    return Gathered(batch, {}, 0)


class Written:
    """What reached the writer; it can be held."""

    def __init__(self) -> None:
        self.batches: list[EmbeddedBatch] = []
        self.free = threading.Event()
        self.free.set()
        self.begun = threading.Semaphore(0)

    def __call__(self, one: Gathered) -> int:
        self.batches.append(one.batch)
        self.begun.release()
        assert self.free.wait(DEADLINE_SECONDS)
        return 0

    @property
    def names(self) -> list[list[str]]:
        return [batch.doc_ids for batch in self.batches]


def after(event: threading.Event, *names: str) -> Callable[[], Gathered]:
    def work() -> Gathered:
        assert event.wait(DEADLINE_SECONDS)
        return answered(*names)

    return work


def test_a_slow_request_holds_no_other_up() -> None:
    written, slow = Written(), threading.Event()
    with InFlight(2, lambda: 10, written) as in_flight:
        in_flight.submit(after(slow, "slow"))
        for name in "abc":
            in_flight.submit(lambda name=name: answered(name))  # type: ignore[misc]
        for _ in "abc":
            # One more is written each time, or two together: all while the first is still asked.
            if sorted(chain.from_iterable(written.names)) == ["a", "b", "c"]:
                break
            assert written.begun.acquire(timeout=DEADLINE_SECONDS)
        slow.set()
    assert written.names[-1] == ["slow"]


def test_what_is_ready_is_written_together_and_to_the_last_document() -> None:
    """While the writer is busy five answers of three come: it gets four at a time, and no vector changes its document."""
    written = Written()
    written.free.clear()
    with InFlight(1, lambda: 4, written) as in_flight:
        in_flight.submit(lambda: answered("first"))
        assert written.begun.acquire(timeout=DEADLINE_SECONDS)
        in_flight.submit(lambda: answered("a", "b", "c", chunks=2))
        in_flight.submit(lambda: answered("d", "e", "f", chunks=2))
        in_flight._pool.submit(lambda: None).result()  # type: ignore[attr-defined]  One worker: both are answered by now.
        written.free.set()
    assert written.names == [["first"], ["a", "b", "c", "d"], ["e", "f"]]
    assert [batch.vectors[:, 0].tolist() for batch in written.batches[1:]] == [[0, 0, 1, 1, 2, 2, 0, 0], [1, 1, 2, 2]]
    assert [len(batch.offsets) for batch in written.batches[1:] if batch.offsets is not None] == [8, 4]
    assert sum(batch.tokens for batch in written.batches) == 21


def test_a_slow_writer_holds_the_asking_up() -> None:
    """What is in memory is bounded: with a writer that stands still, a few requests are answered and no more is asked."""
    written, asked = Written(), []
    written.free.clear()

    def work() -> Gathered:
        asked.append(1)
        return answered("x", "y")

    with InFlight(2, lambda: 4, written) as in_flight:
        submitting = threading.Thread(target=lambda: [in_flight.submit(work) for _ in range(50)])
        submitting.start()
        assert written.begun.acquire(timeout=DEADLINE_SECONDS)
        submitting.join(0.2)
        assert submitting.is_alive()
        # One that is written, two ready (four documents), and three that were let through before they were ready.
        assert len(asked) <= 1 + 2 + 3
        written.free.set()
        submitting.join(DEADLINE_SECONDS)
    assert len(asked) == 50


def test_an_error_stops_the_asking_and_what_was_asked_is_written() -> None:
    written, slow, failed = Written(), threading.Event(), threading.Event()

    def fail() -> Gathered:
        failed.set()
        raise EmbedderError("refused")

    def run() -> None:
        with InFlight(2, lambda: 10, written) as in_flight:
            in_flight.submit(after(slow, "paid"))
            in_flight.submit(fail)
            assert failed.wait(DEADLINE_SECONDS)
            slow.set()
            for _ in range(3):
                in_flight.submit(lambda: answered("late"))

    with pytest.raises(EmbedderError, match="refused"):
        run()
    assert ["paid"] in written.names
    assert len(written.names) <= 3


def test_a_write_that_fails_is_raised() -> None:
    def refuse(_: Gathered) -> int:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"), InFlight(1, lambda: 10, refuse) as in_flight:
        in_flight.submit(lambda: answered("a"))
