"""Dual-write: bring every live version up to date with what has changed. Atomic per version, isolated between versions.

A pause does not stop it: what serves must stay true. Only the backfill waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import psycopg
from psycopg import errors

from embed_pipeline.catalog import versions
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import queue, shape, slices
from embed_pipeline.documents.inbox import Distributor
from embed_pipeline.documents.queue import Claim, Leases
from embed_pipeline.documents.texts import DocumentText, Rejection
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.protocol import Urgency
from embed_pipeline.errors import ConfigurationError, EmbedderError, EmbedPipelineError, VersionRetired, WrongSpace
from embed_pipeline.flow.embed import Gathered, embed_documents, embed_prepared, portions
from embed_pipeline.flow.packs import packs, prepare
from embed_pipeline.flow.writing import write_batch
from embed_pipeline.index.batch_size import BatchSize
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import model_check, readers, standing
from embed_pipeline.migrate.standing import unless_dropped
from embed_pipeline.postgres import failures
from embed_pipeline.postgres.session import Line, Waiting
from embed_pipeline.signals import signal
from embed_pipeline.stores.patience import Stopwatch
from embed_pipeline.stores.protocol import EmbeddedBatch

T = TypeVar("T")

# A batch is a time, not a number (`batch_size.py`): at least one document, and no more than these.
FIRST, MOST = 32, 1_000
# While others hold all that is left.
LOOK_AGAIN_SECONDS = 0.02
# How often a drain counts what is left. Of many that takes as long as some of them.
COUNT_SECONDS = 1.0
# A drain gives up when so long none of its documents was done, and when it has seen for so long that it will take longer than anybody
# waits for a cutover.
STALL_SECONDS = 60.0
JUDGED_SECONDS = 10.0
LONGEST_DRAIN_SECONDS = 600.0
# The same where a person accepts that what is left stays as it is.
ACCEPTED_STALL_SECONDS = 5.0

# Nothing can be embedded: the provider fails or refuses, the model is another one, or cannot be opened here. What is gone needs none.
CANNOT_EMBED = (EmbedderError, WrongSpace, ConfigurationError)
# Another transaction got in the way; the claim comes round again. Everything else is a real failure.
RETRIED = (errors.DeadlockDetected, errors.SerializationFailure, errors.LockNotAvailable)


@dataclass
class VersionSync:
    """The result of one version's dual-write."""

    version: str
    written: int = 0
    settled: int = 0
    rejected: int = 0
    retried: int = 0
    pending: int = 0
    error: str = ""
    tokens: int = 0
    usd: float | None = None
    """Its price; None where no provider bills or no price is known."""

    @property
    def did_anything(self) -> bool:
        return bool(self.written or self.settled or self.rejected or self.error)


def distributor(index: OpenIndex) -> Distributor:
    """The distributor from the index's inbox to its live versions."""

    def live(conn: psycopg.Connection) -> list[str]:
        return [version.name for version in versions.live_versions(conn, index.name)]

    def stored(conn: psycopg.Connection, name: str) -> Iterator[list[str]]:
        with suppress(VersionRetired):
            yield from index.store(index.version(conn, name)).stored_ids(conn)

    return Distributor(index.name, index.source, live, stored)


def sync(index: OpenIndex, *, budget_seconds: float | None = None, waiting: Waiting | None = None) -> list[VersionSync]:
    """Bring every live version to where the documents are now; returns when nothing from before this call is left, or the time is over.

    A version whose provider fails reports its error and leaves the others alone. The active version is served first. A restart of
    PostgreSQL is outlived; `waiting` is told about it.
    """
    deadline = None if budget_seconds is None else time.monotonic() + budget_seconds
    with failures.as_sentences(), Line(index, waiting) as line:
        # First: the rows of a partition that was attached are among what is brought up to date.
        line.repeat(lambda conn: shape.look(conn, index.source, index.name))
        hands = distributor(index)
        mark = line.repeat(hands.take_mark)
        live = in_order(line.repeat(lambda conn: versions.live_versions(conn, index.name)))
    with ThreadPoolExecutor(max(len(live), 1)) as pool:
        results = list(pool.map(lambda version: drain_isolated(index, version, mark, deadline, waiting), live))
    for result in results:
        if not result.error and not result.pending:
            with suppress(EmbedPipelineError):
                _tell_again(index, next(version for version in live if version.name == result.version))
    if any(result.did_anything for result in results):
        # For those who search. A store that does not answer has been reported above.
        with suppress(psycopg.Error, EmbedPipelineError), index.connection() as conn:
            hands.rest(conn)
    return results


def _tell_again(index: OpenIndex, version: Version) -> None:
    """Put right what tells readers which version serves, where somebody has taken it away. `status` says it meanwhile."""
    reason = standing.untold(index, version)
    if reason:
        readers.tell(index)
        with index.connection() as conn:
            versions.record_event(conn, index.name, "told again", version=version.name, reason=reason)


@dataclass(frozen=True)
class Drained:
    """The documents from before the mark that a drain has left, and its rate."""

    left: int
    done: int
    seconds: float
    problem: EmbedPipelineError | None = None
    """Why nothing more could be embedded."""

    @property
    def rate(self) -> float:
        """Documents a second."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def is_slow(self) -> bool:
        """Whether what is left would take longer than anybody waits for a cutover."""
        return self.done > 0 and self.left > self.rate * LONGEST_DRAIN_SECONDS


def drain(index: OpenIndex, name: str, mark: int, *, accepted: int = 0) -> Drained:
    """Work until nothing from before `mark` is pending for one version.

    Gives up when none of it was done for STALL_SECONDS, or when it can be told that the rest takes longer than LONGEST_DRAIN_SECONDS.
    Where nothing can be embedded it removes what is gone, and says why. Up to `accepted` documents may be left, and are waited for
    ACCEPTED_STALL_SECONDS only.
    """
    with Line(index) as line:
        version = line.repeat(lambda conn: index.version(conn, name))
        work = Work(line, index, version, VersionSync(name))

        def waiting() -> int:
            return line.repeat(lambda conn: queue.pending(conn, index.name, name, mark))

        before, started = waiting(), time.monotonic()

        def enough(left: int, still: float) -> bool:
            seconds = time.monotonic() - started
            slow = seconds > JUDGED_SECONDS and Drained(left, before - left, seconds).is_slow
            return slow or (left <= accepted and still > ACCEPTED_STALL_SECONDS)

        problem: EmbedPipelineError | None = None
        try:
            left = work.until(mark, None, enough)
        except CANNOT_EMBED as failed:
            work.remove_gone(mark)
            problem, left = failed, waiting()
        return Drained(left, before - left, time.monotonic() - started, problem)


def in_order(live: list[Version]) -> list[Version]:
    """The version that serves first."""
    return sorted(live, key=lambda version: version.state != "active")


def drain_isolated(index: OpenIndex, version: Version, mark: int, deadline: float | None, waiting: Waiting | None) -> VersionSync:
    """Drain one version; what fails is its own and stands in the result."""
    result = VersionSync(version.name)
    before = index.spent(version.name, "dual-write")
    try:
        with failures.as_sentences(), Line(index, waiting) as line:
            work = Work(line, index, version, result)
            # Also where nothing waits: nobody else would say it.
            line.repeat(lambda conn: standing.require(conn, index, version))
            try:
                work.until(mark, deadline)
            except CANNOT_EMBED:
                work.remove_gone(mark)
                raise
    except VersionRetired:
        result.pending = 0  # Retired meanwhile: the work is over, not failed.
    except EmbedPipelineError as problem:
        result.error = str(problem)
        # Read the backlog again: reporting 0 here would hide unfinished work.
        with suppress(psycopg.Error, EmbedPipelineError), index.connection() as conn:
            result.pending = queue.pending(conn, index.name, version.name)
    result.usd = index.spent(version.name, "dual-write").since(before).usd
    return result


@dataclass
class Work:
    """One version's work, batch after batch, in one thread."""

    line: Line
    index: OpenIndex
    version: Version
    result: VersionSync
    leases: Leases = field(default_factory=Leases)
    _held: set[str] = field(default_factory=set)
    """The documents of the batch that are not acknowledged yet."""
    _counted: float = 0.0
    """When the claim was last counted on."""

    def until(self, mark: int, deadline: float | None, enough: Callable[[int, float], bool] = lambda left, still: False) -> int:
        """Work until nothing from before `mark` is left, and return what is when the time is over, `enough` says so (told what is left, and
        for how many seconds none of it was done), or none of it was done for STALL_SECONDS and in two tries: one may have waited for a store
        or a server that was away, and the next one gets it done."""
        least, moved, tries = queue.EVERYTHING, time.monotonic(), 0
        counting = moved + COUNT_SECONDS
        while True:
            claimed = self.batch(mark)
            tries += 1
            now = time.monotonic()
            if claimed and now < counting and (deadline is None or now <= deadline):
                continue
            left = self.line.repeat(lambda conn: queue.pending(conn, self.index.name, self.version.name, mark))
            self.result.pending = left
            now = time.monotonic()
            counting = now + COUNT_SECONDS
            if left < least:
                least, moved, tries = left, now, 0
            stalled = tries > 1 and now - moved > STALL_SECONDS
            if left == 0 or enough(left, now - moved) or stalled or (deadline is not None and now > deadline):
                return left
            if not claimed and not self.free_dead():
                signal("drain.waiting")
                time.sleep(LOOK_AGAIN_SECONDS)

    def remove_gone(self, mark: int = queue.EVERYTHING) -> None:
        """Work off what was announced as removed and is gone, as long as some of it is: for that no model is needed."""
        while True:
            settled = self.result.settled
            try:
                if not self.batch(mark, only_removed=True):
                    return
            except CANNOT_EMBED:
                # Among them is a document that came back; those that are gone were done before it failed.
                if self.result.settled == settled:
                    return

    def free_dead(self) -> int:
        """Free what dead or frozen workers hold; returns how many documents."""
        return self.line.repeat(lambda conn: self.leases.free_dead(conn, self.index.name, self.version.name))

    def batch(self, mark: int = queue.EVERYTHING, *, only_removed: bool = False) -> int:
        """Claim and work off one batch; returns how many documents were claimed."""
        sizes = _sizes(self.index, self.version)

        # A claim whose answer was lost comes round again when nobody counts on for it.
        claim = self.line.repeat(
            lambda conn: queue.claim(
                conn, self.index.name, self.version.name, limit=sizes.size, mark=mark, only_removed=only_removed
            )
        )
        if not claim.seqs:
            return 0
        signal("dual_write.claimed")
        self._held, self._counted = set(claim.seqs), claim.taken
        problem: BaseException | None = None
        try:
            with unless_dropped(self.index, self.version):
                self._work(claim)
        except RETRIED:
            self.result.retried += 1
        except (EmbedPipelineError, psycopg.Error) as failed:
            problem = failed
        if problem is None:
            self._end(claim, None)
            return len(claim.seqs)
        with suppress(psycopg.Error):
            self._end(claim, str(problem))
        raise problem

    def _work(self, claim: Claim) -> None:
        line, index, version = self.line, self.index, self.version
        store = index.store(version)
        current = line.repeat(lambda conn: slices.read_current(conn, index.source, list(claim.seqs)))
        signal("dual_write.read")
        hashes = {doc_id: digest for doc_id, (_, digest) in current.items()}
        settled = line.repeat(lambda conn: store.settle(conn, claim, hashes))
        self.result.settled += len(settled)
        self._held -= settled
        todo = [DocumentText(doc_id, text, digest) for doc_id, (text, digest) in current.items() if doc_id not in settled]
        if not todo:
            return
        embedder = index.embedder_of(version)
        # Deletes are handled above, so they go on where nothing may be embedded.
        if not line.repeat(lambda conn: model_check.require_same_model(conn, index, version)):
            self._embed_and_hold([partial(model_check.take_first_sample, index, version)], 1, claim)[0].result()
        asked = self._asked(embedder, todo, Urgency.SERVING if version.state == "active" else Urgency.LIVE)
        problem: BaseException | None = None
        for embedding in self._embed_and_hold(asked, embedder.spec.calls_in_flight, claim):
            try:
                gathered = embedding.result()
                if gathered.documents:
                    self._write(claim, gathered.batch, gathered.letters)
                # What the other requests brought is paid for, and is written all the same.
                problem = problem or gathered.failure
            except RETRIED as failed:
                problem = problem or failed
        if problem is not None:
            raise problem

    def _asked(self, embedder: VersionEmbedder, todo: list[DocumentText], urgency: Urgency) -> list[Callable[[], Gathered]]:
        """What is asked for at once: each request of a provider; else one portion, and what does not fit into its memory comes round again."""
        if embedder.is_remote:
            return [partial(embed_prepared, embedder, pack, urgency) for pack in packs(embedder, prepare(embedder, todo))]
        return [partial(self._embed_timed, embedder, next(portions(embedder, todo)), urgency)]

    def _embed_timed(self, embedder: VersionEmbedder, documents: list[DocumentText], urgency: Urgency) -> Gathered:
        started = time.monotonic()
        gathered = embed_documents(embedder, documents, urgency)
        _sizes(self.index, self.version).took(len(documents), time.monotonic() - started)
        return gathered

    def _write(self, claim: Claim, batch: EmbeddedBatch, letters: dict[str, Rejection]) -> None:
        store = self.index.store(self.version)
        self.result.tokens += batch.tokens
        # Many requests are many writes, and together they may take longer than a lease.
        if time.monotonic() - self._counted > queue.LEASE_SECONDS / 3:
            self._count_on(claim)
        signal("dual_write.embedded")
        watch = Stopwatch()
        written = write_batch(self.line, store, batch, lambda conn: store.replace(conn, claim, batch))
        _sizes(self.index, self.version).wrote(len(batch), watch.seconds)
        rejected = self.line.repeat(lambda conn: store.reject(conn, claim, letters))
        self.result.written += len(written)
        self.result.rejected += len(rejected)
        self._held -= written | rejected

    def _embed_and_hold(self, asked: Sequence[Callable[[], T]], calls: int, claim: Claim) -> list[Future[T]]:
        """Embed outside any transaction, and count on meanwhile: otherwise workers steal a slow batch from each other indefinitely, and pay
        each time. Returns when all are answered or have failed."""
        with ThreadPoolExecutor(min(len(asked), calls)) as pool:
            embedding = [pool.submit(each) for each in asked]
            while wait(embedding, timeout=queue.LEASE_SECONDS / 3).not_done:
                self._count_on(claim)
            return embedding

    def _count_on(self, claim: Claim) -> None:
        self.line.repeat(lambda conn: queue.beat(conn, claim))
        self._counted = time.monotonic()

    def _end(self, claim: Claim, error: str | None) -> None:
        """Give back what is still claimed, and end the claim: nothing stays held after this."""

        def give_back(conn: psycopg.Connection) -> None:
            with conn.transaction():
                # What was acknowledged is held no more.
                if self._held:
                    queue.release(conn, claim, self._held, error=error)
                queue.end_claim(conn, claim)

        self.line.repeat(give_back)


def _sizes(index: OpenIndex, version: Version) -> BatchSize:
    """How many documents a batch takes: about half a second's, at least one; of a provider what its requests in flight hold."""
    declared = index.spec.versions.get(version.name)
    first = FIRST if declared is None or not declared.is_remote else declared.calls_in_flight * declared.texts_per_call
    return index.batch_sizes.setdefault(f"{version.name} dual-write", BatchSize(1, MOST, first=min(first, MOST)))
