"""The pool preview: paid once, said before, and the first point of a curve to which the backfill adds one for each tenth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embed_pipeline.cli import render
from embed_pipeline.errors import EmbedderError, HoldoutError, IllegalTransition
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import ahead, backfill, fit, preview
from embed_pipeline.migrate.opening import open_index
from embed_pipeline.migrate.preview import Tenths
from embed_pipeline.report import plan
from tests.harness.articles import declared, fill, require_consistent, serve
from tests.harness.fakes import asked_texts
from tests.harness.two_spaces import NEW, text, write_documents, write_holdout

Open = Callable[..., OpenIndex]

DOCUMENTS, FEW, MANY = 420, 3, 30
NARROW, WIDE = 64, 96


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return tmp_path / "calls"


@pytest.fixture
def open_blind(app: psycopg.Connection, database_url: str, tmp_path: Path, calls: Path) -> Iterator[Open]:
    """Opens an index with so many judged queries. v1 is blind to most words, and serves; v2 sees all, and has nothing yet."""
    handles: list[OpenIndex] = []
    write_documents(app, 1, DOCUMENTS)

    def opened(queries: int = FEW, **options: Any) -> OpenIndex:
        shared = {"provider": "tests.harness.fakes:WordsEmbedder", "dimensions": NARROW, "options": {"drop": 0.7}}
        seeing = {"narrow": NARROW, "calls_file": str(calls), **options}
        spec = declared(
            database_url,
            write_holdout(tmp_path / "queries.jsonl", queries),
            versions={
                "v1": shared | {"model_name": "old"},
                "v2": NEW | {"dimensions": WIDE, "options": seeing, "batch_size": 8},
            },
            gate={"min_queries": 2, "margin": 0.9, "min_ann_recall": 0, "metric": "recall@1"},
            partitions=5,
        )
        index = open_index(spec)
        handles.append(index)
        with index.connection() as conn:
            begun = index.version(conn, "v1").state != "building"
        if not begun:
            serve(index, "v1")
        return index

    yield opened
    for index in handles:
        index.close()


def documents(calls: Path) -> Counter[str]:
    """How often each document was asked for."""
    known = {whole(number) for number in range(1, DOCUMENTS + 1)}
    return Counter(each for each in asked_texts(calls) if each in known)


def whole(number: int) -> str:
    """A document as the calls show it."""
    return f"{text(number)} {text(-number)}"


def test_a_preview_embeds_what_the_queries_find_and_the_backfill_finds_it_done(open_blind: Open, calls: Path) -> None:
    index = open_blind()
    pool = preview.pool(index, "v2")
    assert not documents(calls), "nothing is embedded before somebody has agreed"
    assert 100 <= len(pool.ahead.todo) <= 100 * FEW
    assert f"will embed {len(pool.ahead.todo):,} of" in pool.sentence
    found = preview.preview(index, pool)
    assert len(documents(calls)) == len(pool.ahead.todo)
    assert found.gain.estimated
    (point,) = found.curve.points
    assert (point.occasion, point.documents, point.partitions) == ("preview", len(pool.ahead.todo), 0)
    assert set(point.arms) == {"keep_old", "full"}
    assert found.curve.forecast.seconds is not None
    again = preview.pool(index, "v2")
    assert again.ahead.todo == ()
    assert "nothing to embed" in again.sentence
    fill(index, "v2")
    assert set(documents(calls).values()) == {1}, "nobody is paid twice"
    assert len(documents(calls)) == DOCUMENTS
    require_consistent(index)


def test_a_preview_that_was_stopped_goes_on(open_blind: Open, tmp_path: Path, calls: Path) -> None:
    mended = tmp_path / "mended"
    index = open_blind(raise_on=text(1), mended=str(mended))
    pool = preview.pool(index, "v2")
    with pytest.raises(EmbedderError):
        preview.preview(index, pool)
    mended.touch()
    left = preview.pool(index, "v2")
    preview.preview(index, left)
    assert preview.pool(index, "v2").ahead.todo == ()
    done = set(pool.ahead.todo) - set(left.ahead.todo)
    asked = documents(calls)
    assert all(asked[whole(int(doc_id))] == 1 for doc_id in done), "what was done is not asked for again"


def test_a_backfill_adds_a_point_for_each_tenth_once_there_is_a_preview(open_blind: Open) -> None:
    index = open_blind()
    keys = index.spec.partition_keys()
    backfill.fill_partition(index, "v2", keys[0])
    assert Tenths(index, "v2").partition_filled() is None, "nobody has asked for a curve"
    preview.preview(index, preview.pool(index, "v2"))
    tenths = Tenths(index, "v2")
    assert tenths.partition_filled() is None, "the preview has this tenth already"
    for key in keys[1:]:
        backfill.fill_partition(index, "v2", key)
        assert tenths.partition_filled() is not None
        assert tenths.partition_filled() is None
    with index.connection() as conn:
        curve = preview.read(conn, index, index.version(conn, "v2"), index.version(conn, "v1"))
    assert curve is not None
    assert [(point.occasion, point.partitions) for point in curve.points] == [
        ("preview", 1),
        *(("tenth", n) for n in range(2, 6)),
    ]
    assert all("refine" in point.arms for point in curve.points)
    assert curve.points[-1].documents == DOCUMENTS


def test_what_was_embedded_for_the_queries_does_not_flatter_the_refined_list(open_blind: Open) -> None:
    """The pool is what these very queries ask for. Of no other query are the candidates there as completely, so only filled partitions count."""
    index = open_blind(MANY)
    found = preview.preview(index, preview.pool(index, "v2"))
    assert found.gain.difference > 0.2
    # A partition in which no query has what it looks for.
    backfill.fill_partition(index, "v2", index.spec.partition_keys()[-1])
    curve = preview.measure(index, "v2")
    refined = curve.points[-1].arms["refine"]
    assert refined.difference < found.gain.difference / 2
    for key in index.spec.partition_keys()[:-1]:
        backfill.fill_partition(index, "v2", key)
    refined = preview.measure(index, "v2").points[-1].arms["refine"]
    assert refined.difference == pytest.approx(found.gain.difference, abs=0.1)


def test_every_way_to_serve_is_on_the_curve(open_blind: Open) -> None:
    index = open_blind(MANY)
    fill(index, "v2")
    adapter = fit.fit(index, "v2", "procrustes")
    curve = preview.measure(index, "v2")
    assert set(curve.points[-1].arms) == {"keep_old", "refine", "bridge", "full"}
    assert not curve.points[-1].arms["full"].estimated
    assert adapter.kind == "procrustes"
    assert curve.advice.startswith("Migrate: v2 is measured to be better")
    assert "the bridge " in curve.advice
    assert curve.draw().startswith(b"\x89PNG")
    assert curve.table().count("\n") == 2 + 4


def test_plan_shows_the_curve_and_embeds_for_it_nothing(open_blind: Open) -> None:
    index = open_blind()
    assert plan.plan(index.spec, "v2").curve is None
    preview.preview(index, preview.pool(index, "v2"))
    found = plan.plan(index.spec, "v2")
    assert found.curve is not None
    assert len(found.curve.points) == 1
    assert any("advice: " in line for line in render.plan_lines(found))


def test_a_curve_is_of_two_spaces_and_one_held_out_set(open_blind: Open) -> None:
    index = open_blind()
    preview.preview(index, preview.pool(index, "v2"))
    open_blind(MANY)  # writes another set into the file
    assert [point.queries for point in preview.measure(index, "v2").points] == [MANY]


def test_what_has_nothing_to_compare_with_is_refused(open_blind: Open) -> None:
    index = open_blind()
    with pytest.raises(IllegalTransition, match="v1 serves docs itself"):
        preview.pool(index, "v1")
    index.spec = index.spec.model_copy(update={"holdout": None})
    with pytest.raises(HoldoutError, match="declares no held-out set"):
        preview.pool(index, "v2")


def test_documents_that_are_wanted_first_are_embedded_once(open_blind: Open, calls: Path) -> None:
    index = open_blind()
    with index.connection() as conn:
        found = ahead.look(conn, index, "v2", ["7", "9", "7", "no document"])
    assert (found.asked, found.known, found.todo) == (3, 2, ("7", "9"))
    ahead.embed(index, found)
    assert documents(calls) == {whole(7): 1, whole(9): 1}
    fill(index, "v2")
    assert set(documents(calls).values()) == {1}
