"""Scores of right and wrong answers, and what a threshold tuned on the old version does to the new one."""

from __future__ import annotations

import pytest

from embed_pipeline.catalog.judged_queries import Hits, QueryRow
from embed_pipeline.evaluate.scores import Spread, markdown_table, of_baseline, of_candidate, threshold


def row(number: int, before: Hits | None, after: Hits, cluster: str | None = None) -> QueryRow:
    name = str(number)
    return QueryRow(
        name, f"query {name}", cluster or name, {"right": 1, "judged": 0}, 1.0, after, None if before is None else 1.0, before
    )


def compared(count: int = 100) -> list[QueryRow]:
    """v1 gives right answers from 0.70 to 0.90 and wrong ones 0.5; v2 is flatter: from 0.30 to 0.50, and 0.25."""
    return [
        row(
            n,
            (("right", 0.70 + 0.2 * n / (count - 1)), ("wrong", 0.5), ("judged", 0.4)),
            (("right", 0.30 + 0.2 * n / (count - 1)), ("judged", 0.25)),
        )
        for n in range(count)
    ]


def test_spreads() -> None:
    before, after = of_baseline(compared(101), "v1"), of_candidate(compared(101), "v2")
    assert before.right is not None
    assert (before.right.count, before.right.middle) == (101, pytest.approx(0.8))
    assert after.wrong == Spread(101, 0.25, 0.25, 0.25), "judged irrelevant is wrong"
    assert markdown_table([before, after]) == (
        "| score of | version | queries | 5 % | median | 95 % |\n"
        "| --- | --- | ---: | ---: | ---: | ---: |\n"
        "| the best relevant hit | v1 | 101 | 0.710 | 0.800 | 0.890 |\n"
        "| the best relevant hit | v2 | 101 | 0.310 | 0.400 | 0.490 |\n"
        "| the best wrong hit | v1 | 101 | 0.500 | 0.500 | 0.500 |\n"
        "| the best wrong hit | v2 | 101 | 0.250 | 0.250 | 0.250 |\n"
    )


def test_a_threshold_of_the_old_version_drops_the_right_answers_of_the_new_one() -> None:
    found = threshold(compared(101))
    assert found is not None
    assert found.sentence("v2", "v1") == (
        "A score threshold of 0.710, which keeps 95% of the right answers of v1, would drop 100% of those of v2; of the best wrong ones it "
        "drops 100% with v1 and 100% with v2."
    )
    same = [row(n, each.baseline_hits, each.baseline_hits or ()) for n, each in enumerate(compared(101))]
    kept = threshold(same)
    assert kept is not None
    assert 0.04 < kept.drops_right < 0.06


def test_nothing_is_said_of_few_answers_or_without_a_baseline() -> None:
    assert threshold(compared(19)) is None
    assert threshold(compared(20)) is not None
    assert threshold([row(n, None, (("right", 0.5),)) for n in range(100)]) is None
    repeated = [row(n, each.baseline_hits, each.candidate_hits, cluster=str(n % 10)) for n, each in enumerate(compared(100))]
    assert threshold(repeated) is None, "ten queries that say something different"
    assert of_candidate([row(0, None, ())], "v2").right is None
