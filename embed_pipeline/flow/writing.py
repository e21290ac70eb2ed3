"""Writes batches over as many connections as it takes; those of a backfill insert-only, with its progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg

from embed_pipeline.catalog.partitions import Fence
from embed_pipeline.flow.embed import Gathered
from embed_pipeline.index.batch_size import BatchSize
from embed_pipeline.postgres.session import Line
from embed_pipeline.signals import signal
from embed_pipeline.stores.patience import Stopwatch
from embed_pipeline.stores.protocol import EmbeddedBatch, VersionStore
from embed_pipeline.throttle.loop import Throttle


@dataclass
class Progress:
    """Progress of a partition, handed to the listener after every batch."""

    partition: str
    total: int
    written: int = 0
    rejected: int = 0
    truncated: int = 0
    tokens: int = 0
    waiting: str = ""
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def rate(self) -> float:
        """Documents written per second so far."""
        return self.written / self.seconds if self.seconds > 0 else 0.0


Listener = Callable[[Progress], None]


@dataclass(frozen=True)
class Writing:
    """Writes for one partition. For one thread: the line is its own."""

    line: Line
    store: VersionStore
    fence: Fence
    limits: BatchSize
    throttle: Throttle
    progress: Progress
    listener: Listener | None

    def write(self, answered: Gathered) -> None:
        """Write one batch and its dead letters. A document that has a vector already keeps it."""
        batch, letters = answered.batch, answered.letters
        signal("backfill.embedded")
        seconds = 0.0

        def insert(conn: psycopg.Connection) -> set[str]:
            # The time of this try alone: an outage before it says nothing about how fast the server writes, and neither does a rate limit.
            nonlocal seconds
            watch = Stopwatch()
            inserted = self.store.insert_new(conn, batch, self.fence)
            seconds = watch.seconds
            return inserted

        written = write_batch(self.line, self.store, batch, insert)
        rejected = self.line.repeat(lambda conn: self.store.reject(conn, self.fence, letters))
        self.throttle.wrote(seconds)
        self.limits.wrote(len(batch), seconds)
        self.progress.written += len(written)
        self.progress.rejected += len(rejected)
        self.progress.truncated += answered.truncated
        self.progress.tokens += batch.tokens
        if self.listener is not None:
            self.listener(self.progress)


def write_batch(
    line: Line, store: VersionStore, batch: EmbeddedBatch, write: Callable[[psycopg.Connection], set[str]]
) -> set[str]:
    """Write the batch in hand, over as many connections as it takes; returns the documents that stand there because of it."""
    tries = 0

    def attempt(conn: psycopg.Connection) -> set[str]:
        nonlocal tries
        tries += 1
        written = write(conn)
        if tries > 1 and len(written) < len(batch):
            # The try before may have been committed and only its answer lost.
            written |= store.holds(conn, batch)
        return written

    return line.repeat(attempt)
