"""Two writers and two workers, statement by statement, in every order with few preemptions. What must hold is looked at after each run.

The short form tries a seeded handful of orders of each scenario; `make soak` tries many more (SOAK_SEED, SOAK_SECONDS). A failure names
its order of turns: hand it to the scenario's attempt (`.split()`) to see it again, and write a named race test of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psycopg
import pytest

from embed_pipeline import signals
from embed_pipeline.catalog import partitions, serving
from embed_pipeline.documents import shape
from embed_pipeline.errors import CutoverRefused
from embed_pipeline.flow.embed import embed_documents
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, cutover, dual_write, gate, retire
from embed_pipeline.migrate.opening import open_index
from embed_pipeline.stores.protocol import Filled
from tests.harness.articles import declared, fill, serve, stored, text_hash
from tests.races.hands import take_claims_over, working
from tests.races.interleaving import Body, Interleaving, Point, explore

Open = Callable[..., OpenIndex]
Attempt = Callable[[Sequence[str]], Interleaving]

SHORT = {"bound": 2, "most": 8, "seconds": float("inf"), "seed": 7}
LONG = {
    "bound": 2,
    "most": 100_000,
    # Most of the orders are there only after the first ones: less than this finds no more than the short form does.
    "seconds": max(40.0, float(os.environ.get("SOAK_SECONDS", "20"))),
    "seed": int(os.environ.get("SOAK_SEED", "7")),
}

# The last two are judged: no actor changes them, since evidence is exact about those.
START = ((1, "A"), (2, "B"), (8, "Y"), (9, "Z"))


class Scene:
    """The tables between two runs, and the connections of the actors."""

    def __init__(self, app: psycopg.Connection, url: str, index: OpenIndex) -> None:
        self.app = app
        self.url = url
        self.index = index

    def reset(self) -> None:
        """The start again: the documents, embedded in every live version, nothing queued."""
        self.app.execute("TRUNCATE articles")
        self.app.execute("DELETE FROM embed_pipeline.inbox; DELETE FROM embed_pipeline.pending")
        self.app.execute("DELETE FROM embed_pipeline.dead_letters")
        for key, body in START:
            self.app.execute("INSERT INTO articles (id, title, body) VALUES (%s, '', %s)", (key, body))
        self.settle()

    def settle(self) -> None:
        """Work off what is left, also what actors that gave up have claimed."""
        signals.forget_all()
        take_claims_over(self.app)
        for result in dual_write.sync(self.index):
            assert (result.error, result.pending) == ("", 0)

    def writer(self, *statements: str) -> Body:
        """An application: one statement a turn, on a connection of its own."""

        def body(point: Point) -> None:
            with psycopg.connect(self.url, autocommit=True, application_name="writer") as conn:
                for number, statement in enumerate(statements):
                    if number:
                        point("statement")
                    conn.execute(statement)

        return body

    def worker(self, version: str) -> Body:
        """A dual-write worker: it distributes, claims one batch and works it off, and the same once more."""

        def body(point: Point) -> None:
            with working(self.index, version) as work:
                hands = dual_write.distributor(self.index)
                for _ in range(2):
                    work.line.repeat(hands.distribute)
                    point("distributed")
                    work.batch()
                    point("next batch")

        return body

    def agrees(self, *versions: str) -> None:
        """Every document has its vector with its current hash, or a dead letter for a blank text; nothing else is there."""
        wanted = {str(key): text_hash(body) for key, body in self.app.execute("SELECT id, body FROM articles").fetchall() if body}
        blank = {str(key) for (key,) in self.app.execute("SELECT id FROM articles WHERE coalesce(body, '') = ''").fetchall()}
        for version in versions:
            assert stored(self.app, version) == wanted, version
            letters = self.app.execute("SELECT doc_id FROM embed_pipeline.dead_letters WHERE version = %s", (version,)).fetchall()
            assert blank <= {doc_id for (doc_id,) in letters}, version


@contextmanager
def told(run: Interleaving) -> Iterator[None]:
    """A failure inside shows the order of turns that led to it."""
    try:
        yield
    except AssertionError as failure:
        raise AssertionError(f"after the turns {run.trace!r}: {failure}") from failure


def require_no_errors(run: Interleaving) -> None:
    for actor in run.actors.values():
        if actor.error is not None:
            raise AssertionError(f"{actor.name} failed: {actor.error!r}") from actor.error


@pytest.fixture
def scene(app: psycopg.Connection, open_docs: Open, database_url: str, holdout) -> Scene:  # type: ignore[no-untyped-def]
    """v1 serves and v2 is ready and judged, over the documents of START."""
    holdout.write_text('{"query_id": "8", "query": "Y", "doc_id": "8"}\n{"query_id": "9", "query": "Z", "doc_id": "9"}')
    rules = {"min_queries": 2, "margin": 0.9, "max_row_change": 1.0, "max_dead_letters": 2}
    index = open_docs("v1", gate=rules)
    app.execute("TRUNCATE articles")
    for key, body in START:
        app.execute("INSERT INTO articles (id, title, body) VALUES (%s, '', %s)", (key, body))
    serve(index, "v1")
    index = open_docs("v1", "v2", gate=rules)
    fill(index, "v2")
    gate.run(index, "v2")
    return Scene(app, database_url, index)


def queue_scenario(scene: Scene) -> Attempt:
    """A text that goes and comes back, a document deleted and born again in one transaction, and two workers that distribute too."""

    def attempt(order: Sequence[str]) -> Interleaving:
        scene.reset()
        run = Interleaving(
            scene.app,
            {
                "w1": scene.writer(
                    "UPDATE articles SET body = 'A2' WHERE id = 1",
                    "UPDATE articles SET body = 'A' WHERE id = 1",
                    "UPDATE articles SET body = '' WHERE id = 2",
                ),
                "w2": scene.writer(
                    "BEGIN",
                    "DELETE FROM articles WHERE id = 2",
                    "INSERT INTO articles (id, title, body) VALUES (2, '', 'B')",
                    "COMMIT",
                ),
                "d1": scene.worker("v1"),
                "d2": scene.worker("v1"),
            },
        )
        run.run(order)
        with told(run):
            require_no_errors(run)
            scene.settle()
            scene.agrees("v1", "v2")
        return run

    return attempt


def backfill_scenario(scene: Scene) -> Attempt:
    """A version that is filled while one writer makes a text blank and another deletes, and a dual-write worker carries both."""

    def attempt(order: Sequence[str]) -> Interleaving:
        scene.reset()
        scene.app.execute("TRUNCATE embed_pipeline.docs__v2")
        scene.app.execute("UPDATE embed_pipeline.partitions SET completed_at = NULL, closed = true WHERE version = 'v2'")

        def filling(point: Point) -> None:
            """A backfill in one thread: opened, read, embedded, inserted, closed, compared and marked, partition by partition."""
            del point
            with scene.index.connection() as conn:
                version = scene.index.version(conn, "v2")
                store, embedder = scene.index.store(version), scene.index.embedder_of(version)
                for partition in partitions.listed(conn, "docs", "v2"):
                    filled = None
                    if not partition.range.is_empty:
                        fence = partitions.open_to_fill(conn, "docs", "v2", partition.range.partition)
                        assert fence is not None
                        filled = Filled(fence, shape.horizon(conn, scene.index.source, "docs"))
                        documents = store.missing(conn, partition.range, begun=True)
                        signals.signal("backfill.read")
                        gathered = embed_documents(embedder, documents)
                        batch, letters = gathered.batch, gathered.letters
                        signals.signal("backfill.embedded")
                        store.insert_new(conn, batch, fence)
                        store.reject(conn, fence, letters)
                    backfill._complete(conn, scene.index, version, partition, filled)

        run = Interleaving(
            scene.app,
            {
                "w1": scene.writer(
                    "UPDATE articles SET body = '' WHERE id = 1",
                    "UPDATE articles SET body = 'A' WHERE id = 1",
                    "UPDATE articles SET body = '' WHERE id = 1",
                ),
                "w2": scene.writer("BEGIN", "DELETE FROM articles WHERE id = 2", "COMMIT"),
                "backfill": filling,
                "d1": scene.worker("v2"),
            },
        )
        run.run(order)
        with told(run):
            require_no_errors(run)
            with scene.index.connection() as conn:
                assert backfill.unfilled(conn, scene.index, "v2") == []
            scene.settle()
            scene.agrees("v1", "v2")
        return run

    return attempt


def registration_scenario(scene: Scene, holdout_path: object) -> Attempt:
    """A version is registered between the statements of two writers, one of them under an older snapshot; a worker goes on."""
    numbers = iter(range(3, 100_000))

    def attempt(order: Sequence[str]) -> Interleaving:
        scene.reset()
        name = f"v{next(numbers)}"
        spec = declared(scene.url, holdout_path, "v1", "v2", name, gate=scene.index.spec.gate.model_dump())  # type: ignore[arg-type]
        opened: list[OpenIndex] = []

        def registering(point: Point) -> None:
            del point
            opened.append(open_index(spec))

        run = Interleaving(
            scene.app,
            {
                "w1": scene.writer("BEGIN", "UPDATE articles SET body = 'A2' WHERE id = 1", "COMMIT"),
                "w2": scene.writer(
                    "BEGIN ISOLATION LEVEL REPEATABLE READ",
                    "SELECT count(*) FROM articles",
                    "INSERT INTO articles (id, title, body) VALUES (3, '', 'C')",
                    "COMMIT",
                ),
                "register": registering,
                "d1": scene.worker("v1"),
            },
        )
        run.run(order)
        with told(run):
            require_no_errors(run)
            (index,) = opened
            # The backfill's view is the oldest that it may have: what was there under the registration's lock.
            for key in spec.partition_keys():
                backfill.fill_partition(index, name, key)
            Scene(scene.app, scene.url, index).settle()
            scene.agrees("v1", "v2", name)
        retire.retire(index, name, name)
        index.close()
        return run

    return attempt


def truncate_scenario(scene: Scene) -> Attempt:
    """The table is truncated and loaded anew, in one transaction and in several, beside two workers that distribute too."""

    def attempt(order: Sequence[str]) -> Interleaving:
        scene.reset()
        run = Interleaving(
            scene.app,
            {
                "w1": scene.writer(
                    "INSERT INTO articles (id, title, body) VALUES (3, '', 'C')",
                    "TRUNCATE articles",
                    "INSERT INTO articles (id, title, body) VALUES (1, '', 'A')",
                ),
                "w2": scene.writer(
                    "BEGIN", "TRUNCATE articles", "INSERT INTO articles (id, title, body) VALUES (2, '', 'B')", "COMMIT"
                ),
                "d1": scene.worker("v1"),
                "d2": scene.worker("v2"),
            },
        )
        run.run(order)
        with told(run):
            require_no_errors(run)
            scene.settle()
            scene.agrees("v1", "v2")
        return run

    return attempt


def cutover_scenario(scene: Scene) -> Attempt:
    """A cutover among open and late transactions and beside a worker. What was committed before it began is in what serves."""

    def attempt(order: Sequence[str]) -> Interleaving:
        if serving.read(scene.app, "docs").version == "v2":
            cutover.rollback(scene.index)
        scene.reset()
        scene.app.execute("UPDATE articles SET body = 'before' WHERE id = 1")
        before = serving.read(scene.app, "docs").generation
        refused: list[str] = []
        served: list[dict[str, str]] = []

        def moving(point: Point) -> None:
            del point
            try:
                cutover.cutover(scene.index, "v2", again=True)
                with psycopg.connect(scene.url) as conn:
                    served.append(stored(conn, "v2"))
            except CutoverRefused as problem:
                refused.append(str(problem))

        run = Interleaving(
            scene.app,
            {
                "w1": scene.writer("BEGIN", "UPDATE articles SET body = 'open' WHERE id = 2", "COMMIT"),
                "w2": scene.writer(
                    "DELETE FROM articles WHERE id = 2", "INSERT INTO articles (id, title, body) VALUES (2, '', 'late')"
                ),
                "cutover": moving,
                "d1": scene.worker("v2"),
            },
        )
        run.run(order)
        with told(run):
            require_no_errors(run)
            now = serving.read(scene.app, "docs")
            assert refused == []
            assert (now.version, now.generation) == ("v2", before + 1)
            assert served[0]["1"] == text_hash("before")
            scene.settle()
            scene.agrees("v1", "v2")
        return run

    return attempt


SCENARIOS = ("queue", "backfill", "registration", "truncate", "cutover")


def attempts(name: str, scene: Scene, holdout: object) -> Attempt:
    if name == "registration":
        return registration_scenario(scene, holdout)
    return {
        "queue": queue_scenario,
        "backfill": backfill_scenario,
        "truncate": truncate_scenario,
        "cutover": cutover_scenario,
    }[name](scene)


@pytest.mark.parametrize("name", SCENARIOS)
def test_interleavings(scene: Scene, holdout: object, name: str) -> None:
    tried = explore(attempts(name, scene, holdout), **SHORT)  # type: ignore[arg-type]
    assert tried == SHORT["most"]


@pytest.mark.soak
@pytest.mark.parametrize("name", SCENARIOS)
def test_many_interleavings(scene: Scene, holdout: object, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    tried = explore(attempts(name, scene, holdout), **LONG)  # type: ignore[arg-type]
    with capsys.disabled():
        print(f"\n{name}: {tried} interleavings, seed {LONG['seed']}")
    assert tried > SHORT["most"]
