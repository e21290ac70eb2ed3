"""The model of the version that serves is gone for ever, and the next version is complete: an honest road leads to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embed_pipeline.catalog import holdout_vectors
from embed_pipeline.errors import GateRefused
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import cutover, dual_write, gate, holdout_check, retire
from tests.harness.articles import QUERIES, fill, serve
from tests.harness.providers.loopback import Provider

Open = Callable[..., OpenIndex]
FLOOR = {"min_queries": 2, "margin": 0.2, "floor": 0.5, "floor_alone": True}


@pytest.fixture
def down(tmp_path: Path) -> Path:
    """While this file exists v1's model answers nothing."""
    return tmp_path / "down"


@pytest.fixture
def open_both(open_docs: Open, down: Path) -> Callable[..., OpenIndex]:
    def opened(**overrides: Any) -> OpenIndex:
        shared = {"provider": "tests.harness.fakes:HashEmbedder", "dimensions": 16}
        v1 = shared | {"model_name": "m", "options": {"salt": "v1", "raise_while": str(down)}}
        return open_docs(versions={"v1": v1, "v2": shared | {"model_name": "n", "options": {"salt": "v2"}}}, **overrides)

    return opened


@pytest.fixture
def both(open_both: Callable[..., OpenIndex]) -> OpenIndex:
    """v1 serves, v2 is filled."""
    index = open_both()
    serve(index, "v1")
    fill(index, "v2")
    return index


def kept(app: psycopg.Connection) -> dict[str, int]:
    return dict(app.execute("SELECT version, count(*) FROM embed_pipeline.holdout_vectors GROUP BY version").fetchall())


def test_kept_vectors_take_its_place(app: psycopg.Connection, both: OpenIndex, down: Path) -> None:
    """The verdict is the one that v1's model would have led to, and says whose vectors they were."""
    with_model = gate.run(both, "v2")
    app.execute("UPDATE embed_pipeline.holdout_vectors SET kept_at = kept_at - interval '3 days 2 hours' WHERE version = 'v1'")
    down.touch()
    result = gate.run(both, "v2")
    assert result.outcome == "pass"
    assert result.baseline == "v1"
    for each in ("mean_baseline", "mean_candidate", "lower", "upper", "queries"):
        assert result.measures[each] == with_model.measures[each]
    assert "The model of v1 does not answer (" in result.sentence
    assert "the provider is down): its vectors of these queries were used as they were kept 3 days ago." in result.sentence
    assert cutover.cutover(both, "v2").version == "v2"


def test_of_each_version_the_last_set_is_kept(app: psycopg.Connection, both: OpenIndex, holdout: Path) -> None:
    gate.run(both, "v2")
    assert kept(app) == {"v1": QUERIES, "v2": QUERIES}
    lines = holdout.read_text().splitlines()
    holdout.write_text("\n".join(lines[:20]))
    gate.run(both, "v2")
    assert kept(app) == {"v1": 20, "v2": 20}
    cutover.cutover(both, "v2")
    retire.retire(both, "v1", "v1")
    assert kept(app) == {"v2": 20}


def test_vectors_of_another_set_count_as_far_as_the_queries_are_the_same(
    app: psycopg.Connection, both: OpenIndex, holdout: Path, down: Path
) -> None:
    """Twenty of thirty queries were asked before: enough for a set of these, and not for the larger one."""
    lines = holdout.read_text().splitlines()
    holdout.write_text("\n".join(lines[:20]))
    gate.run(both, "v2")
    down.touch()
    holdout.write_text("\n".join(lines[5:15]))
    assert gate.run(both, "v2").baseline == "v1"
    holdout.write_text("\n".join(lines))
    with pytest.raises(
        GateRefused, match=r"the provider is down\), and vectors of 20 of 30 queries are kept\. Nothing was judged"
    ) as refused:
        gate.run(both, "v2")
    assert refused.value.fields == {"reason": "baseline_cannot_be_measured", "version": "v1", "waiting": 0}
    assert "gate.floor_alone" in str(refused.value)


def test_the_floor_may_decide_alone(
    app: psycopg.Connection, both: OpenIndex, open_both: Callable[..., OpenIndex], down: Path
) -> None:
    """Only where that is declared; and verdict, evidence and audit say so."""
    app.execute("DELETE FROM embed_pipeline.holdout_vectors")
    down.touch()
    with pytest.raises(GateRefused, match="no vectors of these queries are kept"):
        gate.run(both, "v2")
    index = open_both(gate=FLOOR)
    result = gate.run(index, "v2")
    assert result.outcome == "pass"
    assert result.sentence.startswith(
        "pass: recall@10 of v2 1.000 on 30 queries: one-sided 95 % lower bound 0.905, above the floor 0.500."
    )
    assert result.sentence.endswith("and no vectors of these queries are kept. The floor alone decided.")
    assert result.baseline is None
    row = app.execute(
        "SELECT event, detail ->> 'floor_alone' FROM embed_pipeline.events WHERE evidence_id = %s", (result.evidence_id,)
    ).fetchone()
    assert row is not None
    assert row[0] == "gate pass"
    assert row[1].startswith("the model of v1 does not answer")
    assert cutover.cutover(index, "v2").version == "v2"


def test_a_candidate_below_the_floor_fails_alone(
    app: psycopg.Connection, both: OpenIndex, open_both: Callable[..., OpenIndex], holdout: Path, down: Path
) -> None:
    lines = [line.replace('"query": "title', '"query": "no title') for line in holdout.read_text().splitlines()]
    holdout.write_text("\n".join(lines))
    down.touch()
    index = open_both(gate=FLOOR)
    assert gate.run(index, "v2").outcome == "fail"


def test_while_its_model_answers_the_floor_decides_nothing_alone(both: OpenIndex, open_both: Callable[..., OpenIndex]) -> None:
    result = gate.run(open_both(gate=FLOOR), "v2")
    assert result.baseline == "v1"
    assert result.measures["floor_alone"] is None


def test_documents_that_wait_for_the_old_model(
    app: psycopg.Connection, both: OpenIndex, open_both: Callable[..., OpenIndex], down: Path
) -> None:
    """By what evidence may differ from the documents, v1 may: a few that are not judged. Of others it is not known what v1 would find."""
    gate.run(both, "v2")
    down.touch()
    app.execute("UPDATE articles SET body = 'edited' WHERE id IN (41, 42)")
    result = gate.run(both, "v2")
    assert result.outcome == "pass"
    assert "2 documents, none of them judged, wait for v1, whose model does not answer." in result.sentence
    app.execute("UPDATE articles SET body = 'edited' WHERE id = 7")
    with pytest.raises(GateRefused, match=r"3 documents wait for it, 1 of them judged, and it cannot embed them \("):
        gate.run(both, "v2")
    app.execute("UPDATE articles SET body = 'body 7' WHERE id = 7")
    app.execute("UPDATE articles SET body = 'edited' WHERE id > 50")
    with pytest.raises(GateRefused, match="12 documents wait for it, 0 of them judged"):
        gate.run(both, "v2")
    index = open_both(gate=FLOOR)
    assert gate.run(index, "v2").outcome == "pass"
    assert cutover.cutover(index, "v2").version == "v2"
    (behind,) = (each for each in dual_write.sync(index) if each.version == "v1")
    assert behind.pending == 12


def test_the_candidates_model_must_answer(both: OpenIndex, app: psycopg.Connection, down: Path) -> None:
    """It is what would serve. A rollback to v1 is judged by v1's model, whatever is kept of it."""
    gate.run(both, "v2")
    cutover.cutover(both, "v2")
    down.touch()
    with pytest.raises(Exception, match="the provider is down"):
        gate.run(both, "v1")


def test_a_provider_that_answers_404_for_ever(app: psycopg.Connection, open_docs: Open, provider: Provider) -> None:
    """v1 serves, v2 is complete, and nobody has v1's model any more."""
    remote = {
        "provider": "openai",
        "model_name": "text-embedding-3-small",
        "dimensions": 16,
        "base_url": provider.base_url("openai"),
    }
    v2 = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "m", "dimensions": 16}
    index = open_docs(versions={"v1": remote, "v2": v2}, partitions=1)
    serve(index, "v1")
    fill(index, "v2")
    provider.fail("refuse", status=404)
    app.execute("DELETE FROM articles WHERE id = 59")
    app.execute("UPDATE articles SET body = 'edited' WHERE id = 60")
    result = gate.run(index, "v2")
    assert result.outcome == "pass"
    assert "The model of v1 does not answer (" in result.sentence
    assert "status 404" in result.sentence
    assert "1 documents, none of them judged, wait for v1" in result.sentence
    assert cutover.cutover(index, "v2").version == "v2"


def test_holdout_check_goes_by_kept_vectors_too(app: psycopg.Connection, both: OpenIndex, down: Path) -> None:
    down.touch()
    assert holdout_check.check(both).mean == 1.0
    app.execute("DELETE FROM embed_pipeline.holdout_vectors")
    found = holdout_check.check(both)
    assert found.mean is None
    assert "unasked" in [each.kind for each in found.findings]


def test_kept_vectors_are_exact(app: psycopg.Connection, both: OpenIndex, holdout: Path) -> None:
    texts = [f"title {n}\n\nbody {n}" for n in range(1, QUERIES + 1)]
    with both.connection() as conn:
        found = holdout_vectors.read(conn, "docs", "v1", [*texts, "another"])
        asked = both.space(both.version(conn, "v1")).embedder.embed_queries(texts)
    assert found.vectors.keys() == set(texts)
    for text, vector in zip(texts, asked.vectors, strict=True):
        assert (found.vectors[text] == vector).all()
