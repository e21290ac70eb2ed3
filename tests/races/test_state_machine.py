"""Any order of writes, worker steps, crashes, backfills, cutovers, rollbacks and retires: drawn by hypothesis, on a real PostgreSQL.

Two distributors, three dual-write workers and two backfills hold what they have claimed, read or embedded at the same time; each step of
each is a rule of its own, and calls the package's own function for it. After every step an oracle reads the tables and judges them by a
model that is a dictionary of documents, and searches. At the end everything is drained, and each live version must be exact.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, event, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test

from embed_pipeline.catalog import partitions, serving, versions
from embed_pipeline.catalog.partitions import Fence, Partition
from embed_pipeline.documents import inbox, queue, shape, slices
from embed_pipeline.documents.queue import Claim
from embed_pipeline.documents.texts import DocumentText
from embed_pipeline.errors import CutoverRefused, FencedOff, IllegalTransition, VersionRetired
from embed_pipeline.flow.embed import embed_documents
from embed_pipeline.migrate import cutover, dual_write, register, retire
from embed_pipeline.postgres import connection
from embed_pipeline.stores.protocol import EmbeddedBatch, Filled, Found
from tests.races.hands import take_claims_over
from tests.races.machine_application import BODIES, KINDS, Application
from tests.races.machine_world import (
    Databases,
    declared,
    digest,
    fill,
    look,
    pass_gate,
    text_of,
)

BACKFILLS = st.integers(0, 1)
MOST_VERSIONS = 3
# Set by who only wants to know whether it fails (tests/mutations): looking for the smallest example takes minutes.
NO_SHRINKING = "EMBED_PIPELINE_TESTS_NO_SHRINKING"


@dataclass
class Worker:
    """A dual-write worker between two of its steps, with what it has in its hands."""

    conn: psycopg.Connection
    version: str = ""
    claim: Claim | None = None
    current: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    batch: EmbeddedBatch | None = None
    letters: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    steps: list[Callable[[Worker], None]] = field(default_factory=list)

    def __repr__(self) -> str:
        """For the steps that hypothesis prints."""
        return f"<worker of {self.version}: {len(self.steps)} steps to go>"


@dataclass
class Filling:
    """A backfill between two of its steps, with what it has in its hands."""

    conn: psycopg.Connection
    version: str = ""
    partition: Partition | None = None
    filled: Filled | None = None
    batch: EmbeddedBatch | None = None
    letters: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    closed: Fence | None = None
    found: Found | None = None


class Migration(Application):
    """The rules of this package's processes, beside those of the application."""

    def __init__(self) -> None:
        super().__init__()
        self.workers = [Worker(connection.connect(self.url, autocommit=True)) for _ in range(3)]
        self.fillings = [Filling(connection.connect(self.url, autocommit=True)) for _ in range(2)]
        self.distributors = [dual_write.distributor(self.index) for _ in range(2)]

    @precondition(lambda self: any(worker.steps for worker in self.workers))
    @rule(data=st.data(), body=BODIES, kind=KINDS)
    def change_what_a_worker_holds(self, data: st.DataObject, body: str, kind: str) -> None:
        """Where the races are: left to chance alone, it is rarely hit."""
        held = sorted({doc_id for worker in self.workers if worker.steps and worker.claim for doc_id in worker.claim.seqs})
        self.change(int(data.draw(st.sampled_from(held), label="document")), body, kind)

    # Distributors and dual-write workers

    @rule(number=st.integers(0, 1))
    def distribute(self, number: int) -> None:
        """One of them hands over what it sees; both remember from where on there may be more."""
        event("distributed" if self.distributors[number].distribute(self.app) else "nothing to distribute")

    @precondition(lambda self: any(not worker.steps for worker in self.workers))
    @rule(data=st.data(), limit=st.integers(1, 4))
    def claim(self, data: st.DataObject, limit: int) -> None:
        """A worker that has nothing to do takes what is in the queue of one version."""
        number = next(number for number, worker in enumerate(self.workers) if not worker.steps)
        version = data.draw(st.sampled_from(self._waiting() or ["v1"]), label="version")
        conn = self.workers[number].conn
        claim = queue.claim(conn, "docs", version, limit=limit)
        if claim.seqs:
            event("claimed")
            fresh = Worker(conn, version, claim)
            fresh.steps = [self._read, self._settle, self._embed, self._replace, self._reject, self._release]
            self.workers[number] = fresh

    @precondition(lambda self: any(worker.steps for worker in self.workers))
    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """One step of one worker."""
        worker = data.draw(st.sampled_from([worker for worker in self.workers if worker.steps]), label="worker")
        self._take(worker, 1)

    @precondition(lambda self: any(worker.steps for worker in self.workers))
    @rule(data=st.data(), steps=st.integers(1, 6))
    def several_steps(self, data: st.DataObject, steps: int) -> None:
        """Some steps of one worker, with nothing in between."""
        worker = data.draw(st.sampled_from([worker for worker in self.workers if worker.steps]), label="worker")
        self._take(worker, steps)

    def _take(self, worker: Worker, steps: int) -> None:
        todo, worker.steps = worker.steps[:steps], worker.steps[steps:]
        with self._unless_retired(worker.version):
            for each in todo:
                each(worker)
            return
        worker.steps.clear()

    @precondition(lambda self: any(worker.steps for worker in self.workers))
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """A worker is gone; what it has claimed stays claimed."""
        worker = data.draw(st.sampled_from([worker for worker in self.workers if worker.steps]), label="worker")
        worker.steps.clear()

    @precondition(lambda self: any(worker.claim for worker in self.workers))
    @rule()
    def claims_are_taken_over(self) -> None:
        """Also those of workers that live: they wake as zombies."""
        take_claims_over(self.app)

    def _waiting(self) -> list[str]:
        rows = self.app.execute("SELECT DISTINCT version FROM embed_pipeline.pending WHERE claim IS NULL ORDER BY 1")
        return [version for (version,) in rows]

    def _store(self, worker: Worker | Filling):  # type: ignore[no-untyped-def]
        return self.index.store(self.index.version(self.app, worker.version))

    def _read(self, worker: Worker) -> None:
        assert worker.claim is not None
        worker.current = slices.read_current(worker.conn, self.index.source, list(worker.claim.seqs))

    def _settle(self, worker: Worker) -> None:
        assert worker.claim is not None
        hashes = {doc_id: source_hash for doc_id, (_, source_hash) in worker.current.items()}
        worker.done = set(self._store(worker).settle(worker.conn, worker.claim, hashes))

    def _embed(self, worker: Worker) -> None:
        todo = [DocumentText(doc_id, *read) for doc_id, read in worker.current.items() if doc_id not in worker.done]
        embedder = self.index.embedder_of(self.index.version(self.app, worker.version))
        gathered = embed_documents(embedder, todo)
        worker.batch, worker.letters = gathered.batch, gathered.letters

    def _replace(self, worker: Worker) -> None:
        assert worker.claim is not None
        assert worker.batch is not None
        written = set(self._store(worker).replace(worker.conn, worker.claim, worker.batch))
        event("written" if written else "nothing written")
        worker.done |= written

    def _reject(self, worker: Worker) -> None:
        assert worker.claim is not None
        worker.done |= set(self._store(worker).reject(worker.conn, worker.claim, worker.letters))

    def _release(self, worker: Worker) -> None:
        assert worker.claim is not None
        left = [doc_id for doc_id in worker.claim.seqs if doc_id not in worker.done]
        with worker.conn.transaction():
            queue.release(worker.conn, worker.claim, left)
            queue.end_claim(worker.conn, worker.claim)

    # Backfill

    @rule(number=BACKFILLS, data=st.data(), limit=st.integers(1, 4))
    def read_and_embed(self, number: int, data: st.DataObject, limit: int) -> None:
        """A backfill opens a partition, reads what is missing and embeds it; whoever had it open before comes too late from here on."""
        conn = self.fillings[number].conn
        version = data.draw(st.sampled_from(self._live()), label="version")
        part = data.draw(st.sampled_from(partitions.listed(self.app, "docs", version.name)), label="partition")
        if part.range.is_empty:
            return
        fence = partitions.open_to_fill(conn, "docs", version.name, part.range.partition)
        if fence is None:
            return
        horizon = shape.horizon(conn, self.index.source, "docs")
        missing = self.index.store(version).missing(conn, part.range, begun=True)[:limit]
        gathered = embed_documents(self.index.embedder_of(version), missing)
        batch, letters = gathered.batch, gathered.letters
        self.fillings[number] = Filling(conn, version.name, part, Filled(fence, horizon), batch, letters)

    @precondition(lambda self: any(filling.batch is not None for filling in self.fillings))
    @rule(number=BACKFILLS)
    def insert_new(self, number: int) -> None:
        """It writes what it has embedded, however long ago."""
        filling = self.fillings[number]
        if filling.batch is None or filling.filled is None:
            return
        store = self._store(filling)
        try:
            with self._unless_retired(filling.version):
                store.insert_new(filling.conn, filling.batch, filling.filled.fence)
                store.reject(filling.conn, filling.filled.fence, filling.letters)
                event("inserted")
        except FencedOff:
            event("fenced off")
        filling.batch, filling.letters = None, {}

    @precondition(lambda self: any(filling.filled is not None for filling in self.fillings))
    @rule(number=BACKFILLS)
    def close_and_compare(self, number: int) -> None:
        """Also before it has inserted what it has in its hands."""
        filling = self.fillings[number]
        if filling.filled is None or filling.partition is None:
            return
        with self._unless_retired(filling.version):
            filling.closed = partitions.close(filling.conn, "docs", filling.version, filling.partition.range.partition)
            filling.found = self._store(filling).compare_partition(filling.conn, filling.partition.range, filling.filled)

    @precondition(lambda self: any(filling.found is not None for filling in self.fillings))
    @rule(number=BACKFILLS)
    def queue_and_mark(self, number: int) -> None:
        filling = self.fillings[number]
        if filling.found is None or filling.closed is None:
            return
        queue.enqueue(filling.conn, "docs", filling.version, sorted(filling.found.different), removed=filling.found.orphans)
        marked = partitions.complete(filling.conn, filling.closed, filling.found.documents)
        event("filled" if marked else "opened meanwhile")
        self.fillings[number] = Filling(filling.conn)

    @contextmanager
    def _unless_retired(self, version: str) -> Iterator[None]:
        """Work for a version that was retired meanwhile ends with one error, and with no other."""
        try:
            yield
        except VersionRetired:
            assert self.index.version(self.app, version).state == "retired"
            event("retired meanwhile")

    # The migration

    @precondition(lambda self: self.slow_key is None)
    @rule(data=st.data(), kind=st.sampled_from(["register", "get ready", "cut over", "roll back", "retire", "truncate"]))
    def migrate(self, data: st.DataObject, kind: str) -> None:
        """One step of a migration, or the one change that the application makes as rarely."""
        chosen = {
            "register": self._register_next,
            "get ready": self._get_ready,
            "cut over": self._cut_over,
            "roll back": self._roll_back,
            "retire": self._retire,
            "truncate": lambda _: self._truncate(),
        }
        chosen[kind](data)

    def _register_next(self, data: st.DataObject) -> None:
        if len(self.names) < MOST_VERSIONS:
            self.names.append(f"v{len(self.names) + 1}")
            self.index.spec = declared(self.url, self.names)
            with self.index.connection() as conn:
                assert register.register(conn, self.index) == [self.names[-1]]

    def _get_ready(self, data: st.DataObject) -> None:
        """The rest of a backfill, and the ANN index."""
        building = [version.name for version in self._live() if version.state == "building"]
        if building:
            fill(self.index, data.draw(st.sampled_from(building), label="version"))

    def _cut_over(self, data: st.DataObject) -> None:
        before = serving.read(self.app, "docs")
        candidates = [version.name for version in self._live() if version.state in ("ready", "standby")]
        if not candidates:
            return
        name = data.draw(st.sampled_from(candidates), label="version")
        if data.draw(st.booleans(), label="judged"):
            pass_gate(self.index, name)
        self._move(lambda: cutover.cutover(self.index, name, again=True), before, name)

    def _roll_back(self, data: st.DataObject) -> None:
        before = serving.read(self.app, "docs")
        # Refused where there is nothing to go back to.
        # And where it would undo a rollback, unless it says so.
        to = before.previous if data.draw(st.booleans(), label="named") else None
        self._move(lambda: cutover.rollback(self.index, to=to), before, before.previous)

    def _retire(self, data: st.DataObject) -> None:
        """Refused for the version that serves; workers of the others are left with their hands full."""
        candidates = [version.name for version in self._live() if version.state != "active"]
        if candidates:
            name = data.draw(st.sampled_from(candidates), label="version")
            retire.retire(self.index, name, name)

    def _move(self, move: Callable[[], cutover.Moved], before: serving.Pointer, name: str | None) -> None:
        """A move happens wholly, and then the version lacks nothing that was committed; or it is refused, and nothing happened."""
        try:
            move()
        except (CutoverRefused, IllegalTransition):
            event("move refused")
            assert serving.read(self.app, "docs") == before
            return
        event("moved")
        now = serving.read(self.app, "docs")
        assert (now.version, now.previous, now.generation) == (name, before.version, before.generation + 1)
        served = look(self.app, next(version for version in self._live() if version.name == name))
        assert served.differences(self.documents) == {}

    # What must hold

    def _live(self) -> list[versions.Version]:
        return versions.live_versions(self.app, "docs")

    @invariant()
    def safe(self) -> None:
        live = self._live()
        problems = [problem for version in live for problem in look(self.app, version).problems(self.documents)]
        assert problems == []
        for version in live:
            self._search(version)
        assert [version.name for version in live if version.state == "active"] == [serving.read(self.app, "docs").version]

    def _search(self, version: versions.Version) -> None:
        """What is stored and there is found, and nothing that is gone, whatever the workers have done about it."""
        if version.state == "building":
            return
        query = self.index.embedder_of(version).embed_query("a")
        with self.index.connection() as conn:
            found = {hit.doc_id for hit in self.index.store(version).search(conn, query, 10, exact=True)}
        assert found == look(self.app, version).stored.keys() & self.documents.texts().keys(), (
            f"{version.name} answers with others"
        )

    def teardown(self) -> None:
        try:
            self._come_to_rest()
        finally:
            for conn in (self.app, self.slow, *(each.conn for each in (*self.workers, *self.fillings))):
                conn.close()
            self.index.close()
            self.databases.drop(self.url)

    def _come_to_rest(self) -> None:
        """Writes stop, the dead are gone and what they have claimed is free: everything must become exact."""
        self.slow.rollback()
        take_claims_over(self.app)
        for version in self._live():
            if version.state == "building":
                fill(self.index, version.name)
        for result in dual_write.sync(self.index):
            assert (result.error, result.pending) == ("", 0)
        texts = self.documents.texts()
        for version in self._live():
            has = look(self.app, version)
            assert has.problems(self.documents) == []
            assert {doc_id: stored.source_hash for doc_id, stored in has.stored.items()} == {
                doc_id: digest(text) for doc_id, text in texts.items() if text
            }
            assert has.dead == {doc_id: digest(text_of(None)) for doc_id, text in texts.items() if not text}


@pytest.fixture
def machine(
    server_url: Callable[[str], str],
    postgres_admin: psycopg.Connection,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[type[Migration]]:
    # A cutover waits for other workers; here they stand still, so there is nothing to wait for.
    monkeypatch.setattr(dual_write, "STALL_SECONDS", 0.1)
    monkeypatch.setattr(inbox, "FLOOR_SECONDS", 0.0)
    made = Databases(server_url, postgres_admin, database_url.rpartition("/")[2])
    yield type("Migration", (Migration,), {"databases": made})
    made.close()


def profile(examples: int, steps: int, **more: object) -> settings:
    phases = (Phase.generate,) if os.environ.get(NO_SHRINKING) else (Phase.generate, Phase.shrink)
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        phases=phases,
        deadline=None,
        database=None,
        print_blob=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        **more,  # type: ignore[arg-type]
    )


def test_any_order_of_steps(machine: type[Migration]) -> None:
    """The same few examples every time."""
    run_state_machine_as_test(machine, settings=profile(15, 30, derandomize=True))


@pytest.mark.soak
def test_any_order_of_steps_for_long(machine: type[Migration]) -> None:
    """Many examples, drawn from SOAK_SEED: the same seed draws the same ones."""
    chosen = int(os.environ.get("SOAK_SEED", "20"))
    print(f"SOAK_SEED={chosen}")
    run_state_machine_as_test(seed(chosen)(machine), settings=profile(200, 50))
