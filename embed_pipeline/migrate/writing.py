"""Writes the batches of a backfill, insert-only, over several connections, and reports progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg

from embed_pipeline.catalog.partitions import Fence
from embed_pipeline.migrate.batch_size import BatchSize
from embed_pipeline.migrate.in_flight import Answered
from embed_pipeline.migrate.outage import Line, write_batch
from embed_pipeline.migrate.throttle import Throttle
from embed_pipeline.signals import signal
from embed_pipeline.stores.patience import Stopwatch
from embed_pipeline.stores.protocol import VersionStore


@dataclass
class Progress:
    """What a person wants to see while a partition fills; handed to the listener after every batch."""

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

    def write(self, answered: Answered) -> None:
        """Write one batch and its dead letters. Whoever was at a document first keeps it."""
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
