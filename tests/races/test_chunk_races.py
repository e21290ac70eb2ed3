"""Documents of several chunks against a changing table: at no moment does anybody see a half of one, or a chunk too many.

Another connection looks at every named moment of the worker. What it may see is one whole set of chunks, the old or the new one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import psycopg
import pytest

from embed_pipeline import signals
from embed_pipeline.embedders.chunker import Chunker
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, dual_write
from embed_pipeline.spec import ChunkerSpec
from tests.harness.articles import at, fill, require_consistent, settle, text_hash
from tests.harness.fakes import WordsEmbedder
from tests.harness.providers.loopback import waited
from tests.races.hands import WAITS_FOR_A_LOCK, take_claims_over

Open = Callable[..., OpenIndex]
Seen = tuple[str, int, list[tuple[int, int, int]]]

SIZE = 33
DUAL_WRITE = (
    "dual_write.claimed", "dual_write.read", "settle.locked", "embed.split", "dual_write.embedded", "replace.locked", "replace.first",
    "replace.deleted", "replace.written",
)  # fmt: skip
BACKFILL = ("backfill.read", "embed.split", "backfill.embedded", "insert_new.held", "insert_new.written")


class Died(Exception):
    """Stands for the end of a worker: its transaction goes with it."""


def body(chunks: int, tag: str) -> str:
    """With its title in front a text of so many chunks."""
    return "\n\n".join(f"paragraph {number} of a text about {tag}" for number in range(chunks - 1))


def whole(chunks: int, tag: str) -> Seen:
    """All that is stored of document 1 with this body: hash, number of chunks, (chunk, start, end) of each."""
    text = f"title 1\n\n{body(chunks, tag)}"
    passages = Chunker(ChunkerSpec(size=SIZE)).passages(text)
    assert len(passages) == chunks
    return text_hash(text), chunks, [(number, *passage) for number, passage in enumerate(passages)]


def write(app: psycopg.Connection, chunks: int, tag: str) -> None:
    app.execute("UPDATE articles SET body = %s WHERE id = 1", (body(chunks, tag),))


def look(app: psycopg.Connection) -> Seen | None:
    """What is stored of document 1 now, in one statement; every vector is compared with that of its own passage."""
    rows = app.execute(
        """SELECT encode(v.source_hash, 'hex'), v.chunks, v.chunk, v.passage_start, v.passage_end, v.embedding::text,
                  concat_ws(E'\\n\\n', a.title, a.body)
           FROM embed_pipeline.docs__v1 v LEFT JOIN articles a ON a.id = 1
           WHERE v.doc_id = '1' ORDER BY v.chunk"""
    ).fetchall()
    if not rows:
        return None
    for digest, _, _, start, end, embedding, text in rows:
        if embedding is not None and digest == text_hash(text):
            expected = WordsEmbedder(dimensions=16, model_name="words").vector(text[start:end])
            np.testing.assert_allclose(
                np.fromstring(embedding.strip("[]"), sep=","), expected / np.linalg.norm(expected), atol=1e-5
            )
    assert len({row[:2] for row in rows}) == 1, f"chunks of several texts: {rows}"
    return rows[0][0], rows[0][1], [tuple(row[2:5]) for row in rows]


class Watcher:
    """Looks at document 1 at every moment of a list, and may do something at one of them, once."""

    def __init__(self, app: psycopg.Connection, moments: tuple[str, ...]) -> None:
        self.app = app
        self.seen: list[tuple[str, Seen | None]] = []
        for moment in moments:
            signals.listen(moment, lambda moment=moment: self._reached(moment))  # type: ignore[misc]
        self._then: dict[str, Callable[[], Any]] = {}

    def at(self, moment: str, action: Callable[[], Any]) -> None:
        self._then[moment] = action

    def _reached(self, moment: str) -> None:
        self.seen.append((moment, look(self.app)))
        action = self._then.pop(moment, None)
        if action is not None:
            action()

    def require(self, moments: tuple[str, ...], *allowed: Seen | None) -> None:
        """Every moment was reached, and nothing was ever seen but these."""
        assert {moment for moment, _ in self.seen} == set(moments)
        assert [(moment, seen) for moment, seen in self.seen if seen not in allowed] == []


@pytest.fixture
def index(app: psycopg.Connection, open_docs: Open) -> OpenIndex:
    """Version v1 with chunks of 33 characters, and document 1 as the only one."""
    app.execute("DELETE FROM articles WHERE id <> 1")
    words = {
        "provider": "tests.harness.fakes:WordsEmbedder",
        "model_name": "words",
        "dimensions": 16,
        "chunker": {"size": SIZE},
        "options": {"fail_on": "poison"},
    }
    return open_docs(versions={"v1": words}, partitions=1)


def die() -> None:
    raise Died


@pytest.mark.parametrize(("before", "after"), [(5, 3), (3, 5)])
def test_dual_write_of_a_document_that_shrinks_or_grows(
    app: psycopg.Connection, index: OpenIndex, before: int, after: int
) -> None:
    write(app, before, "old")
    fill(index, "v1")
    assert look(app) == whole(before, "old")
    write(app, after, "new")
    watcher = Watcher(app, DUAL_WRITE)
    settle(index)
    watcher.require(DUAL_WRITE, whole(before, "old"), whole(after, "new"))
    assert look(app) == whole(after, "new")


@pytest.mark.parametrize(("before", "after"), [(5, 3), (3, 5)])
@pytest.mark.parametrize("moment", DUAL_WRITE)
def test_dual_write_dies_at_any_moment(app: psycopg.Connection, index: OpenIndex, moment: str, before: int, after: int) -> None:
    write(app, before, "old")
    fill(index, "v1")
    write(app, after, "new")
    signals.listen(moment, die)
    with pytest.raises(Died):
        dual_write.sync(index)
    assert look(app) == whole(before, "old")
    signals.forget_all()
    take_claims_over(app)
    settle(index)
    assert look(app) == whole(after, "new")


@pytest.mark.parametrize(("before", "after"), [(5, 3), (3, 5)])
@pytest.mark.parametrize("moment", ["embed.split", "dual_write.embedded"])
def test_the_chunks_change_while_they_are_embedded(
    app: psycopg.Connection, index: OpenIndex, moment: str, before: int, after: int
) -> None:
    """Five chunks were embedded, and the text has three by now: the five are written whole under their own hash, and then the three."""
    write(app, 2, "own")
    fill(index, "v1")
    write(app, before, "old")
    watcher = Watcher(app, DUAL_WRITE)
    watcher.at(moment, lambda: write(app, after, "new"))
    dual_write.sync(index)
    settle(index)
    watcher.require(DUAL_WRITE, whole(2, "own"), whole(before, "old"), whole(after, "new"))
    assert look(app) == whole(after, "new")


def test_backfill_shows_all_chunks_of_a_document_or_none(app: psycopg.Connection, index: OpenIndex) -> None:
    write(app, 5, "old")
    app.execute("DELETE FROM embed_pipeline.inbox")
    watcher = Watcher(app, BACKFILL)
    fill(index, "v1")
    watcher.require(BACKFILL, None)
    assert look(app) == whole(5, "old")
    require_consistent(index)


@pytest.mark.parametrize("moment", BACKFILL)
def test_backfill_dies_at_any_moment(app: psycopg.Connection, index: OpenIndex, moment: str) -> None:
    app.execute("UPDATE articles SET body = %s", (body(5, "old"),))
    app.execute("DELETE FROM embed_pipeline.inbox")
    signals.listen(moment, die)
    with pytest.raises(Died):
        backfill.fill_partition(index, "v1", "00")
    assert look(app) is None
    signals.forget_all()
    fill(index, "v1")
    assert look(app) == whole(5, "old")


@pytest.mark.parametrize(("before", "after"), [(5, 3), (3, 5)])
@pytest.mark.parametrize("moment", ["embed.split", "backfill.embedded"])
def test_dual_write_overtakes_a_backfill_with_another_number_of_chunks(
    app: psycopg.Connection, index: OpenIndex, moment: str, before: int, after: int
) -> None:
    """The backfill holds the old chunks in its hands when the new ones are stored: it adds none to them."""
    write(app, before, "old")
    app.execute("DELETE FROM embed_pipeline.inbox")
    watcher = Watcher(app, BACKFILL)

    def overtake() -> None:
        write(app, after, "new")
        dual_write.sync(index)

    watcher.at(moment, overtake)
    fill(index, "v1")
    assert [seen for _, seen in watcher.seen if seen not in (None, whole(after, "new"))] == []
    settle(index)
    assert look(app) == whole(after, "new")


@pytest.mark.parametrize(("of_the_backfill", "of_the_worker"), [(5, 2), (2, 5)])
def test_a_worker_waits_for_the_first_chunk_of_an_open_insert(
    app: psycopg.Connection, index: OpenIndex, of_the_backfill: int, of_the_worker: int
) -> None:
    """The backfill has written its chunks and not committed. A worker with a newer text takes chunk 0 first, so it waits there, and sees
    the others afterwards: by ON CONFLICT for each row, chunks of both texts would stand side by side."""
    write(app, of_the_backfill, "old")
    app.execute("DELETE FROM embed_pipeline.inbox")

    def overtake() -> None:
        write(app, of_the_worker, "new")
        working.append(pool.submit(dual_write.sync, index))
        waited(lambda: app.execute(WAITS_FOR_A_LOCK).fetchone() == (1,), "the worker does not wait for the insert")

    def both_are_done() -> None:
        working[0].result(timeout=60)
        seen.append(look(app))

    working: list[Future[Any]] = []
    seen: list[Seen | None] = []
    at("insert_new.written", overtake)
    # Before the comparison of the partition, which would mend it.
    at("backfill.closed", both_are_done)
    with ThreadPoolExecutor(1) as pool:
        fill(index, "v1")
    assert seen == [whole(of_the_worker, "new")]
    settle(index)
    assert look(app) == whole(of_the_worker, "new")


@pytest.mark.parametrize(("of_the_backfill", "of_the_worker"), [(5, 2), (2, 5)])
def test_an_insert_beside_a_worker_that_has_the_first_chunk(
    app: psycopg.Connection, index: OpenIndex, of_the_backfill: int, of_the_worker: int
) -> None:
    """The worker has written its newer text and not committed when the backfill inserts: whoever has chunk 0 has the document."""
    write(app, of_the_backfill, "old")
    app.execute("DELETE FROM embed_pipeline.inbox")
    holding, wait = threading.Event(), threading.Event()

    def hold() -> None:
        holding.set()
        assert wait.wait(60)

    def overtake() -> None:
        write(app, of_the_worker, "new")
        working.append(pool.submit(dual_write.sync, index))
        assert holding.wait(60)

    def go_on() -> None:
        # The COPY has given way, and the insert row by row is about to wait for the worker.
        wait.set()

    working: list[Future[Any]] = []
    at("backfill.embedded", overtake)
    at("replace.written", hold)
    at("insert_new.by_rows", go_on)
    with ThreadPoolExecutor(1) as pool:
        fill(index, "v1")
        working[0].result(timeout=60)
    settle(index)
    assert look(app) == whole(of_the_worker, "new")


def test_one_poison_chunk_makes_a_dead_letter_of_the_whole_document(app: psycopg.Connection, index: OpenIndex) -> None:
    """Half a document must not stay findable, and nothing of the text before."""
    moments = ("reject.locked",)
    write(app, 5, "old")
    fill(index, "v1")
    app.execute("UPDATE articles SET body = %s", (f"{body(3, 'new')}\n\nthe fourth chunk of it is poison",))
    watcher = Watcher(app, moments)
    assert dual_write.sync(index)[0].rejected == 1
    watcher.require(moments, whole(5, "old"))
    assert look(app) is None
    letters = app.execute("SELECT doc_id, reason FROM embed_pipeline.dead_letters").fetchall()
    assert [doc_id for doc_id, _ in letters] == ["1"]
    assert letters[0][1].startswith("chunk 4 of 4 (characters ")
    assert letters[0][1].endswith("told to fail on 'poison'")
    require_consistent(index)


def test_backfill_of_a_document_with_a_poison_chunk_writes_none_of_it(app: psycopg.Connection, index: OpenIndex) -> None:
    app.execute("UPDATE articles SET body = %s", (f"{body(3, 'new')}\n\nthe fourth chunk of it is poison",))
    app.execute("DELETE FROM embed_pipeline.inbox")
    report = backfill.fill_partition(index, "v1", "00")
    assert (report.written, report.rejected) == (0, 1)
    assert look(app) is None
    require_consistent(index)
