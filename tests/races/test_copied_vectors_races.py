"""Vectors that were there before are copied beside an application that changes its texts, and whose own vectors lag behind."""

from __future__ import annotations

import signal
from pathlib import Path

import psycopg
import pytest

from embed_pipeline.documents import shape
from embed_pipeline.errors import AdoptRefused
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import adopt, backfill, dual_write, refill, verify
from tests.harness.adopted import Open, give_vectors, text_of
from tests.harness.articles import at, change, fill, settle, stored, text_hash
from tests.harness.fakes import asked_texts
from tests.harness.forkserver import CONTEXT, preload
from tests.races import workers

preload("tests.races.workers")

NEW = "title 7\n\nanother body"


@pytest.fixture
def adopting(app: psycopg.Connection, open_adopting: Open) -> OpenIndex:
    """Registered; nothing is copied yet."""
    give_vectors(app)
    index = open_adopting()
    adopt.adopt(index)
    return index


def require_new(app: psycopg.Connection, index: OpenIndex, calls: Path) -> None:
    settle(index)
    labels = app.execute("SELECT source_hash, adopted_at FROM embed_pipeline.provenance WHERE doc_id = '7'").fetchone()
    assert labels == (text_hash(NEW), None)
    assert asked_texts(calls)[-1] == " ".join(NEW.split())


def test_a_text_changed_before_its_vector_is_copied_gets_none_of_the_old(
    app: psycopg.Connection, adopting: OpenIndex, calls: Path
) -> None:
    """The text is new and its vector is not: a copy would label the old one with the new text's hash, and nothing would ever differ."""
    at("adopt.copying", lambda: change(app, 7, "another body"))
    fill(adopting, "v1")
    require_new(app, adopting, calls)


def test_a_change_that_was_handed_over_is_not_answered_with_an_old_vector(
    app: psycopg.Connection, adopting: OpenIndex, calls: Path
) -> None:
    change(app, 7, "another body")
    with adopting.connection() as conn:
        dual_write.distributor(adopting).distribute(conn)
    fill(adopting, "v1")
    require_new(app, adopting, calls)


def test_a_document_that_cannot_be_embedded_gets_no_old_vector(app: psycopg.Connection, open_adopting: Open) -> None:
    """Its change was worked off, and left a dead letter: nothing announces it any more."""
    give_vectors(app)
    index = open_adopting(options={"fail_on": "unfit"})
    adopt.adopt(index)
    change(app, 7, "unfit")
    dual_write.sync(index)
    fill(index, "v1")
    assert "7" not in stored(app, "v1")
    assert app.execute("SELECT doc_id FROM embed_pipeline.dead_letters").fetchall() == [("7",)]


def unseen(app: psycopg.Connection, doc_id: int) -> None:
    """A change of a text that no trigger sees."""
    app.execute("ALTER TABLE articles DISABLE TRIGGER USER")
    change(app, doc_id, "another body")
    app.execute("ALTER TABLE articles ENABLE TRIGGER USER")


def test_nothing_is_copied_after_a_change_that_may_have_been_missed(app: psycopg.Connection, adopting: OpenIndex) -> None:
    at("adopt.copying", lambda: unseen(app, 7))
    with pytest.raises(AdoptRefused, match="may have been missed since v1 was registered"):
        backfill.fill_partition(adopting, "v1", "00")
    assert app.execute("SELECT count(completed_at) FROM embed_pipeline.partitions").fetchone() == (0,)


def test_a_doubt_that_was_taken_away_is_not_forgotten_by_the_copy(app: psycopg.Connection, adopting: OpenIndex) -> None:
    """The full comparison leaves to the backfill what is not filled yet, and so has not seen which texts were changed."""
    unseen(app, 7)
    with adopting.connection() as conn:
        assert shape.look(conn, adopting.source, "docs")
    verify.reconcile(adopting)
    with pytest.raises(AdoptRefused, match="may have been missed since v1 was registered"):
        backfill.fill_partition(adopting, "v1", "00")
    assert "7" not in stored(app, "v1")


def test_a_version_that_is_made_again_takes_no_old_vectors(app: psycopg.Connection, adopting: OpenIndex, calls: Path) -> None:
    """What it was told of before was worked off, into a table that is gone: nothing shows which vectors are outdated."""
    for key in adopting.spec.partition_keys():
        backfill.fill_partition(adopting, "v1", key)
    change(app, 7, "another body")
    settle(adopting)
    app.execute("DROP TABLE embed_pipeline.docs__v1 CASCADE")
    assert refill.make_again(adopting, "v1", lambda found: None)
    fill(adopting, "v1")
    settle(adopting)
    labels = app.execute("SELECT source_hash, adopted_at FROM embed_pipeline.provenance WHERE doc_id = '7'").fetchone()
    assert labels == (text_hash(NEW), None)


@pytest.mark.parametrize("moment", ["adopt.copied", "adopt.slice"])
def test_a_copy_that_was_killed_goes_on_where_it_was(
    app: psycopg.Connection, open_adopting: Open, calls: Path, moment: str
) -> None:
    app.execute("INSERT INTO articles (id, title, body) SELECT n, 'title ' || n, 'body ' || n FROM generate_series(61, 400) AS n")
    give_vectors(app, numbers=range(1, 401))
    index = open_adopting()
    adopt.adopt(index)
    asked = len(asked_texts(calls))
    worker = CONTEXT.Process(target=workers.copy_and_die, args=(index.spec.model_dump_json(), moment))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    assert 0 < len(stored(app, "v1")) < 200
    fill(index, "v1")
    settle(index)
    assert stored(app, "v1") == {str(n): text_hash(text_of(n)) for n in range(1, 401)}
    assert len(asked_texts(calls)) == asked
