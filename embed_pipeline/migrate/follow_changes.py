"""`sync --watch`: works off changes as they arrive, with a thread for each version, so that a slow model delays only its own.

No NOTIFY in the application's transactions: all their commits would take turns (docs/decisions/0004). The inbox is looked at instead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone

import psycopg
from croniter import croniter

from embed_pipeline.catalog import versions
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import inbox, queue, shape
from embed_pipeline.documents import source as documents_source
from embed_pipeline.documents.shape import Doubt
from embed_pipeline.errors import DatabaseUnavailable, DocumentsTableError, EmbedPipelineError, VectorsGone, VersionRetired
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import standing, verify
from embed_pipeline.migrate.after_cutover import Looked, Looking
from embed_pipeline.migrate.dual_write import VersionSync, Work, distributor
from embed_pipeline.postgres import failures
from embed_pipeline.postgres.session import Line, Waiting
from embed_pipeline.signals import signal

# One indexed query each: how soon a change is seen.
LOOK_SECONDS = 0.03
# How often versions, dead workers and the shape of the table are looked at.
ROUND_SECONDS = 1.0
# A provider that fails is asked again after this time. What needs no provider goes on.
RETRY_SECONDS = 5.0
# A comparison that a doubt has asked for is tried again after this time.
COMPARE_AGAIN_SECONDS = 60.0
# How often it is looked whether a version's vectors are still there.
STANDING_SECONDS = 10.0
# For a comparison that is nearly done when the watch is stopped.
END_SECONDS = 5.0

Report = Callable[[list[VersionSync]], None]


def follow_changes(
    index: OpenIndex,
    stop: threading.Event,
    report: Report,
    waiting: Waiting | None = None,
    doubted: Callable[[list[Doubt]], None] = lambda doubts: None,
) -> None:
    """Work off changes as they arrive until `stop`. However long PostgreSQL is away, it goes on when it answers again; `waiting` is told.

    `doubted` hears of open doubts, every second while there are any and once when none is left. The full comparison that they ask for,
    and that of `reconcile.schedule`, run here; so do the looks after a cutover (`watch` in the declaration).
    """
    comparing = _Comparing(index, stop, report)
    looking = Looking(index, stop, lambda found: report([_as_sync(found)]))
    try:
        while _watch_table(index, stop, report, waiting, doubted, comparing, looking):
            pass
    finally:
        comparing.join()
        looking.join()


def _as_sync(found: Looked | EmbedPipelineError) -> VersionSync:
    """What a look has to say, where its caller hears of the versions."""
    if isinstance(found, EmbedPipelineError):
        return VersionSync("watch", error=str(found))
    return VersionSync("watch", error="" if found.outcome in ("well", "overtaken") else found.sentence)


def _watch_table(
    index: OpenIndex,
    stop: threading.Event,
    report: Report,
    waiting: Waiting | None,
    doubted: Callable[[list[Doubt]], None],
    comparing: _Comparing,
    looking: Looking,
) -> bool:
    """Watch until `stop`, or until the documents have other columns than this handle knew; whether it was that."""
    watchers = _Watchers(index, report, waiting)
    hands = distributor(index)
    table = _Table(index, report)
    try:
        with Line(index, waiting, stop=stop) as line:
            following, were_doubts = 0.0, False
            while not stop.is_set():
                if time.monotonic() >= following:
                    following = time.monotonic() + ROUND_SECONDS
                    watchers.follow(line.repeat(lambda conn: versions.live_versions(conn, index.name)))
                    line.repeat(hands.rest)
                    doubts = line.repeat(lambda conn: shape.look(conn, index.source, index.name))
                    if doubts or were_doubts:
                        doubted(doubts)
                    were_doubts = bool(doubts)
                    if doubts and not comparing.is_under_way and line.repeat(table.is_another):
                        watchers.join()
                        line.repeat(index.look_at_table)
                        return True
                    comparing.begin_if_due(shape.asks_for_comparison(doubts))
                    looking.begin_if_due()
                if line.repeat(lambda conn: inbox.has_rows(conn, index.name)):
                    line.repeat(lambda conn: hands.distribute(conn, watchers.wake))
                stop.wait(LOOK_SECONDS)
    except DatabaseUnavailable:
        if not stop.is_set():
            raise
    finally:
        watchers.join()
    return False


class _Table:
    """The documents table, while it is doubted: a key of a wider type, or a column that is gone, is no matter of a comparison alone."""

    def __init__(self, index: OpenIndex, report: Report) -> None:
        self._index = index
        self._report = report
        self._said = ""

    def is_another(self, conn: psycopg.Connection) -> bool:
        """Whether it can be used, and has other columns. That it cannot be used is reported once."""
        try:
            return documents_source.inspect(conn, self._index.spec.source()) != self._index.source
        except DocumentsTableError as problem:
            if problem.message != self._said:
                self._said = problem.message
                self._report([VersionSync("documents", error=str(problem))])
            return False


class _Watchers:
    """A thread for each live version."""

    def __init__(self, index: OpenIndex, report: Report, waiting: Waiting | None) -> None:
        self._index = index
        self._stop = threading.Event()
        self._report = report
        self._waiting = waiting
        self._reporting = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}
        self._wakes: dict[str, threading.Event] = {}

    def follow(self, live: list[Version]) -> None:
        """Begin with versions that are new; those that were retired end by themselves."""
        for version in live:
            thread = self._threads.get(version.name)
            if thread is None or not thread.is_alive():
                self._wakes[version.name] = threading.Event()
                self._threads[version.name] = threading.Thread(
                    target=self._run, args=(version, self._wakes[version.name]), name=f"sync-{version.name}", daemon=True
                )
                self._threads[version.name].start()

    def wake(self) -> None:
        """There is something to claim."""
        for event in self._wakes.values():
            event.set()

    def join(self) -> None:
        self._stop.set()
        self.wake()
        for thread in self._threads.values():
            thread.join()

    def _run(self, version: Version, wake: threading.Event) -> None:
        fails_until = stands_until = telling = 0.0
        try:
            with failures.as_sentences(), Line(self._index, self._waiting, stop=self._stop) as line:
                work = Work(line, self._index, version, VersionSync(version.name))
                while not self._stop.is_set():
                    failing = time.monotonic() < fails_until
                    claimed = 0
                    # Before the look: who wakes this thread after it has something for the next one.
                    wake.clear()
                    try:
                        with failures.as_sentences():
                            if time.monotonic() >= stands_until:
                                line.repeat(lambda conn: standing.require(conn, self._index, version))
                                stands_until = time.monotonic() + STANDING_SECONDS
                            claimed = work.batch(only_removed=failing)
                    except VersionRetired:
                        raise
                    except (EmbedPipelineError, psycopg.Error) as problem:
                        if self._stop.is_set():
                            return
                        work.result.error = str(problem)
                        fails_until = time.monotonic() + RETRY_SECONDS
                        if isinstance(problem, VectorsGone):
                            # Nothing can be worked off, removals neither; asking more often would only say it more often.
                            stands_until = 0.0
                            self._tell(work, line, version)
                            self._stop.wait(STANDING_SECONDS)
                            continue
                    # While there is more to claim no more often than that: what is told of is counted.
                    if not claimed or work.result.error or time.monotonic() >= telling:
                        telling = time.monotonic() + ROUND_SECONDS
                        self._tell(work, line, version)
                    if not claimed:
                        work.free_dead()
                        wake.wait(ROUND_SECONDS)
        except (VersionRetired, DatabaseUnavailable):
            return  # Retired: nobody wants its vectors any more. Unavailable: told to stop; the watch itself says why.

    def _tell(self, work: Work, line: Line, version: Version) -> None:
        if not work.result.did_anything:
            return
        work.result.pending = line.repeat(lambda conn: queue.pending(conn, self._index.name, version.name))
        told, work.result = work.result, VersionSync(version.name)
        with self._reporting:
            self._report([told])
        signal("watch.told")


class _Comparing:
    """The full comparison, in a thread of its own: on its schedule, and at once when something is doubted."""

    def __init__(self, index: OpenIndex, stop: threading.Event, report: Report) -> None:
        self._index = index
        self._stop = stop
        self._report = report
        self._ticks = croniter(index.spec.reconcile.schedule, datetime.now(timezone.utc), ret_type=datetime)
        self._due = self._ticks.get_next()
        self._thread: threading.Thread | None = None
        self._again = 0.0

    @property
    def is_under_way(self) -> bool:
        """Whether one runs now."""
        return self._thread is not None and self._thread.is_alive()

    def begin_if_due(self, doubted: bool) -> None:
        due = doubted and time.monotonic() >= self._again
        if datetime.now(timezone.utc) >= self._due:
            due, self._due = True, self._ticks.get_next()
        if due and not self.is_under_way:
            self._again = time.monotonic() + COMPARE_AGAIN_SECONDS
            self._thread = threading.Thread(target=self._compare, name="compare", daemon=True)
            self._thread.start()

    def join(self) -> None:
        """A comparison takes as long as the table is large, and may end anywhere: who stops does not wait for it."""
        if self._thread is not None:
            self._thread.join(timeout=END_SECONDS)

    def _compare(self) -> None:
        try:
            with failures.as_sentences():
                verify.reconcile(self._index)
        except (EmbedPipelineError, psycopg.Error) as problem:
            # The table may get other names in the middle of it: the watch goes on, and compares again.
            if not self._stop.is_set():
                self._report([VersionSync("comparison", error=str(problem))])
