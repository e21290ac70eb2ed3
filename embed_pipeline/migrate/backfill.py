"""Backfill: fill one key-range partition of a version from history. Insert-only, resumable, a good neighbour.

Reading, embedding and writing overlap: the calling thread reads ahead, a pool embeds, one thread writes what comes back
(`in_flight.py`). What is held in memory is bounded, whatever the size of the corpus.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import psycopg

from embed_pipeline.catalog import versions
from embed_pipeline.catalog.versions import Partition, Version
from embed_pipeline.documents import capture, ranges
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.errors import IllegalTransition, Stopped
from embed_pipeline.migrate import batch_backfill, model_check
from embed_pipeline.migrate.batch_size import BatchSize
from embed_pipeline.migrate.embed import embed_batch, portions
from embed_pipeline.migrate.in_flight import Answered, InFlight
from embed_pipeline.migrate.open_index import OpenIndex
from embed_pipeline.migrate.outage import Line, Taken, only_run
from embed_pipeline.migrate.packs import packs
from embed_pipeline.migrate.writing import Listener as Listener
from embed_pipeline.migrate.writing import Progress as Progress
from embed_pipeline.migrate.writing import Writing
from embed_pipeline.postgres.connection import unhurried
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.signals import signal
from embed_pipeline.stores.protocol import MissingDocument, VersionStore

queries = Queries(ranges.__file__, "ranges.sql")

LOCKED_TRIES = 40

# Of a provider so many requests' documents are read at once: enough for full requests, whatever a document's length.
READ_PACKS = 4


@dataclass(frozen=True)
class PartitionReport:
    """One filled partition. `documents` are those in its range when it was done; the rest were there already."""

    partition: str
    documents: int
    written: int
    rejected: int
    truncated: int
    seconds: float
    tokens: int = 0
    usd: float | None = None
    """What this run paid for it; None where nobody is paid or no price is known."""


def unfilled(conn: psycopg.Connection, index: OpenIndex, version: str) -> list[str]:
    """Keys of the partitions that are not completed yet, in order."""
    return [
        partition.range.partition
        for partition in versions.list_partitions(conn, index.name, version)
        if partition.completed_at is None
    ]


def fill_partition(index: OpenIndex, name: str, partition_key: str, listener: Listener | None = None) -> PartitionReport:
    """Fill one partition and mark it complete. Safe to repeat at any time: what is there is skipped and not paid for again.

    Outlives a restart of PostgreSQL and cut connections (`outage.Line`): what is embedded waits in memory until it is written.
    """
    progress = Progress(partition_key, 0)
    before = index.spent(name, "backfill", "batch")

    def waiting(reason: str) -> None:
        progress.waiting = reason
        if listener is not None:
            listener(progress)

    with Line(index, waiting, taken=_claim(index, name, partition_key)) as reading:
        version, partition = reading.repeat(lambda conn: _begin(conn, index, name, partition_key))
        progress.total = reading.repeat(lambda conn: _count(conn, index, partition))
        if not partition.range.is_empty:
            _fill(reading, index, version, partition, progress, listener)
        documents = reading.repeat(lambda conn: _complete(conn, index, name, partition))
        return PartitionReport(
            partition_key,
            documents,
            progress.written,
            progress.rejected,
            progress.truncated,
            progress.seconds,
            progress.tokens,
            index.spent(name, "backfill", "batch").since(before).usd,
        )


def submit_ahead(index: OpenIndex, name: str, keys: Sequence[str]) -> None:
    """In batch mode: submit the jobs of all these partitions, so that the provider works on them at once. Else nothing.

    Partitions that another run fills are left to it. Without this each partition's job would wait for the one before.
    """
    for key in keys if batch_backfill.is_wanted(index, name) else ():
        with suppress(Stopped), Line(index, taken=_claim(index, name, key)) as line:
            version, partition = line.repeat(lambda conn, key=key: _begin(conn, index, name, key))  # type: ignore[misc]
            if not partition.range.is_empty:
                batch_backfill.submit(line, index, version, partition.range)


def _begin(conn: psycopg.Connection, index: OpenIndex, name: str, key: str) -> tuple[Version, Partition]:
    version = index.version(conn, name)
    if not version.is_live:
        raise IllegalTransition(
            f"Version {name!r} of index {index.name!r} is retired and cannot be backfilled.",
            next_step="Declare a new version.",
        )
    partition = _partition(conn, index, version, key)
    capture.prove_live(conn, index.source, index.name, index.store(version).captured())
    return version, partition


def _complete(conn: psycopg.Connection, index: OpenIndex, name: str, partition: Partition) -> int:
    documents = _count(conn, index, partition)
    with conn.transaction():
        versions.complete_partition(conn, index.name, name, partition.range.partition, documents)
    return documents


def _fill(
    reading: Line,
    index: OpenIndex,
    version: Version,
    partition: Partition,
    progress: Progress,
    listener: Listener | None,
) -> None:
    """Pass over the range until a pass leaves nothing behind: what the application held is revisited.

    Only the first pass embeds a document that it may not be able to write. The passes after it leave a document that has a row in the
    change queue to the dual-write, and do not ask for one that is still locked: neither is paid for again.
    """
    store = index.store(version)
    embedder = index.embedder_of(version)
    held: list[MissingDocument] = []
    reading.repeat(lambda conn: model_check.prepare(conn, index, version))
    with Line(index, reading.waiting) as writing:
        batch_backfill.run(
            reading,
            index,
            version,
            partition.range,
            Writing(writing, store, _limits(index, store, embedder), index.throttle(version), progress, listener),
        )
        for attempt in range(LOCKED_TRIES):
            again = attempt > 0
            left = _pass(reading, writing, index, store, embedder, partition, progress, listener, again=again)
            if not left and not again:
                return
            held = reading.repeat(lambda conn: store.missing(conn, partition.range, None, 1, unqueued=True))
            if not held:
                return
            signal("backfill.revisiting")
            time.sleep(min(0.02 * 2**attempt, 2.0))
    raise Stopped(
        f"Documents of partition {progress.partition} of {version.index}.{version.name} stayed locked by the application "
        f"(first: {held[0].doc_id}).",
        next_step="Run the same command again; see pg_locks for who holds them.",
    )


def _pass(
    reading: Line,
    writing: Line,
    index: OpenIndex,
    store: VersionStore,
    embedder: VersionEmbedder,
    partition: Partition,
    progress: Progress,
    listener: Listener | None,
    *,
    again: bool,
) -> int:
    """One pass; returns how many documents it had to leave."""
    limits, throttle = _limits(index, store, embedder), index.throttle(store.version)
    write = Writing(writing, store, limits, throttle, progress, listener).write
    calls = embedder.spec.calls_in_flight
    # As many may wait to be written as are asked for: else the writer would run dry for as long as a provider takes to answer.
    may_wait = calls * embedder.spec.texts_per_call if embedder.is_remote else None
    with InFlight(calls, lambda: limits.size, write, may_wait=may_wait) as in_flight:
        for documents in _batches(reading, index, store, embedder, partition, limits, again=again):
            reading.repeat(lambda conn: throttle.wait_until_allowed(conn, reading.waiting))
            reading.repeat(lambda conn: model_check.require_same_model(conn, index, store.version))
            # Requests that wait for their account do so in the pool; the next word to the listener says why.
            progress.waiting = index.provider_wait(store.version.name)
            in_flight.submit(partial(_embed, embedder, documents, limits))
    return in_flight.left


def _limits(index: OpenIndex, store: VersionStore, embedder: VersionEmbedder) -> BatchSize:
    most = index.spec.backfill.write_batch
    # A provider's requests have their own size: there the time of writes alone decides.
    smallest = most if embedder.is_remote else embedder.spec.texts_per_call
    return index.batch_sizes.setdefault(store.version.name, BatchSize(smallest, most))


def _batches(
    reading: Line,
    index: OpenIndex,
    store: VersionStore,
    embedder: VersionEmbedder,
    partition: Partition,
    limits: BatchSize,
    *,
    again: bool,
) -> Iterator[list[MissingDocument]]:
    """What is asked for at once, read in key order: of a provider one request, else as many documents as time allows."""
    after: list[str] | None = None
    begun: list[MissingDocument] = []
    while True:
        limit = READ_PACKS * embedder.spec.texts_per_call if embedder.is_remote else limits.size

        def read(conn: psycopg.Connection, start: list[str] | None = after, limit: int = limit) -> list[MissingDocument]:
            return store.missing(conn, partition.range, start, limit, unqueued=again, unlocked=again)

        documents = reading.repeat(read)
        signal("backfill.read")
        is_last = len(documents) < limit
        if not embedder.is_remote:
            if documents:
                yield from portions(embedder, documents)
        elif begun or documents:
            cut = packs(embedder, begun + documents)
            # The last request may not be full: what is read next goes into it.
            begun = [] if is_last else cut.pop()
            yield from cut
        if is_last:
            return
        after = index.source.key_of(documents[-1].doc_id)


def _embed(embedder: VersionEmbedder, documents: list[MissingDocument], limits: BatchSize) -> Answered:
    started = time.monotonic()
    batch, letters, truncated = embed_batch(embedder, documents)
    if not embedder.is_remote:
        # How long a provider takes says nothing about what one write should hold.
        limits.took(len(documents), time.monotonic() - started)
    return Answered(batch, letters, truncated)


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
    with unhurried(conn):
        row = conn.execute(query, {"lower": bounds.lower, "upper": bounds.upper}).fetchone()
    return int(row[0]) if row else 0


def _claim(index: OpenIndex, version: str, partition: str) -> Taken:
    """Hold the partition for this run: a second one would be harmless and pay twice."""
    return only_run(
        f"embed_pipeline.backfill.{index.name}.{version}.{partition}",
        f"Partition {partition} of {index.name}.{version} is being filled by another run.",
        next_step=f"Run: embed-pipeline status {index.name}",
    )
