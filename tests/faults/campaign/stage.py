"""A campaign whose application does one thing at a time, while workers stand at moments of the code: the random load meets these by chance.

What is right and wrong is judged as ever: by the oracle, the auditor, the records of the application and of the workers.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.faults.campaign import held, models, oracle
from tests.faults.campaign.auditor import Auditor
from tests.faults.campaign.faults import stopped
from tests.faults.campaign.locks import Held
from tests.faults.campaign.records import Log
from tests.faults.campaign.scenario import Campaign
from tests.faults.campaign.worker import Worker
from tests.faults.campaign.workers import Strike
from tests.harness.postgres.proxy import Fate, Proxy

# Far above the keys that a campaign begins with.
OWN = 50_000
# So many documents are made at once, for several scenes: it takes a worker each time.
TOGETHER = 8
# Longer than any scene: nobody takes over the work of a worker that is held.
LONG_LEASE = 60.0
# For a dual-write worker that has nothing to wait for, and for one that cannot get at what is left.
ENOUGH, BRIEFLY = 20.0, 0.6
# Soon enough that an application's statement is not held up for as long as its own timeout.
FROZEN_MS = 500
# What happens at once when it happens at all.
SOON = 8.0
# Who waits for a lock for so long does not wait for another worker's next statement.
WAITS_SECONDS = 0.05

WAITS = """
SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s AND wait_event_type = 'Lock'
               AND clock_timestamp() - query_start > %s * interval '1 second' AND cardinality(pg_blocking_pids(pid)) > 0)
"""
# What nobody has done yet, told or not.
QUEUED = "SELECT (SELECT count(*) FROM embed_pipeline.inbox) + (SELECT count(*) FROM embed_pipeline.pending)"
# What somebody does who has seen a claim stop counting.
FREED = (
    "UPDATE embed_pipeline.pending SET claim = NULL WHERE claim IN (SELECT claim FROM embed_pipeline.claims)",
    "DELETE FROM embed_pipeline.claims",
)
NEAREST = "SELECT array_agg(doc_id) FROM embed_pipeline.search('docs', %s, %s, %s::public.vector, 3)"


class Transaction:
    """One of the application's, that stays open meanwhile."""

    def __init__(self, stage: Stage, isolation: str) -> None:
        self._stage = stage
        self._conn = stage.run.connect()
        self.do(f"BEGIN ISOLATION LEVEL {isolation}")

    def do(self, statement: str, *values: Any) -> None:
        with self._stage.timed():
            self._conn.execute(statement, values)  # type: ignore[arg-type]

    def commit(self) -> None:
        if not self._conn.closed:
            self.do("COMMIT")
            self._conn.close()


class Stage:
    """The application, and what scenes do with workers."""

    def __init__(self, run: Campaign) -> None:
        self.run = run
        self.refused = False
        """Whether a statement of the application has failed."""
        self._log = Log(run.place / "writer-scene.log")
        self._conn = run.connect()
        self._auditor = Auditor(run.place, run.doubted)
        self._locks = Held(run.url, run.place, run.frozen_ms / 1000)
        self._keys = itertools.count(OWN)
        self.untouched: list[int] = []
        self._texts = itertools.count()

    # The application

    @contextmanager
    def timed(self) -> Iterator[None]:
        with self._log.timed("scene") as record:
            yield
        self.refused = self.refused or "error" in record

    def do(self, statement: str, *values: Any) -> None:
        with self.timed():
            self._conn.execute(statement, values)  # type: ignore[arg-type]

    def text(self) -> str:
        return f"text {next(self._texts)} of the scene"

    def documents(self, count: int) -> list[int]:
        """Documents that no scene has touched, with vectors in every live version."""
        while len(self.untouched) < count:
            for key in itertools.islice(self._keys, TOGETHER):
                self.insert(key, self.text())
                self.untouched.append(key)
            self.sync()
            left = self.ask(QUEUED)
            if left:
                self.problem(f"nobody had anything else to do, and {left} changes are still queued")
        return [self.untouched.pop(0) for _ in range(count)]

    def insert(self, key: int, text: str) -> None:
        self.do("INSERT INTO articles (id, title, body) VALUES (%s, 'scene', %s)", key, text)

    def edit(self, key: int, text: str | None = None) -> None:
        self.do("UPDATE articles SET body = %s WHERE id = %s", self.text() if text is None else text, key)

    def delete(self, key: int) -> None:
        """Deleted, it is in no answer any more."""
        row = self._conn.execute("SELECT title, body FROM articles WHERE id = %s", (key,)).fetchone()
        self.do("DELETE FROM articles WHERE id = %s", key)
        if row is not None:
            self.hidden(str(key), "\n\n".join(part for part in row if part))

    def hidden(self, doc_id: str, text: str) -> None:
        """No version that could serve answers a search for this text with this document, which is gone."""
        for version in oracle.versions(self._conn):
            if version.state in ("ready", "active", "standby") and text.strip():
                vector = models.query_vector(version.space, version.passages(text)[0])
                hits = self.ask(NEAREST, version.name, version.fingerprint, str(vector.tolist()))
                if doc_id in (hits or []):
                    self.problem(f"{doc_id} is deleted, and {version.name} answers with it")

    @contextmanager
    def transaction(self, isolation: str = "READ COMMITTED") -> Iterator[Transaction]:
        opened = Transaction(self, isolation)
        yield opened
        opened.commit()

    # Versions

    def register(self, version: str) -> None:
        self.run.versions.append(version)
        self.run.complete("register", version)

    def steps(self, version: str, *steps: str) -> None:
        for step in steps:
            self.run.complete(step, version)

    # Workers

    def sync(self, seconds: float = ENOUGH) -> None:
        """Another dual-write worker works off what it can get, in so many seconds at most."""
        self.run.finish(self.syncing(seconds=seconds))

    def syncing(self, strike: Strike | None = None, *, seconds: float = ENOUGH, lease: float = LONG_LEASE) -> Worker:
        """A dual-write worker that takes nobody's claims over."""
        return self.run.start("sync_once", "", strike, str(seconds), lease_seconds=lease)

    def holding(
        self,
        moment: str,
        step: str = "sync_once",
        version: str = "",
        argument: str = "",
        *,
        lease: float = LONG_LEASE,
        seconds: float = ENOUGH,
    ) -> Worker:
        """A worker that is held when it comes to a moment."""
        self.run.count_strike("held at a moment", moment)
        if step == "sync_once":
            return self.syncing(Strike(moment, "hold"), seconds=seconds, lease=lease)
        return self.run.start(step, version, Strike(moment, "hold"), argument, lease_seconds=lease)

    def freezing(self, moment: str, step: str = "sync_once", version: str = "", argument: str = "") -> Worker:
        """A worker that is stopped when it comes to a moment; the server ends its transaction soon."""
        self.run.count_strike("SIGSTOP", moment)
        argument = str(ENOUGH) if step == "sync_once" else argument
        worker = self.run.start(
            step, version, Strike(moment, signal.SIGSTOP), argument, lease_seconds=LONG_LEASE, frozen_ms=FROZEN_MS
        )
        self.wait(lambda: stopped(worker) or not worker.running, f"the stop of {step}")
        return worker

    def wake(self, worker: Worker) -> None:
        if worker.running:
            os.kill(worker.pid, signal.SIGCONT)
        self.run.finish(worker)

    def losing(self, fate: Fate, said: bytes, step: str, version: str, argument: str = "") -> tuple[Worker, Proxy]:
        """A worker for which the COMMIT of the transaction that said this meets a fate, when that has happened."""
        self.run.count_strike(f"answer of a COMMIT lost: {fate}", step)
        worker = self.run.start(step, version, argument=argument, lost=(fate, said))
        assert worker.proxy is not None
        struck = worker.proxy.struck
        self.wait(lambda: struck.is_set() or not worker.running, f"a COMMIT of {step}")
        # The worker may have ended before the server has: its side of the connection goes first.
        self.wait(struck.is_set, f"the loss of a COMMIT of {step} {version}", SOON)
        return worker, worker.proxy

    def in_time(self, statement: str, *values: Any) -> None:
        """A change of the application, which has a timeout."""
        with self.transaction() as hurried:
            hurried.do("SET LOCAL statement_timeout = '3s'")
            hurried.do(statement, *values)

    def held(self, worker: Worker, threads: int = 1, *, may_end: bool = False) -> None:
        """Wait until it stands there. `may_end`: it need not come there."""
        self.wait(lambda: worker.held >= threads or not worker.running, f"{worker.task.step} at its moment")
        if worker.held < threads and not may_end:
            assert worker.task.strike is not None
            self.problem(f"{worker.task.step} {worker.task.version} did not come to {worker.task.strike.moment}")

    def go(self, *workers: Worker) -> list[dict[str, Any] | None]:
        """Let them go on to their end; how they ended."""
        for worker in workers:
            worker.let_go()
        return [self.run.finish(worker) for worker in workers]

    def freed(self) -> None:
        """Take every claim from whoever holds it, as another worker does that has seen it stop counting."""
        for statement in FREED:
            self._conn.execute(statement)  # type: ignore[arg-type]

    def waits(self, worker: Worker, seconds: float = WAITS_SECONDS) -> bool:
        """Whether it waits for a lock, for so long already."""
        return bool(self.ask(WAITS, worker.task.name, seconds))

    def blocked(self, worker: Worker, seconds: float = WAITS_SECONDS) -> None:
        """Wait until it waits for a lock, or has ended without."""
        self.wait(lambda: self.waits(worker, seconds) or not worker.running, f"{worker.task.step} at a lock")

    # What is seen

    def ask(self, query: str, *values: Any) -> Any:
        row = self._conn.execute(query, values).fetchone()  # type: ignore[arg-type]
        assert row is not None
        return row[0]

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = SOON * 4) -> bool:
        return self.run.wait(condition, what, seconds)

    def problem(self, text: str) -> None:
        self.run.problems.append(text)

    def hash_of(self, version: str, key: int) -> bytes | None:
        return held.hashes(self._conn, version).get(str(key))

    def wrong(self, version: str) -> list[str]:
        """What the oracle says of one version now."""
        (found,) = [each for each in oracle.versions(self._conn) if each.name == version]
        return oracle.wrong_vectors(self._conn, found)

    def look(self) -> None:
        """What the auditor says now: the next scene may empty what this one has spoilt."""
        self.run.problems += self._auditor.look(self._conn) + self._locks.look(self._conn)

    def leave(self) -> None:
        """Leave what the oracle may look at: every live version whole, and somebody to drain the queue."""
        for version in oracle.versions(self._conn):
            if version.state != "retired" and not self.run.done("backfill", version.name):
                self.run.finish(self.run.start("backfill", version.name))
        self._conn.close()
        self.run.syncs = 1


Scene = Callable[[Stage], None]
