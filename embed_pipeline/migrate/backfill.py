"""Backfill: fill one key-range partition of a version from history. Insert-only, resumable, a good neighbour.

Reading, embedding and writing overlap: the calling thread reads ahead, a pool embeds, one thread writes. What is held in memory is
bounded by `max_in_flight` batches, whatever the size of the corpus.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

from embed_pipeline.catalog import versions
from embed_pipeline.catalog.versions import Partition, Version
from embed_pipeline.documents import capture, ranges
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.errors import EmbedPipelineError, IllegalTransition, Stopped
from embed_pipeline.migrate.batch_size import BatchSize
from embed_pipeline.migrate.embed import embed_batch, portions
from embed_pipeline.migrate.open_index import OpenIndex
from embed_pipeline.migrate.throttle import wait_until_allowed
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.signals import signal
from embed_pipeline.stores.protocol import EmbeddedBatch, MissingDocument, VersionStore

queries = Queries(ranges.__file__, "ranges.sql")

LOCKED_TRIES = 40


@dataclass
class Progress:
    """What a person wants to see while a partition fills; handed to the listener after every batch."""

    partition: str
    total: int
    written: int = 0
    rejected: int = 0
    truncated: int = 0
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
class PartitionReport:
    """One filled partition. `documents` are those in its range when it was done; the rest were there already."""

    partition: str
    documents: int
    written: int
    rejected: int
    truncated: int
    seconds: float


def unfilled(conn: psycopg.Connection, index: OpenIndex, version: str) -> list[str]:
    """Keys of the partitions that are not completed yet, in order."""
    return [
        partition.range.partition
        for partition in versions.list_partitions(conn, index.name, version)
        if partition.completed_at is None
    ]


def fill_partition(index: OpenIndex, name: str, partition_key: str, listener: Listener | None = None) -> PartitionReport:
    """Fill one partition and mark it complete. Safe to repeat at any time: what is there is skipped and not paid for again."""
    with index.connection() as conn, _claimed(conn, index, name, partition_key):
        version = index.version(conn, name)
        if not version.is_live:
            raise IllegalTransition(
                f"Version {name!r} of index {index.name!r} is retired and cannot be backfilled.",
                next_step="Declare a new version.",
            )
        partition = _partition(conn, index, version, partition_key)
        capture.prove_live(conn, index.source, index.name, name)
        progress = Progress(partition_key, _count(conn, index, partition))
        if not partition.range.is_empty:
            _fill(conn, index, version, partition, progress, listener)
        documents = _count(conn, index, partition)
        with conn.transaction():
            versions.complete_partition(conn, index.name, name, partition_key, documents)
        return PartitionReport(
            partition_key, documents, progress.written, progress.rejected, progress.truncated, progress.seconds
        )


def _fill(
    conn: psycopg.Connection,
    index: OpenIndex,
    version: Version,
    partition: Partition,
    progress: Progress,
    listener: Listener | None,
) -> None:
    """Pass over the range until a pass leaves nothing behind: what the application held is revisited."""
    store = index.store(version)
    embedder = index.embedder_of(version)
    with index.connection() as writing:
        for attempt in range(LOCKED_TRIES):
            left = _pass(conn, writing, index, store, embedder, partition, progress, listener)
            if not left:
                return
            time.sleep(min(0.02 * 2**attempt, 2.0))
    raise Stopped(
        f"{left} documents of partition {progress.partition} of {version.index}.{version.name} stayed locked by the application.",
        next_step="Run the same command again; see pg_locks for who holds them.",
    )


def _pass(
    conn: psycopg.Connection,
    writing: psycopg.Connection,
    index: OpenIndex,
    store: VersionStore,
    embedder: VersionEmbedder,
    partition: Partition,
    progress: Progress,
    listener: Listener | None,
) -> int:
    """One pass; returns how many documents it had to leave."""
    limits = index.batch_sizes.setdefault(
        store.version.name, BatchSize(embedder.spec.batch_size, index.spec.backfill.write_batch)
    )
    in_flight: deque[Future[tuple[EmbeddedBatch, dict[str, tuple[bytes, str]], int]]] = deque()
    pending_write: Future[int] | None = None
    left = 0

    def write(embedded: tuple[EmbeddedBatch, dict[str, tuple[bytes, str]], int]) -> int:
        batch, letters, truncated = embedded
        signal("backfill.embedded")
        written = store.insert_new(writing, batch)
        rejected = store.reject(writing, None, letters)
        progress.written += len(written)
        progress.rejected += len(rejected)
        progress.truncated += truncated
        if listener is not None:
            listener(progress)
        return len(batch) + len(letters) - len(written) - len(rejected)

    def waiting(reason: str) -> None:
        progress.waiting = reason
        if listener is not None:
            listener(progress)

    with ThreadPoolExecutor(embedder.spec.max_in_flight) as pool, ThreadPoolExecutor(1) as writer:
        try:
            for documents in _batches(conn, index, store, embedder, partition, limits):
                wait_until_allowed(conn, index.name, waiting)
                progress.waiting = ""
                in_flight.append(pool.submit(_embed, embedder, documents, limits))
                if len(in_flight) > embedder.spec.max_in_flight:
                    embedded = in_flight.popleft().result()
                    left += pending_write.result() if pending_write else 0
                    pending_write = writer.submit(write, embedded)
            while in_flight:
                embedded = in_flight.popleft().result()
                left += pending_write.result() if pending_write else 0
                pending_write = writer.submit(write, embedded)
        except EmbedPipelineError:
            # One batch failed; the others in flight are paid for and kept.
            for future in in_flight:
                if future.exception() is None:
                    writer.submit(write, future.result()).result()
            raise
        left += pending_write.result() if pending_write else 0
    return left


def _batches(
    conn: psycopg.Connection,
    index: OpenIndex,
    store: VersionStore,
    embedder: VersionEmbedder,
    partition: Partition,
    limits: BatchSize,
) -> Iterator[list[MissingDocument]]:
    after: list[str] | None = None
    while True:
        limit = limits.size
        documents = store.missing(conn, partition.range, after, limit)
        signal("backfill.read")
        if documents:
            yield from portions(embedder, documents)
        if len(documents) < limit:
            return
        after = index.source.key_of(documents[-1].doc_id)


def _embed(
    embedder: VersionEmbedder, documents: list[MissingDocument], limits: BatchSize
) -> tuple[EmbeddedBatch, dict[str, tuple[bytes, str]], int]:
    started = time.monotonic()
    batch, letters, truncated = embed_batch(embedder, documents)
    limits.took(len(documents), time.monotonic() - started)
    return batch, letters, truncated


def _partition(conn: psycopg.Connection, index: OpenIndex, version: Version, key: str) -> Partition:
    partitions = {each.range.partition: each for each in versions.list_partitions(conn, index.name, version.name)}
    if key not in partitions:
        known = sorted(partitions)
        raise IllegalTransition(
            f"Version {version.name!r} of index {index.name!r} has no partition {key!r}; it has {known[0]} to {known[-1]}.",
            next_step=f"Run: embed-pipeline status {index.name}",
        )
    return partitions[key]


def _count(conn: psycopg.Connection, index: OpenIndex, partition: Partition) -> int:
    bounds = partition.range
    if bounds.is_empty:
        return 0
    in_range = ranges.within(index.source, bounds.lower is not None, bounds.upper is not None, after=False)
    query = queries("count_in_range", documents=index.source.identifier, in_range=in_range)
    row = conn.execute(query, {"lower": bounds.lower, "upper": bounds.upper}).fetchone()
    return int(row[0]) if row else 0


@contextmanager
def _claimed(conn: psycopg.Connection, index: OpenIndex, version: str, partition: str) -> Iterator[None]:
    """Hold the partition for this connection: a second run would be harmless and pay twice."""
    name = f"embed_pipeline.backfill.{index.name}.{version}.{partition}"
    row = conn.execute(queries("try_lock_partition"), {"name": name}).fetchone()
    if row is None or not row[0]:
        raise Stopped(
            f"Partition {partition} of {index.name}.{version} is being filled by another run.",
            next_step=f"Run: embed-pipeline status {index.name}",
        )
    # The lock goes with the connection: a killed worker leaves nothing behind.
    yield
