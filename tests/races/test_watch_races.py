"""A look after a cutover, while others move the pointer, look too, or retire: what was judged is one generation, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from embed_pipeline.catalog import serving
from embed_pipeline.catalog.serving import Pointer
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import cutover, gate, retire
from embed_pipeline.migrate.after_cutover import Looked, look
from tests.harness.articles import at, fill

Open = Callable[..., OpenIndex]


@pytest.fixture
def worse(open_served: Open, app: psycopg.Connection) -> OpenIndex:
    """v2 serves after v1, and has got each vector of another document since."""
    index = open_served("v1", "v2", watch={"rollback": "auto"})
    fill(index, "v2")
    assert gate.run(index, "v2").outcome == "pass"
    cutover.cutover(index, "v2")
    break_vectors(app)
    return index


def break_vectors(app: psycopg.Connection) -> None:
    app.execute(
        "UPDATE embed_pipeline.docs__v2 v SET embedding = o.embedding FROM embed_pipeline.docs__v2 o "
        "WHERE o.doc_id = (1 + v.doc_id::integer % 60)::text"
    )


def pointer(index: OpenIndex) -> Pointer:
    with index.connection() as conn:
        return serving.read(conn, index.name)


def told(app: psycopg.Connection) -> list[str]:
    return [
        event for (event,) in app.execute("SELECT event FROM embed_pipeline.audit_events WHERE event LIKE 'watch%' ORDER BY id")
    ]


def test_a_person_moves_the_pointer_during_a_look(app: psycopg.Connection, worse: OpenIndex) -> None:
    """What was judged serves no more: it is told of nobody, and moves nothing."""
    at("watch.judged", lambda: cutover.rollback(worse, "by a person"))
    found = look(worse)
    assert found is not None
    assert (found.outcome, found.rolled_back, told(app)) == ("overtaken", None, [])
    assert (pointer(worse).version, pointer(worse).generation) == ("v1", 3)


def test_a_person_decides_before_the_watch_rolls_back(app: psycopg.Connection, worse: OpenIndex) -> None:
    """Back and forth again: the same version serves, by a decision that the look knows nothing of."""

    def decide() -> None:
        cutover.rollback(worse, "by a person")
        cutover.cutover(worse, "v2", "by a person", again=True)

    at("watch.rolls_back", decide)
    found = look(worse)
    assert found is not None
    assert found.rolled_back is None
    assert "of generation 4 by now, and 2 was judged" in found.not_rolled_back
    assert (pointer(worse).version, pointer(worse).generation) == ("v2", 4)
    assert told(app) == ["watch fail", "watch could not roll back"]


def test_two_watchers_look_once(app: psycopg.Connection, worse: OpenIndex) -> None:
    """More looks than were counted on would err more often than was said."""
    others: list[Looked | None] = []
    at("watch.taken", lambda: others.append(look(worse)))
    found = look(worse)
    assert found is not None
    assert others == [None]
    assert (pointer(worse).version, pointer(worse).generation) == ("v1", 3)
    assert app.execute("SELECT count(*) FROM embed_pipeline.watch_looks").fetchone() == (1,)
    assert look(worse) is None, "what a rollback has led to is not watched"


def test_the_version_before_is_retired_during_a_look(app: psycopg.Connection, worse: OpenIndex) -> None:
    """It is compared with what its gate saw instead; there is no way back, and that is told."""
    at("watch.asks_before", lambda: retire.retire(worse, "v1", "v1", accept_unseen_reads=True))
    found = look(worse)
    assert found is not None
    assert found.outcome == "fail"
    assert "v2 as its gate saw it" in found.sentence
    assert "there is no way back" in found.not_rolled_back
    assert pointer(worse).version == "v2"
    assert told(app) == ["watch fail", "watch could not roll back"]
