"""The supervisor: one index, an application that writes and reads, workers that are started again when they die, and the verdict.

Everything that acts is a process of its own. The supervisor only starts, waits and counts; what happened is read from the files that the
processes wrote, and what it means is said by the oracle.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

import embed_pipeline
from embed_pipeline.catalog import schema
from embed_pipeline.migrate import ann_index, backfill, cutover, gate
from embed_pipeline.migrate.opening import opened
from embed_pipeline.spec import IndexSpec
from tests.faults.campaign import auditor, gone, oracle, readers, records, workers
from tests.faults.campaign import load as application
from tests.faults.campaign.declared import IN_FLIGHT, WRITE_BATCH, calls_file, declaration, with_parameter, write_holdout
from tests.faults.campaign.load import Load
from tests.faults.campaign.paid import Paid
from tests.faults.campaign.worker import Worker
from tests.faults.campaign.workers import LEASE_SECONDS, Strike, Task
from tests.harness.forkserver import CONTEXT
from tests.harness.postgres.proxy import Fate, Proxy

# Imported once; every process of the campaign is then a fork away. matplotlib and the metric library take seconds.
IMPORTED = (
    "tests.faults.campaign.workers",
    "tests.faults.campaign.readers",
    "embed_pipeline.stores.qdrant.store",
    "ir_measures",
    "langchain_text_splitters",
    "matplotlib.figure",
)

# A step that is not done after this time, whatever was done to it, has hung.
STEP_SECONDS = float(os.environ.get("CAMPAIGN_STEP_SECONDS", "90"))
# The longest that an application transaction may be held up (docs/faults.md says what it is made of). Not a measure of speed.
LONGEST_SECONDS = 10.0


@dataclass
class Campaign:
    """One index under load. `syncs`: how many dual-write workers are kept alive; `delay`: seconds of one call of a model.

    `url`: how workers reach the database, where that is another way than the application's. `states` and `words`: what the fault does to
    workers and is no defect, as SQLSTATEs (or their beginnings; LOST for a connection that is gone) and as a pattern of what a dual-write
    worker may report. `server_dies`: the application loses its connections too. `proxied`: each worker reaches the server through a proxy.
    `frozen_ms`: how soon the server ends the transaction of a frozen worker. `pressed`: workers that start from now on are held up at the
    moments of the code. `audited`: an auditor looks on while the load runs; `doubted`: it may see open doubts. `tablespace`: where the versions'
    tables are, and nothing else. `store`: as it is declared. `changes`: what workers that start from now on find declared otherwise.
    `table`: the documents', of another kind than the load's writers work on. `step_seconds`: after which a step has hung.
    """

    place: Path
    seed: int
    load: Load
    syncs: int = 1
    readers: int = 1
    delay: float = 0.004
    url: str = ""
    states: tuple[str, ...] = ()
    words: str = ""
    server_dies: bool = False
    proxied: bool = False
    frozen_ms: int = 30_000
    pressed: bool = False
    audited: bool = True
    doubted: bool = False
    tablespace: str = ""
    chunked: bool = False
    store: dict[str, Any] = field(default_factory=lambda: {"kind": "pgvector"})
    table: application.Table = application.PLAIN
    changes: dict[str, Any] = field(default_factory=dict)
    step_seconds: float = STEP_SECONDS
    chosen: random.Random = field(init=False)
    versions: list[str] = field(default_factory=lambda: ["v1"])
    strikes: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    paid: dict[str, Paid] = field(default_factory=dict)
    strike_sync: Callable[[], Strike | None] = lambda: None
    _stop: Path = field(init=False)
    _load: list[ForkServerProcess] = field(default_factory=list)
    _syncing: list[Worker] = field(default_factory=list)
    _workers: list[Worker] = field(default_factory=list)
    _started: int = 0
    _season: int = 0

    def __post_init__(self) -> None:
        self.place.mkdir(parents=True, exist_ok=True)
        self.chosen = random.Random(f"{self.seed} supervisor")
        self._stop = self.place / "stop"
        print(f"SOAK_SEED={self.seed}; what the processes wrote is in {self.place}", flush=True)

    # The index

    def declaration(self, url: str = "") -> IndexSpec:
        url = url or self.url or self.load.url
        more = {"chunked": self.chunked, "store": self.store, "changes": self.changes, "table": self.table}
        return declaration(url, self.place, self.versions, self.delay, **more)

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(self.load.url, autocommit=True)

    def prepare(self) -> None:
        """The application's table, and v1 serving."""
        with self.connect() as conn:
            application.prepare(conn, self.load.keys, self.table)
            write_holdout(self.place / "holdout.jsonl", oracle.texts(conn))
            if self.tablespace:
                schema.ensure(conn, self.url or self.load.url)
                names = map(sql.Identifier, (conn.info.dbname, self.tablespace))
                conn.execute(sql.SQL("ALTER DATABASE {} SET default_tablespace = {}").format(*names))
        with opened(self.declaration()) as index:
            for key in index.spec.partition_keys():
                backfill.fill_partition(index, "v1", key)
            ann_index.build(index, "v1")
            gate.run(index, "v1")
            cutover.cutover(index, "v1")

    def paid_for(self, version: str) -> Paid:
        # Batches in the pool, the one being written, the one that was read ahead.
        in_flight = (IN_FLIGHT + 2) * WRITE_BATCH
        return self.paid.setdefault(version, Paid(calls_file(self.place, version), in_flight))

    def count_strike(self, fault: str, step: str) -> None:
        key = f"{fault}\t{step}"
        self.strikes[key] = self.strikes.get(key, 0) + 1

    # Processes

    def start_load(self) -> None:
        self._stop.unlink(missing_ok=True)
        self._season += 1
        for me in range(self.load.writers):
            self._spawn_load(
                application.write, self.load, me, self._season, self._next(), self._stop, self.place / f"writer-{me}.log"
            )
        for me in range(self.readers):
            named = ["v1", "v2"]
            self._spawn_load(readers.read, self.load.url, self._next(), named, self._stop, self.place / f"reader-{me}.log")
        if self.audited:
            report = self.place / f"auditor-{self._season}.json"
            self._spawn_load(auditor.audit, self.load.url, self.place, self.frozen_ms / 1000, self.doubted, self._stop, report)

    def stop_load(self) -> None:
        """Stop the application; what its processes could not do is in their records."""
        self._stop.touch()
        for process in self._load:
            process.join(60)
            if process.exitcode != 0:
                self.problems.append(f"a process of the application ended with {process.exitcode}")
                process.kill()
        self._load.clear()

    def _spawn_load(self, target: Callable[..., None], *arguments: Any) -> None:
        process = CONTEXT.Process(target=target, args=arguments)
        process.start()
        self._load.append(process)

    def _next(self) -> int:
        return self.chosen.randrange(2**31)

    def start(
        self,
        step: str,
        version: str,
        strike: Strike | None = None,
        argument: str = "",
        *,
        lease_seconds: float = LEASE_SECONDS,
        frozen_ms: int | None = None,
        lost: tuple[Fate, bytes] | None = None,
    ) -> Worker:
        """Start a worker for one step. `frozen_ms`: another one than the campaign's. `lost`: what becomes of the COMMIT of the first
        transaction in which a text is sent."""
        self._started += 1
        proxy = Proxy(self.url or self.load.url) if self.proxied or lost else None
        if proxy is not None and lost is not None:
            proxy.arm(*lost)
        name = f"campaign-{self._started:04}"
        url = with_parameter(proxy.url if proxy else self.url or self.load.url, "application_name", name)
        task = Task(
            step=step,
            name=name,
            declaration=self.declaration(url).model_dump_json(),
            version=version,
            outcome=self.place / f"{self._started:04}-{step}-{version}.json",
            package=str(embed_pipeline.__file__),
            strike=strike,
            pressure=self._next() if self.pressed else None,
            frozen_ms=self.frozen_ms if frozen_ms is None else frozen_ms,
            lease_seconds=lease_seconds,
            argument=argument,
        )
        process = CONTEXT.Process(target=workers.run, args=(task,))
        process.start()
        worker = Worker(process, task, proxy)
        self._workers.append(worker)
        if step == "backfill":
            self.paid_for(version).workers.add(worker.pid)
        return worker

    def tend(self) -> None:
        """Keep the dual-write workers alive."""
        for worker in [each for each in self._syncing if not each.running]:
            self._syncing.remove(worker)
            self.judge(worker)
        while len(self._syncing) < self.syncs:
            self._syncing.append(self.start("sync", "", self.strike_sync()))

    def a_sync(self) -> Worker:
        """One of the dual-write workers that run now."""
        self.tend()
        return self.chosen.choice(self._syncing)

    def stop_syncs(self) -> None:
        for worker in self._syncing:
            worker.kill()
            self.judge(worker)
        self._syncing.clear()

    # Steps

    def wait(self, condition: Callable[[], bool], what: str, seconds: float | None = None) -> bool:
        """Look until it is so, tending the workers meanwhile; a deadline that passes is a problem."""
        seconds = self.step_seconds if seconds is None else seconds
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                self.problems.append(f"{what} did not happen within {seconds:.0f} s")
                return False
            self.tend()
            time.sleep(0.01)
        return True

    def pass_time(self, seconds: float) -> None:
        """Let the load go on."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.tend()
            time.sleep(0.02)

    def finish(self, worker: Worker) -> dict[str, Any] | None:
        """Wait for a worker's end and judge it."""
        if not self.wait(lambda: not worker.running, f"the end of {worker.task.step}"):
            self.problems += [*self._long_sessions(), *self._waiting(), worker.stacks()]
            worker.kill()
        return self.judge(worker)

    def judge(self, worker: Worker) -> dict[str, Any] | None:
        """How a worker ended. A refusal in words is no problem, an error that is nobody's sentence is one."""
        outcome = worker.outcome()
        if worker.proxy is not None:
            worker.proxy.close()
        self.problems += [
            f"{worker.task.step}: {line[:300]}" for line in worker.reports() if not (self.words and re.search(self.words, line))
        ]
        if outcome is not None and "error" in outcome and not outcome["refused"] and not records.excused(outcome, self.states):
            self.problems.append(f"{worker.task.step} {worker.task.version} failed: {outcome['error']}: {outcome['text']}")
        if outcome is None and worker.process.exitcode not in (-9, 0):
            self.problems.append(f"{worker.task.step} {worker.task.version} ended with {worker.process.exitcode}")
        return outcome

    def complete(self, step: str, version: str) -> None:
        """Run a step until the catalog says that it is done, whatever happened to its workers."""
        deadline = time.monotonic() + self.step_seconds
        outcome = None
        while not self.done(step, version):
            if time.monotonic() > deadline:
                self.problems.append(f"{step} {version} was not done within {self.step_seconds:.0f} s: {outcome}")
                self.problems += self._long_sessions()
                self.require()
            outcome = self.finish(self.start(step, version))

    def done(self, step: str, version: str) -> bool:
        """Whether the catalog says that a step was done: its worker may have been killed after the commit."""
        with self.connect() as conn:
            row = conn.execute(DONE[step], {"version": version}).fetchone()  # type: ignore[arg-type]
        return row is not None and bool(row[0])

    # The verdict

    def settle(self) -> None:
        """Let the workers do all that is left to do, then stop them."""
        self.strike_sync = lambda: None
        self.stop_syncs()
        # Where something is wrong already, a queue that will not drain is waited for no longer than it takes.
        seconds = self.step_seconds / 10 if self.disturbed() else self.step_seconds
        self.wait(lambda: self._count(UNFINISHED) == 0, "the end of all work", seconds)
        self.stop_syncs()

    def abandon(self) -> None:
        """Leave nothing running, whatever happened."""
        self._stop.touch()
        for process in (*self._load, *(worker.process for worker in self._workers)):
            if process.is_alive():
                os.kill(process.pid or 0, signal.SIGCONT)
                process.kill()
                process.join()

    def _count(self, query: str) -> int:
        with suppress(psycopg.OperationalError), self.connect() as conn:
            row = conn.execute(query).fetchone()  # type: ignore[arg-type]
            return int(row[0]) if row else 0
        return -1

    def _long_sessions(self) -> list[str]:
        """Who has had a transaction open for long, what it does and who keeps it from that."""
        with self.connect() as conn:
            rows = conn.execute(
                "SELECT format('session %s (%s), %s, %s %s, blocked by %s, open for %s: %s', pid, application_name, state, wait_event_type, "
                "wait_event, pg_blocking_pids(pid), clock_timestamp() - xact_start, left(query, 300)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND xact_start < clock_timestamp() - interval '3 seconds'"
            ).fetchall()
        return [row for (row,) in rows]

    def _waiting(self) -> list[str]:
        """What waits for each version, and how much of it somebody holds."""
        with self.connect() as conn:
            rows = conn.execute(WAITING).fetchall()
        return [row for (row,) in rows]

    def logs(self, kind: str) -> list[records.Record]:
        """The records of every `writer` or `reader`."""
        return records.read(self.place.glob(f"{kind}-*.log"))

    def verdict(self, *, paid: bool = False) -> None:
        """Stop everything, ask the oracle, and fail with the seed and every problem."""
        self.stop_load()
        self.settle()
        self.look()
        writing, reading = self.logs("writer"), self.logs("reader")
        self.problems += self._wrong_records([*writing, *reading])
        with self.connect() as conn:
            # Hundreds of documents share a passage (their title): among so many equal vectors the walk of an HNSW index may end.
            self.problems += oracle.wrong_answers(conn, reading, readers.REFRESH_SECONDS, anchors=not self.chunked)
            self.problems += gone.wrong_answers(conn, writing, reading)
        if paid:
            moved = {text for record in writing for text in record.get("moved", [])}
            for each in self.paid.values():
                self.problems += each.problems(moved)
        looks, seen = auditor.report(self.place)
        self.problems += seen
        if self.audited and looks < 5:
            self.problems.append(f"the auditor looked {looks} times")
        # Without writers a scene does single things, and says itself what it missed.
        if len(writing) < (20 if self.load.writers else 1) or sum("hits" in record for record in reading) < 5 * self.readers:
            self.problems.append(f"the load did nothing: {len(writing)} transactions, {len(reading)} searches")
        self.require()

    def look(self) -> None:
        """What the oracle says now, with the application still and the queue drained."""
        with self.connect() as conn:
            self.problems += oracle.problems(conn)

    def disturbed(self) -> bool:
        """Whether something is known to be wrong already."""
        return bool(self.problems or auditor.report(self.place)[1])

    def require(self) -> None:
        shown = "\n".join(self.problems[:30])
        assert not self.problems, f"SOAK_SEED={self.seed}, {len(self.problems)} problems, files in {self.place}:\n{shown}"

    def _wrong_records(self, of_load: list[records.Record]) -> list[str]:
        found: Counter[str] = Counter()
        for record in of_load:
            excused = records.excused(record, records.LOST if self.server_dies else ()) or records.named_version_refused(record)
            if "error" in record and not excused:
                found[f"{record['kind']} of the application failed: {record['error']} {record['state']}: {record['text']}"] += 1
            elif record["seconds"] - record.get("planned", 0.0) > LONGEST_SECONDS:
                found[f"{record['kind']} of the application took more than {LONGEST_SECONDS:.0f} s"] += 1
        return [f"{problem} ({count} times)" for problem, count in found.items()]


# What is left to do, and of those who did it. A worker that was killed leaves its claim to the others.
UNFINISHED = """
SELECT (SELECT count(*) FROM embed_pipeline.inbox) + (SELECT count(*) FROM embed_pipeline.pending)
     + (SELECT count(*) FROM embed_pipeline.claims) + (SELECT count(*) FROM embed_pipeline.doubts)
"""
WAITING = """
SELECT format('%s: %s documents wait, %s of them claimed', version, count(*), count(claim))
FROM embed_pipeline.pending GROUP BY version
"""
DONE = {
    "register": "SELECT count(*) > 0 FROM embed_pipeline.index_versions WHERE version = %(version)s",
    "backfill": "SELECT bool_and(completed_at IS NOT NULL) FROM embed_pipeline.partitions WHERE version = %(version)s",
    "ann_index": "SELECT state <> 'building' FROM embed_pipeline.index_versions WHERE version = %(version)s",
    "gate": "SELECT outcome = 'pass' FROM embed_pipeline.gate_evidence WHERE version = %(version)s AND route = 'direct' ORDER BY id DESC LIMIT 1",
    "cutover": "SELECT version = %(version)s FROM embed_pipeline.serving_pointer",
    "cutover_direct": "SELECT version = %(version)s AND refine_version IS NULL FROM embed_pipeline.serving_pointer",
    "cutover_refine": "SELECT refine_version IS NOT DISTINCT FROM %(version)s FROM embed_pipeline.serving_pointer",
    "rollback": "SELECT version = %(version)s FROM embed_pipeline.serving_pointer",
    "retire": "SELECT dropped_at IS NOT NULL FROM embed_pipeline.index_versions WHERE version = %(version)s",
}
