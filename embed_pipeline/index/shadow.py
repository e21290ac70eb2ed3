"""Shadow reads: what another version would have answered, asked behind the application's back and compared with what was.

Nothing of it may change, delay or fail an answer. So it has connections, stores and a model of its own, that are opened in its own thread; a
search hands over what it has and goes on, also where the queue is full; and no retire or cutover is held up by it.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from embed_pipeline import forks
from embed_pipeline.catalog import shadows
from embed_pipeline.catalog.shadows import Disagreement, Tally
from embed_pipeline.embedders.protocol import Urgency
from embed_pipeline.errors import ConfigurationError, EmbedPipelineError
from embed_pipeline.evaluate.agreement import overlap, rank_biased_overlap
from embed_pipeline.evaluate.sketch import bucket
from embed_pipeline.foreign_words import readable
from embed_pipeline.index.resolver import Resolver, Serving
from embed_pipeline.postgres.sessions import Sessions
from embed_pipeline.signals import signal

if TYPE_CHECKING:
    from embed_pipeline.documents.selection import Selection
    from embed_pipeline.index.space import OwnPlace
    from embed_pipeline.stores.protocol import Hit

logger = logging.getLogger("embed_pipeline.search")

# So many queries wait; more are dropped.
MOST_WAITING = 64
NOTE_SECONDS = 60.0
# A version that could not be searched is looked for again after this time.
AGAIN_SECONDS = 60.0
# How long a searcher that is closed waits for what was found to be noted.
FAREWELL_SECONDS = 2.0


@dataclass(frozen=True)
class Answered:
    """An answer that an application was given, and how long it took."""

    text: str
    k: int
    among: Selection
    version: str
    route: str
    hits: Sequence[Hit]
    seconds: float


class Shadow:
    """The shadow of one searcher. `offer` is all that a search meets of it."""

    def __init__(
        self,
        index: str,
        url: str,
        models: Mapping[str, OwnPlace],
        version: str,
        share: float,
        keep_queries: bool,
        refresh_seconds: float,
    ) -> None:
        if not 0 < share <= 1:
            raise ConfigurationError(
                f"share is {share!r}, and it is the share of searches that are shadowed.", next_step="Write share=0.05."
            )
        self._index = index
        self._version = version
        self._share = share
        self._keep_queries = keep_queries
        self._refresh_seconds = refresh_seconds
        # Not the searcher's: a search would wait while a model is opened here, or for a connection.
        self._resolver = Resolver(index, url, models)
        self._sessions = Sessions(url, 1)
        self._closed = threading.Event()
        self._begin()
        forks.tell(self)

    def _begin(self) -> None:
        self._waiting: queue.Queue[Answered | None] = queue.Queue(MOST_WAITING)
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._dropped: dict[str, int] = {}
        self._tallies: dict[str, Tally] = {}
        self._said: set[str] = set()
        self._serving: tuple[Serving, float] | None = None
        self._failed: tuple[Exception, float] | None = None
        self._may_note: bool | None = None

    def forked(self) -> None:
        """See `forks.Holder`. What waits is the parent's."""
        forks.abandon(self._waiting, self._starting, self._thread, self._closed, self._serving)
        self._resolver.forked()
        was_closed, self._closed = self._closed.is_set(), threading.Event()
        if was_closed:
            self._closed.set()
        self._begin()

    def offer(self, answered: Answered) -> None:
        """Have this search done by the shadow too, for its share of all. Returns at once, and raises nothing."""
        try:
            if answered.version == self._version or self._closed.is_set() or random.random() >= self._share:
                return
            try:
                self._waiting.put_nowait(answered)
            except queue.Full:
                # Not under a lock: one that is lost here and there is no matter, and no search may wait.
                self._dropped[answered.route] = self._dropped.get(answered.route, 0) + 1
            if self._thread is None or not self._thread.is_alive():
                self._start()
        except Exception as problem:  # whatever it is: the application has its answer
            self._say(problem)

    def _start(self) -> None:
        if not self._starting.acquire(blocking=False):
            return  # Another search starts it.
        try:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name=f"shadow-{self._index}", daemon=True)
                self._thread.start()
        finally:
            self._starting.release()

    def close(self) -> None:
        """Note what was found, and close what is open."""
        self._closed.set()
        thread = self._thread
        if thread is not None:
            with suppress(queue.Full):
                self._waiting.put_nowait(None)
            thread.join(FAREWELL_SECONDS)
        self._sessions.close()
        if thread is None or not thread.is_alive():
            self._resolver.spaces.close()

    def _run(self) -> None:
        due = time.monotonic() + NOTE_SECONDS
        while not self._closed.is_set():
            with suppress(queue.Empty):
                if (answered := self._waiting.get(timeout=max(0.0, due - time.monotonic()))) is not None:
                    self._compare(answered)
            if time.monotonic() >= due:
                self.note()
                due = time.monotonic() + NOTE_SECONDS
        self.note()

    def _compare(self, answered: Answered) -> None:
        signal("shadow.taken")
        tally = self._tallies.setdefault(answered.route, Tally())
        tally.searches += 1
        began = time.monotonic()
        try:
            serving = self._resolved()
            began = time.monotonic()
            found = self._searched(serving, answered)
        except Exception as problem:  # of the shadow's model or store, whatever it is: it is counted
            tally.failed += 1
            tally.last_failure = readable(
                problem if isinstance(problem, EmbedPipelineError) else f"{type(problem).__name__}: {problem}"
            )
            self._serving = None
            self._say(problem)
            return
        count(tally, answered, found, time.monotonic() - began, keep_text=self._keep_queries)

    def _resolved(self) -> Serving:
        """The shadow's version with its model. One that is not here is left alone for a while."""
        if self._failed is not None and time.monotonic() - self._failed[1] < AGAIN_SECONDS:
            raise self._failed[0]
        if self._serving is None or time.monotonic() - self._serving[1] >= self._refresh_seconds:
            looked = time.monotonic()
            try:
                self._serving = (self._sessions.run(lambda conn: self._resolver.look(conn, self._version)), looked)
            except Exception as problem:
                self._failed = (problem, looked)
                raise
        return self._serving[0]

    def _searched(self, serving: Serving, answered: Answered) -> Sequence[Hit]:
        # Where an account's limits are short, the application's own queries go first.
        embedded = serving.embedder.embed_queries([answered.text], Urgency.CHECK)
        if 0 in embedded.rejected:
            raise EmbedPipelineError(f"The query has no vector in {self._version}: {embedded.rejected[0]}")
        vector = embedded.vectors[0]
        return self._sessions.run(lambda conn: serving.store.search(conn, vector, answered.k, among=answered.among))

    def note(self) -> None:
        """Add what was found to the catalog. What could not be noted is noted with the next."""
        dropped, self._dropped = self._dropped, {}
        for route, number in dropped.items():
            self._tallies.setdefault(route, Tally()).dropped += number
        try:
            for route in list(self._tallies):
                self._sessions.run(lambda conn, route=route: self._note(conn, route))  # type: ignore[misc]
                del self._tallies[route]
        except (psycopg.Error, EmbedPipelineError) as problem:
            self._say(problem)

    def _note(self, conn: psycopg.Connection, route: str) -> None:
        if self._may_note is None:
            self._may_note = shadows.may_note(conn)
            if not self._may_note:
                logger.warning(
                    "What shadow reads of %s by %s find is not kept: this session may not execute embed_pipeline.note_shadow, or only reads.",
                    self._index,
                    self._version,
                )
        if self._may_note:
            shadows.note(conn, self._index, route, self._version, self._tallies[route])

    def _say(self, problem: Exception) -> None:
        """In the log, once for each sentence."""
        words = readable(problem)
        if words not in self._said and len(self._said) < 100:
            self._said.add(words)
            logger.warning("%s is not shadowed by %s: %s", self._index, self._version, words)


def count(tally: Tally, answered: Answered, found: Sequence[Hit], seconds: float, *, keep_text: bool) -> None:
    """Add one search, of which both lists are there."""
    ours, theirs = [hit.doc_id for hit in answered.hits], [hit.doc_id for hit in found]
    for name, values in (
        ("answered_ms", [1000 * answered.seconds]),
        ("shadow_ms", [1000 * seconds]),
        ("answered_scores", [hit.score for hit in answered.hits]),
        ("shadow_scores", [hit.score for hit in found]),
    ):
        tally.sketches[name].update(map(bucket, values))
    tally.answered_empty += not ours
    tally.shadow_empty += not theirs
    if not ours and not theirs:
        return
    agreement, common = rank_biased_overlap(ours, theirs), overlap(ours, theirs)
    tally.compared += 1
    tally.agreement += agreement
    tally.overlap += common
    if ours != theirs:
        tally.keep(Disagreement(agreement, common, shadows.sha256(answered.text), answered.text if keep_text else None))
