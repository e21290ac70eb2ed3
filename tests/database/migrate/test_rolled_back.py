"""A rollback is somebody's decision: neither a cutover on older evidence nor the next command undoes it by the way."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from embed_pipeline.catalog import serving
from embed_pipeline.catalog.route import Route
from embed_pipeline.errors import CutoverRefused
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, cutover, gate
from tests.harness.articles import fill

Open = Callable[..., OpenIndex]


@pytest.fixture
def left(open_served: Open, monkeypatch: pytest.MonkeyPatch) -> OpenIndex:
    """v1 serves again: v2 did, and anna rolled back from it. What judged v2 is still fresh."""
    index = open_served("v1", "v2")
    fill(index, "v2")
    gate.run(index, "v2")
    cutover.cutover(index, "v2")
    monkeypatch.setenv("EMBED_PIPELINE_ACTOR", "anna")
    cutover.rollback(index, "complaints")
    monkeypatch.setenv("EMBED_PIPELINE_ACTOR", "a pipeline")
    return index


def pointer(app: psycopg.Connection) -> tuple[str | None, int]:
    now = serving.read(app, "docs")
    return now.version, now.generation


def test_a_rollback_is_not_undone_by_the_evidence_from_before(app: psycopg.Connection, left: OpenIndex) -> None:
    with pytest.raises(CutoverRefused, match=r"v2 of docs was rolled back from at .* UTC by anna: complaints\.") as refused:
        cutover.cutover(left, "v2")
    assert refused.value.fields["reason"] == "rolled_back"
    assert (refused.value.fields["by"], refused.value.fields["why"]) == ("anna", "complaints")
    assert "gate docs v2; or serve it all the same: embed-pipeline cutover docs v2 --again" in str(refused.value.next_step)
    assert pointer(app) == ("v1", 3)


def test_the_word_that_serves_it_again_is_in_the_audit(app: psycopg.Connection, left: OpenIndex) -> None:
    assert cutover.cutover(left, "v2", again=True).version == "v2"
    said = app.execute("SELECT version, actor, detail ->> 'by' FROM embed_pipeline.events WHERE event = 'serve again'").fetchall()
    assert said == [("v2", "a pipeline", "anna")]
    # A version that was left by a cutover after that is as good as any.
    gate.run(left, "v1")
    cutover.cutover(left, "v1")
    assert serving.rolled_back(app, "docs", "v2") is None
    assert cutover.cutover(left, "v2").version == "v2"


def test_a_gate_after_the_rollback_is_a_new_decision(app: psycopg.Connection, left: OpenIndex) -> None:
    assert gate.run(left, "v2").outcome == "pass"
    assert cutover.cutover(left, "v2").version == "v2"


def test_a_gate_of_another_route_is_none_about_this_one(app: psycopg.Connection, open_served: Open) -> None:
    index = open_served("v1", "v2", while_building={"refine": True, "depth": 20})
    backfill.fill_partition(index, "v2", "00")
    gate.run(index, "v2", route="refine")
    cutover.cutover(index, "v2", route="refine")
    cutover.rollback(index, "too slow")
    with pytest.raises(CutoverRefused, match="v2 of docs was rolled back from at .*: too slow") as refused:
        cutover.cutover(index, "v2", route="refine")
    assert "cutover docs v2 --route refine --again" in str(refused.value.next_step)
    assert pointer(app) == ("v1", 3)
    # As what serves by itself nobody has left it.
    assert serving.rolled_back(app, "docs", "v2") is None
    assert cutover.cutover(index, "v2", route="refine", again=True).route == Route("v1", "v2", 20)
