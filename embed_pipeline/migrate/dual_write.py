"""Dual-write: bring every live version up to date with the change queue. Atomic per version, isolated between versions.

A pause does not stop it: what serves must stay true. Only the backfill waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import psycopg
from psycopg import errors

from embed_pipeline.catalog import versions
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import queue
from embed_pipeline.documents import source as documents_source
from embed_pipeline.documents.queue import Claim
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.protocol import Urgency
from embed_pipeline.errors import DatabaseUnavailable, EmbedderError, EmbedPipelineError, StoreUnavailable, VersionRetired
from embed_pipeline.migrate import model_check
from embed_pipeline.migrate.embed import embed_batch, paid_for, portions
from embed_pipeline.migrate.open_index import OpenIndex
from embed_pipeline.migrate.outage import Line, Waiting, write_batch
from embed_pipeline.migrate.packs import packs
from embed_pipeline.postgres import failures
from embed_pipeline.signals import signal
from embed_pipeline.stores.protocol import EmbeddedBatch, VersionStore

T = TypeVar("T")

BATCH = 128
# Renewed while a slow provider embeds: only a worker that died or froze lets it run out.
LEASE_SECONDS = 20.0
WATCH_SECONDS = 0.2

# A document that the application held comes round again after this time; a drain gives up after so many empty looks.
RETRY_SECONDS = 0.05
IDLE_TRIES = 40

# Another transaction got in the way; the claim comes round again. Everything else is a real failure.
RETRIED = (errors.DeadlockDetected, errors.SerializationFailure, errors.LockNotAvailable)


@dataclass
class VersionSync:
    """What one version's dual-write did."""

    version: str
    written: int = 0
    settled: int = 0
    rejected: int = 0
    retried: int = 0
    pending: int = 0
    error: str = ""
    tokens: int = 0
    usd: float | None = None
    """What was paid for it; None where nobody is paid or no price is known."""


def sync(index: OpenIndex, *, budget_seconds: float | None = None, waiting: Waiting | None = None) -> list[VersionSync]:
    """Drain the queue of every live version; returns when nothing claimable is left or the time is over.

    A version whose provider fails reports its error and leaves the others alone. The active version is served first. A restart of
    PostgreSQL is outlived; `waiting` is told about it.
    """
    with Line(index, waiting) as line:
        live = _in_order(line.repeat(lambda conn: versions.live_versions(conn, index.name)))
    deadline = None if budget_seconds is None else time.monotonic() + budget_seconds
    with ThreadPoolExecutor(max(len(live), 1)) as pool:
        return list(pool.map(lambda version: _drain_isolated(index, version, deadline, waiting), live))


def watch(
    index: OpenIndex,
    stop: threading.Event,
    report: Callable[[list[VersionSync]], None],
    waiting: Waiting | None = None,
) -> None:
    """Sync as changes arrive until `stop`: looks for work five times a second, one indexed query each.

    No NOTIFY in the application's transactions: it would make all their commits take turns (docs/decisions). However long PostgreSQL
    is away, it goes on when PostgreSQL answers again; `waiting` is told.
    """
    with Line(index, waiting, stop=stop) as line:
        while not stop.is_set():
            try:
                found = line.repeat(lambda conn: queue.has_work(conn, index.name))
            except DatabaseUnavailable:
                if stop.is_set():
                    return
                raise
            if found:
                report(sync(index, waiting=waiting))
            stop.wait(WATCH_SECONDS)


def drain(index: OpenIndex, name: str, mark: int, deadline_seconds: float) -> int:
    """Work until nothing up to `mark` is pending for one version; returns what is still pending at the deadline."""
    deadline = time.monotonic() + deadline_seconds
    with Line(index) as line:
        version = line.repeat(lambda conn: index.version(conn, name))
        result = VersionSync(name)
        while True:
            _one_batch(line, index, version, result)
            left = line.repeat(lambda conn: queue.pending(conn, index.name, name, mark))
            if left == 0 or time.monotonic() > deadline:
                return left
            signal("drain.waiting")
            time.sleep(0.02)


def _in_order(live: list[Version]) -> list[Version]:
    return sorted(live, key=lambda version: version.state != "active")


def _drain_isolated(index: OpenIndex, version: Version, deadline: float | None, waiting: Waiting | None) -> VersionSync:
    result = VersionSync(version.name)
    before = index.spent(version.name, "dual-write")
    try:
        with failures.as_sentences(), Line(index, waiting) as line:
            idle = 0
            while deadline is None or time.monotonic() < deadline:
                claimed = _one_batch(line, index, version, result)
                result.pending = line.repeat(lambda conn: queue.pending(conn, index.name, version.name))
                idle = 0 if claimed else idle + 1
                if result.pending == 0 or idle > IDLE_TRIES:
                    break
                if not claimed:
                    time.sleep(RETRY_SECONDS)
    except VersionRetired:
        result.pending = 0  # Nobody wants its vectors any more: the work is over, not failed.
    except EmbedPipelineError as problem:
        result.error = str(problem)
        # What was not done is still to do: a report that says 0 would be believed.
        with suppress(psycopg.Error, EmbedPipelineError), index.connection() as conn:
            result.pending = queue.pending(conn, index.name, version.name)
    result.usd = index.spent(version.name, "dual-write").since(before).usd
    return result


def _one_batch(line: Line, index: OpenIndex, version: Version, result: VersionSync) -> int:
    """Claim and work off one batch; returns how many documents were claimed."""
    # A claim whose answer was lost comes round again when its lease runs out.
    claim = line.repeat(lambda conn: _claim(conn, index, version))
    if not claim.seqs:
        return 0
    signal("dual_write.claimed")
    try:
        done = _work(line, index, version, claim, result)
    except RETRIED:
        done = set()
        result.retried += 1
    except (EmbedderError, StoreUnavailable, psycopg.Error) as problem:
        with suppress(psycopg.Error):
            _release(line, claim, list(claim.seqs), delay=5.0, error=str(problem))
        raise
    left = [doc_id for doc_id in claim.seqs if doc_id not in done]
    _release(line, claim, left, delay=RETRY_SECONDS, error=None)
    return len(claim.seqs)


def _claim(conn: psycopg.Connection, index: OpenIndex, version: Version) -> Claim:
    with conn.transaction():
        return queue.claim(conn, index.name, version.name, limit=BATCH, lease_seconds=LEASE_SECONDS)


def _work(line: Line, index: OpenIndex, version: Version, claim: Claim, result: VersionSync) -> set[str]:
    store = index.store(version)
    current = line.repeat(lambda conn: documents_source.read_current(conn, index.source, list(claim.seqs)))
    signal("dual_write.read")
    hashes = {doc_id: digest for doc_id, (_, digest) in current.items()}
    settled = line.repeat(lambda conn: store.settle(conn, claim, hashes))
    result.settled += len(settled)
    todo = [(doc_id, text, digest) for doc_id, (text, digest) in current.items() if doc_id not in settled]
    if not todo:
        return settled
    embedder = index.embedder_of(version)
    # After what needs no model: also where nothing may be embedded, a document that is gone is not found again.
    if not line.repeat(lambda conn: model_check.require_same_model(conn, index, version)):
        _embed_and_hold(line, [partial(model_check.take_first_sample, index, version)], 1, claim)[0].result()
    urgency = Urgency.SERVING if version.state == "active" else Urgency.LIVE
    asked = [partial(embed_batch, embedder, part, urgency) for part in _parts(embedder, todo)]
    done = set(settled)
    problem: BaseException | None = None
    for embedding in _embed_and_hold(line, asked, embedder.spec.calls_in_flight, claim):
        try:
            batch, letters, _ = embedding.result()
            done |= _write(line, store, claim, batch, letters, result)
        except (EmbedderError, *RETRIED) as failed:
            # What the other requests brought is paid for, and is written all the same.
            problem = problem or failed
            kept = paid_for(failed)
            if kept is not None:
                done |= _write(line, store, claim, kept.batch, kept.letters, result)
    if problem is not None:
        raise problem
    return done


def _write(
    line: Line,
    store: VersionStore,
    claim: Claim,
    batch: EmbeddedBatch,
    letters: dict[str, tuple[bytes, str]],
    result: VersionSync,
) -> set[str]:
    result.tokens += batch.tokens
    signal("dual_write.embedded")
    written = write_batch(line, store, batch, lambda conn: store.replace(conn, claim, batch))
    rejected = line.repeat(lambda conn: store.reject(conn, claim, letters))
    result.written += len(written)
    result.rejected += len(rejected)
    return written | rejected


def _parts(embedder: VersionEmbedder, todo: list[tuple[str, str, bytes]]) -> list[list[tuple[str, str, bytes]]]:
    """What is asked for at once: each request of a provider; else one portion, and what does not fit into its memory comes round again."""
    return packs(embedder, todo) if embedder.is_remote else [next(portions(embedder, todo))]


def _embed_and_hold(line: Line, asked: Sequence[Callable[[], T]], calls: int, claim: Claim) -> list[Future[T]]:
    """Embed outside any transaction, and renew the lease meanwhile: else two workers with a slow provider would take a batch from each
    other for ever, and pay each time. Returns when all are answered or have failed."""
    with ThreadPoolExecutor(min(len(asked), calls)) as pool:
        embedding = [pool.submit(each) for each in asked]
        while wait(embedding, timeout=LEASE_SECONDS / 3).not_done:
            line.repeat(lambda conn: queue.renew(conn, claim, LEASE_SECONDS))
        return embedding


def _release(line: Line, claim: Claim, doc_ids: list[str], *, delay: float, error: str | None) -> None:
    def give_back(conn: psycopg.Connection) -> None:
        with conn.transaction():
            queue.release(conn, claim, doc_ids, delay=delay, error=error)

    if doc_ids:
        line.repeat(give_back)
