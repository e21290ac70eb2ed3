"""The held-out set is looked at before it judges: each case that fooled the gate once ends in the right verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embed_pipeline.errors import HoldoutError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import cutover, gate, holdout_check
from tests.harness.articles import QUERIES, fill, settle

Open = Callable[..., OpenIndex]
Rows = list[dict[str, Any]]


def rows(holdout: Path) -> Rows:
    return [json.loads(line) for line in holdout.read_text().splitlines()]


def write(holdout: Path, written: Rows) -> None:
    holdout.write_text("\n".join(json.dumps(row) for row in written))


@pytest.fixture
def judged(open_served: Open) -> OpenIndex:
    """v1 serves, v2 is filled. Ten of 60 documents are found by chance, so a set is not believed below .3."""
    index = open_served("v1", "v2")
    fill(index, "v2")
    return believed_above(index, 0.3)


def believed_above(index: OpenIndex, least: float) -> OpenIndex:
    """The same with another holdout.min_baseline."""
    assert index.spec.holdout is not None
    index.spec = index.spec.model_copy(update={"holdout": index.spec.holdout.model_copy(update={"min_baseline": least})})
    return index


def refusal(index: OpenIndex) -> str:
    """What the gate refuses to judge on, which is what `holdout check` says."""
    with pytest.raises(HoldoutError) as problem:
        gate.run(index, "v2")
    found = holdout_check.check(index)
    assert not found.is_usable
    return problem.value.message


def test_one_query_many_times(judged: OpenIndex, holdout: Path) -> None:
    first = rows(holdout)[0]
    write(holdout, [first | {"query_id": f"q{n}", "query": f"{first['query']}{'!' * (n % 3)}"} for n in range(1_000)])
    assert "1000 queries are 1 different one" in refusal(judged)


def test_queries_many_times_each_count_once(judged: OpenIndex, holdout: Path) -> None:
    once = gate.run(judged, "v2")
    write(holdout, [row | {"query_id": f"{row['query_id']}.{n}"} for row in rows(holdout) for n in range(10)])
    repeated = gate.run(judged, "v2")
    assert "300 queries are 30 different ones" in repeated.sentence
    for each in ("queries", "lower", "upper", "mean_candidate"):
        assert repeated.measures[each] == once.measures[each]
    assert (repeated.measures["queries"], repeated.measures["queries_written"]) == (30, 300)


def test_queries_that_are_the_documents(judged: OpenIndex) -> None:
    assert "30 of 30 queries are the very text of a relevant document" in gate.run(judged, "v2").sentence
    (finding,) = holdout_check.check(judged).findings
    assert finding.kind == "own_text"


def test_judgements_that_are_shifted_by_one(judged: OpenIndex, holdout: Path) -> None:
    """Every judged document is there, and nobody finds any: equal versions would pass."""
    write(holdout, [row | {"doc_id": str(int(row["doc_id"]) + 30)} for row in rows(holdout)])
    said = refusal(judged)
    assert "which serves, is 0." in said
    assert "below holdout.min_baseline 0.300" in said


def test_documents_that_are_gone(app: psycopg.Connection, judged: OpenIndex) -> None:
    app.execute("DELETE FROM articles WHERE id = 3")
    settle(judged)
    result = gate.run(judged, "v2")
    assert result.outcome == "pass"
    assert (
        "1 document of the 30 judged is not in the documents table: '3'; their judgements were left out for every version, "
        "and with them 1 query."
    ) in result.sentence
    assert (result.measures["queries"], result.measures["missing_documents"]) == (29, 1)
    app.execute("DELETE FROM articles WHERE id = 4")
    settle(judged)
    assert "2 documents of the 30 judged are not in the documents table, more than holdout.max_missing 5% allows" in refusal(
        judged
    )


def test_ids_that_changed(app: psycopg.Connection, judged: OpenIndex, holdout: Path) -> None:
    write(holdout, [row | {"doc_id": f"article-{int(row['doc_id']):05}"} for row in rows(holdout)])
    assert refusal(judged).endswith("But for how they are written they are ids of the table: 'article-00001' is '1' there.")


def test_judgements_that_fit_another_column(app: psycopg.Connection, judged: OpenIndex, holdout: Path) -> None:
    app.execute("ALTER TABLE articles ADD COLUMN slug text; UPDATE articles SET slug = 'the-' || id || '-th'")
    settle(judged)
    write(holdout, [row | {"doc_id": f"the-{row['doc_id']}-th"} for row in rows(holdout)])
    assert refusal(judged).endswith("They fit another column: slug (30 of 30); judgements name documents by id.")


def test_every_document_is_relevant(app: psycopg.Connection, judged: OpenIndex, holdout: Path) -> None:
    everything = {str(n): 1 for n in range(1, 61)}
    write(holdout, [{"query_id": f"q{n}", "query": f"title {n}", "judgements": everything} for n in range(1, QUERIES + 1)])
    assert refusal(judged) == "Every document is relevant to every query: no search could be wrong."


def test_a_candidate_that_is_proven_better_is_believed(app: psycopg.Connection, open_docs: Open) -> None:
    """What serves is broken and finds nothing: its mend must not be held up by the set on which that shows."""
    good = {"provider": "tests.harness.fakes:HashEmbedder", "dimensions": 16, "model_name": "m", "options": {"salt": "a"}}
    bad = good | {"document_prefix": "passage: "}
    index = open_docs(versions={"v1": bad})
    fill(index, "v1")
    gate.run(index, "v1")
    cutover.cutover(index, "v1")
    index = believed_above(open_docs(versions={"v1": bad, "v2": good}), 0.9)
    fill(index, "v2")
    assert gate.run(index, "v2").outcome == "pass"
