"""Searchers and a cutover: who has the new model follows it, who has not says so, goes on with the version before, and is named."""

from __future__ import annotations

import importlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from embed_pipeline import Searcher
from embed_pipeline.errors import ConfigurationError, CutoverRefused, EmbedderError
from embed_pipeline.index import abilities
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import cutover, gate, retire
from embed_pipeline.report.status import status
from tests.harness.articles import fill, serve

Open = Callable[..., OpenIndex]
TEXT = "title 7\n\nbody 7"

HOUSE = """
from pathlib import Path
from tests.harness.fakes import HashEmbedder

class HouseModel(HashEmbedder):
    def __init__(self, *, weights, **shared):
        super().__init__(**shared)
        with open(f"{weights}.opened", "a") as opened:
            opened.write("x")
        Path(weights).read_text()
"""


class House:
    """A model of a package of its own, which a machine has or has not; and so has its weights."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "house_model_of_a_test.py"
        self.weights = folder / "weights"
        self.install()

    def install(self) -> None:
        self._file.write_text(HOUSE)
        self.weights.write_text("w")
        importlib.invalidate_caches()

    def remove(self) -> None:
        self._file.unlink()
        sys.modules.pop("house_model_of_a_test", None)
        importlib.invalidate_caches()

    @property
    def opened(self) -> int:
        return len(Path(f"{self.weights}.opened").read_text())

    @property
    def version(self) -> dict[str, Any]:
        return {
            "provider": "house_model_of_a_test:HouseModel",
            "model_name": "house",
            "dimensions": 16,
            "options": {"salt": "house", "weights": str(self.weights)},
        }


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield House(folder)
    sys.modules.pop("house_model_of_a_test", None)


@pytest.fixture
def gated(open_docs: Open, house: House) -> OpenIndex:
    """v1 serves, the house's model has passed as v2, and this machine has lost it since."""
    serve(open_docs("v1"), "v1")
    v1 = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "model-v1", "dimensions": 16, "options": {"salt": "v1"}}
    index = open_docs(versions={"v1": v1, "v2": house.version})
    fill(index, "v2")
    gate.run(index, "v2")
    house.remove()
    return index


@pytest.fixture
def searcher(gated: OpenIndex) -> Iterator[Searcher]:
    with Searcher("docs", gated.url, refresh_seconds=0) as opened:
        yield opened


def noted(app: psycopg.Connection) -> list[tuple[Any, ...]]:
    return app.execute(
        "SELECT cardinality(s.can), (SELECT min(c.value) FROM jsonb_each_text(s.cannot) c) FROM embed_pipeline.searchers s"
    ).fetchall()


def test_a_searcher_without_the_new_model_goes_on_with_the_version_before(
    gated: OpenIndex, searcher: Searcher, house: House, caplog: pytest.LogCaptureFixture
) -> None:
    assert searcher.search(TEXT, 1).version == "v1"
    cutover.cutover(gated, "v2", anyway=True)
    with caplog.at_level(logging.WARNING, "embed_pipeline.search"):
        for _ in range(3):
            answer = searcher.search(TEXT, 1)
            assert (answer.version, answer.hits[0].doc_id) == ("v1", "7")
    (said,) = caplog.records
    assert "docs serves v2, and this machine cannot embed queries for it" in said.getMessage()
    assert "there is none" in said.getMessage()
    house.install()
    assert searcher.search(TEXT, 1).version == "v2"


def test_a_searcher_ends_with_the_version_that_it_went_on_with(gated: OpenIndex, searcher: Searcher) -> None:
    cutover.cutover(gated, "v2", anyway=True)
    assert searcher.search(TEXT, 1).version == "v1"
    retire.retire(gated, "v1", "v1")
    with pytest.raises(ConfigurationError, match="needs the module house_model_of_a_test"):
        searcher.search(TEXT, 1)


def test_a_model_that_cannot_be_opened_is_not_tried_by_every_search(gated: OpenIndex, searcher: Searcher, house: House) -> None:
    """Its module is there, and its weights are not: that shows only when it is opened, which may take seconds."""
    house.install()
    house.weights.unlink()
    cutover.cutover(gated, "v2", anyway=True)
    before = house.opened
    assert [searcher.search(TEXT, 1).version for _ in range(3)] == ["v1"] * 3
    assert house.opened == before + 1
    with pytest.raises(EmbedderError, match="cannot be opened"):
        searcher.prepare("v2")


def test_prepare_opens_the_next_model_ahead_of_the_flip(
    app: psycopg.Connection, gated: OpenIndex, searcher: Searcher, house: House
) -> None:
    house.install()
    searcher.prepare("v2")
    assert noted(app) == [(2, None)]
    house.remove()
    opened = house.opened
    cutover.cutover(gated, "v2")
    assert searcher.search(TEXT, 1).version == "v2"
    assert house.opened == opened


def test_a_cutover_names_the_searchers_that_could_not_follow(app: psycopg.Connection, gated: OpenIndex) -> None:
    with Searcher("docs", gated.url) as left:
        with pytest.raises(ConfigurationError, match="needs the module house_model_of_a_test"):
            left.prepare("v2")
        sentence = (
            r"1 of the processes that search docs cannot embed queries for v2, and would go on with v1 until that is retired.*: "
            r"\S+:\d+ \(role \w+\): The provider house_model_of_a_test:HouseModel needs the module.*cutover docs v2 --anyway"
        )
        with pytest.raises(CutoverRefused, match=sentence):
            cutover.cutover(gated, "v2")
        assert [each.split(": ")[0] for each in status(gated).left_behind] == ["v2"]
        moved = cutover.cutover(gated, "v2", anyway=True)
        assert len(moved.left_behind) == 1
        assert app.execute(
            "SELECT detail -> 'searchers' ->> 0 FROM embed_pipeline.events WHERE event = 'left behind'"
        ).fetchone() == (moved.left_behind[0],)
        assert cutover.rollback(gated).left_behind == ()
    # It has said goodbye: nobody is left behind any more.
    wait_until(lambda: noted(app) == [])
    assert cutover.cutover(gated, "v2", again=True).left_behind == ()


def test_a_searcher_that_is_gone_holds_up_no_cutover(app: psycopg.Connection, gated: OpenIndex, searcher: Searcher) -> None:
    with pytest.raises(ConfigurationError):
        searcher.prepare("v2")
    app.execute("UPDATE embed_pipeline.searchers SET seen_at = seen_at - interval '1 hour'")
    assert cutover.cutover(gated, "v2").left_behind == ()
    # Nor one of the future, which was noted before the clock was set back.
    cutover.rollback(gated)
    app.execute("UPDATE embed_pipeline.searchers SET seen_at = clock_timestamp() + interval '1 hour'")
    assert cutover.cutover(gated, "v2", again=True).left_behind == ()


def test_a_searcher_says_by_itself_what_it_can_embed(
    app: psycopg.Connection, gated: OpenIndex, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody calls `prepare`, and no model is opened for it."""
    monkeypatch.setattr(abilities, "LOOK_SECONDS", 0.0)
    opened = house.opened
    with Searcher("docs", gated.url):
        wait_until(lambda: [can for can, _ in noted(app)] == [1])
        assert "there is none" in noted(app)[0][1]
        house.install()
        wait_until(lambda: noted(app) == [(2, None)])
    assert house.opened == opened


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_role_that_may_not_say_what_it_can_embed_searches_all_the_same(
    app: psycopg.Connection, gated: OpenIndex, reader_url: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    app.execute("REVOKE EXECUTE ON FUNCTION embed_pipeline.note_searcher FROM PUBLIC")
    with caplog.at_level(logging.INFO, "embed_pipeline.index"), Searcher("docs", reader_url()) as searcher:
        for _ in range(2):
            searcher.prepare("v1")
        assert searcher.search(TEXT, 1).version == "v1"
    assert [record.getMessage().partition(": ")[0] for record in caplog.records] == [
        "Which versions of docs can be searched here is not noted"
    ]
    assert noted(app) == []


def test_a_reader_may_say_what_is_its_own_and_no_more_of_it(
    app: psycopg.Connection, gated: OpenIndex, reader_url: Callable[[], str]
) -> None:
    say = "SELECT embed_pipeline.note_searcher('docs', %s, repeat('w', 999), %s, %s::jsonb)"
    fingerprints = [row[0] for row in app.execute("SELECT fingerprint FROM embed_pipeline.index_versions ORDER BY version")]
    mine, theirs = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"
    app.execute(say, (theirs, fingerprints, "{}"))
    with psycopg.connect(reader_url(), autocommit=True) as reader:
        reader.execute(say, (mine, [fingerprints[0], "nothing"], f'{{"{fingerprints[1]}": "{"why" * 999}", "other": "x"}}'))
        row = (
            "SELECT length(who), can, (SELECT sum(length(c.value)) FROM jsonb_each_text(cannot) c) FROM embed_pipeline.searchers "
        )
        assert reader.execute(sql.SQL(row + "WHERE searcher = %s"), (mine,)).fetchone() == (200, [fingerprints[0]], 500)
        # Another role's row is neither changed nor taken away.
        reader.execute(say, (theirs, [], "{}"))
        reader.execute(say, (theirs, None, "{}"))
        assert reader.execute(sql.SQL(row + "WHERE searcher = %s"), (theirs,)).fetchone() == (200, sorted(fingerprints), None)
        reader.execute(
            "SELECT embed_pipeline.note_searcher('docs', md5(n::text)::uuid, '', ARRAY[]::text[], '{}') FROM generate_series(1, 1100) AS n"
        )
        reader.execute(say, (mine, [], "{}"))
        count = reader.execute("SELECT count(*) FROM embed_pipeline.searchers WHERE role = session_user").fetchone()
        assert count == (1000,)
        with reader.transaction():
            reader.execute("SET TRANSACTION READ ONLY")
            reader.execute(say, (mine, [], "{}"))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("DELETE FROM embed_pipeline.searchers")
