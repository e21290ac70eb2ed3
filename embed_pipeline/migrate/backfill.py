"""Backfill: fill one key-range partition of a version from history. Insert-only, resumable, a good neighbour.

Reading, embedding and writing overlap: the calling thread reads ahead, a pool embeds, one thread writes what comes back
(`in_flight.py`). What is held in memory is bounded, whatever the size of the corpus.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import psycopg

from embed_pipeline.catalog import partitions
from embed_pipeline.catalog.partitions import Partition
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import census, queue, shape
from embed_pipeline.documents.texts import DocumentText
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.errors import FencedOff, IllegalTransition, Stopped
from embed_pipeline.flow.embed import Gathered, embed_documents, embed_prepared, portions
from embed_pipeline.flow.in_flight import InFlight
from embed_pipeline.flow.packs import Prepared, packs, prepare
from embed_pipeline.flow.reading import read_missing
from embed_pipeline.flow.writing import Listener as Listener
from embed_pipeline.flow.writing import Progress as Progress
from embed_pipeline.flow.writing import Writing
from embed_pipeline.index.batch_size import BatchSize
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import adopt_vectors, batch_backfill, loss, model_check
from embed_pipeline.postgres.session import Line, Taken, only_run
from embed_pipeline.signals import signal
from embed_pipeline.stores.adopting import adoption_of
from embed_pipeline.stores.protocol import Filled, Found, VersionStore

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
    """This run's price; None where no provider bills or no price is known."""
    learned: tuple[str, ...] = ()
    """The limits of the model's server that this run has learned, in sentences."""


def unfilled(conn: psycopg.Connection, index: OpenIndex, version: str) -> list[str]:
    """Keys of the partitions that are not completed yet, in order."""
    return [each.range.partition for each in partitions.listed(conn, index.name, version) if each.completed_at is None]


def fill_partition(index: OpenIndex, name: str, partition_key: str, listener: Listener | None = None) -> PartitionReport:
    """Fill one partition and mark it complete. Safe to repeat at any time: what is there is skipped and not paid for again.

    One that is filled already is compared again; what differs is queued for the dual-write. Outlives a restart of PostgreSQL and cut
    connections (`postgres.session.Line`): what is embedded waits in memory until it is written.
    """
    progress = Progress(partition_key, 0)
    before = index.spent(name, "backfill", "batch")

    def waiting(reason: str) -> None:
        progress.waiting = reason
        if listener is not None:
            listener(progress)

    with Line(index, waiting, taken=_claim(index, name, partition_key)) as reading:
        version, partition = reading.repeat(lambda conn: _begin(conn, index, name, partition_key))
        progress.total = reading.repeat(lambda conn: census.count(conn, index.source, partition.range))
        filled = None
        if partition.completed_at is None and not partition.range.is_empty:
            filled = _fill(reading, index, version, partition, progress, listener)
        documents = reading.repeat(lambda conn: _complete(conn, index, version, partition, filled))
        learned = () if filled is None else tuple(index.embedder_of(version).learned)
        return PartitionReport(
            partition_key,
            documents,
            progress.written,
            progress.rejected,
            progress.truncated,
            progress.seconds,
            progress.tokens,
            index.spent(name, "backfill", "batch").since(before).usd,
            learned,
        )


def submit_ahead(index: OpenIndex, name: str, keys: Sequence[str]) -> None:
    """In batch mode: submit the jobs of all these partitions, so that the provider works on them at once. Else nothing.

    Partitions that another run fills are left to it. Without this each partition's job would wait for the one before.
    """
    for key in keys if batch_backfill.is_wanted(index, name) else ():
        with suppress(Stopped), Line(index, taken=_claim(index, name, key)) as line:
            version, partition = line.repeat(lambda conn, key=key: _begin(conn, index, name, key))  # type: ignore[misc]
            if not partition.range.is_empty:
                batch_backfill.submit(line, index, version, partition)


def _begin(conn: psycopg.Connection, index: OpenIndex, name: str, key: str) -> tuple[Version, Partition]:
    version = index.version(conn, name)
    if not version.is_live:
        raise IllegalTransition(
            f"Version {name!r} of index {index.name!r} is retired and cannot be backfilled.",
            next_step="Declare a new version.",
        )
    partition = _partition(conn, index, version, key)
    shape.look(conn, index.source, index.name)
    index.prove_capture(conn)
    return version, partition


def _fill(
    reading: Line, index: OpenIndex, version: Version, partition: Partition, progress: Progress, listener: Listener | None
) -> Filled | None:
    """Insert what the partition misses; None where another run has filled it meanwhile."""
    store = index.store(version)
    adoption = adoption_of(store)
    if adoption is not None and not reading.repeat(adoption.is_over):
        return adopt_vectors.copy(reading, index, version, adoption, partition, progress, listener)
    embedder = index.embedder_of(version)
    reading.repeat(lambda conn: model_check.prepare(conn, index, version))
    fence = reading.repeat(lambda conn: partitions.open_to_fill(conn, index.name, version.name, partition.range.partition))
    if fence is None:
        return None
    signal("backfill.opened")
    # Before the first document is read: what is not younger than this is what this run reads.
    horizon = reading.repeat(lambda conn: shape.horizon(conn, index.source, index.name))
    limits, throttle = _limits(index, store, embedder), index.throttle(version)
    with Line(index, reading.waiting) as line:
        writing = Writing(line, store, fence, limits, throttle, progress, listener)
        batch_backfill.run(reading, index, version, partition, writing)
        # What jobs have brought is there now, and is not asked for again.
        partition = replace(partition, begun=partition.begun or progress.written > 0)
        calls = embedder.spec.calls_in_flight
        # As many may wait to be written as are asked for: else the writer would run dry for as long as a provider takes to answer.
        may_wait = calls * embedder.spec.texts_per_call if embedder.is_remote else None
        with InFlight(calls, lambda: limits.size, writing.write, may_wait=may_wait) as in_flight:
            for asked in _asked(reading, index, store, embedder, partition, limits):
                # First: what is learned while it waits counts for this batch too.
                in_flight.wait_for_room()
                signal("backfill.asking")
                reading.repeat(lambda conn: throttle.wait_until_allowed(conn, reading.waiting))
                reading.repeat(lambda conn: model_check.require_same_model(conn, index, version))
                # Requests that wait for their account do so in the pool; the next word to the listener says why.
                progress.waiting = index.provider_wait(version.name)
                in_flight.submit(asked)
    return Filled(fence, horizon)


def _complete(conn: psycopg.Connection, index: OpenIndex, version: Version, partition: Partition, filled: Filled | None) -> int:
    """Close the partition, compare it with the documents, queue what differs, and mark it filled; returns how many documents it has."""
    fence = partitions.close(conn, index.name, version.name, partition.range.partition)
    signal("backfill.closed")
    found = Found() if partition.range.is_empty else _compare(conn, index, version, partition, filled)
    signal("backfill.compared")
    orphans = found.orphans
    if orphans:
        held = found.current + len(orphans)
        if loss.is_too_much(len(orphans), held, index.spec.reconcile.max_loss):
            raise loss.refused(conn, index.spec, str(index.source), [loss.Loss(version.name, len(orphans), held)])
        if shape.has_changed(conn, index.source, index.name) or shape.open_doubts(conn, index.name):
            # What the table shows is doubted: whether these are gone is left to the full comparison, which weighs them all.
            orphans = set()
    different = sorted(doc_id for doc_id, verdict in found.different.items() if verdict != "orphaned" or doc_id in orphans)
    queue.enqueue(conn, index.name, version.name, different, removed=orphans)
    with conn.transaction():
        # The last word of a partition, and with it all that was committed lazily before.
        queue.commit_now(conn)
        if not partitions.complete(conn, fence, found.documents):
            raise FencedOff(
                f"Partition {fence.partition} of {fence.index}.{fence.version} was opened or closed by another run meanwhile.",
                next_step=f"Run: embed-pipeline backfill {fence.index} {fence.version}",
            )
    return found.documents


def _compare(conn: psycopg.Connection, index: OpenIndex, version: Version, partition: Partition, filled: Filled | None) -> Found:
    """What this run has hashed need not be hashed again, unless the table has become another one meanwhile: then old rows have new texts."""
    store = index.store(version)
    found = store.compare_partition(conn, partition.range, filled)
    if filled is None or shape.read(conn, index.source, index.name).digest == filled.horizon.shape:
        return found
    return store.compare_partition(conn, partition.range, None)


def _limits(index: OpenIndex, store: VersionStore, embedder: VersionEmbedder) -> BatchSize:
    most = index.spec.backfill.write_batch
    # A provider's requests have their own size: there the time of writes alone decides.
    smallest = most if embedder.is_remote else embedder.spec.texts_per_call
    return index.batch_sizes.setdefault(store.version.name, BatchSize(smallest, most))


def _asked(
    reading: Line, index: OpenIndex, store: VersionStore, embedder: VersionEmbedder, partition: Partition, limits: BatchSize
) -> Iterator[Callable[[], Gathered]]:
    """What is asked for at once, read in key order: of a provider one request, else as many documents as time allows."""
    found = read_missing(reading, index, store, partition)
    if embedder.is_remote:
        return (partial(embed_prepared, embedder, pack) for pack in _of_requests(embedder, found))
    return (partial(_embed_timed, embedder, part, limits) for part in _of_time(embedder, found, limits))


def _of_requests(embedder: VersionEmbedder, found: Iterator[list[DocumentText]]) -> Iterator[list[Prepared]]:
    held: list[Prepared] = []
    for documents in found:
        held += prepare(embedder, documents)
        if len(held) >= READ_PACKS * embedder.spec.texts_per_call:
            cut = packs(embedder, held)
            # The last request may not be full: what is read next goes into it.
            held = cut.pop()
            yield from cut
    yield from packs(embedder, held)


def _of_time(embedder: VersionEmbedder, found: Iterator[list[DocumentText]], limits: BatchSize) -> Iterator[list[DocumentText]]:
    held: list[DocumentText] = []
    for documents in found:
        held += documents
        while len(held) >= limits.size:
            batch, held = held[: limits.size], held[limits.size :]
            yield from portions(embedder, batch)
    if held:
        yield from portions(embedder, held)


def _embed_timed(embedder: VersionEmbedder, documents: list[DocumentText], limits: BatchSize) -> Gathered:
    # How long a provider takes would say nothing about what one write should hold.
    started = time.monotonic()
    gathered = embed_documents(embedder, documents)
    limits.took(len(documents), time.monotonic() - started)
    return gathered


def _partition(conn: psycopg.Connection, index: OpenIndex, version: Version, key: str) -> Partition:
    found = {each.range.partition: each for each in partitions.listed(conn, index.name, version.name)}
    if key not in found:
        known = sorted(found)
        raise IllegalTransition(
            f"Version {version.name!r} of index {index.name!r} has no partition {key!r}; it has {known[0]} to {known[-1]}.",
            next_step=f"Run: embed-pipeline status {index.name}",
        )
    return found[key]


def _claim(index: OpenIndex, version: str, partition: str) -> Taken:
    """Hold the partition for this run: a second one would be harmless and pay twice."""
    return only_run(
        f"embed_pipeline.backfill.{index.name}.{version}.{partition}",
        f"Partition {partition} of {index.name}.{version} is being filled by another run",
        next_step=f"Run: embed-pipeline status {index.name}",
    )
