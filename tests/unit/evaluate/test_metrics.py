"""Metrics against a hand calculation of a few lines, on random rankings with ties and missing results."""

from __future__ import annotations

import math
import random

import pytest

from embed_pipeline.errors import ConfigurationError
from embed_pipeline.evaluate.metrics import Judgements, Rankings, parse_metric, per_query, top, unjudged_at_k


def by_hand(family: str, k: int, judged: dict[str, int], hits: list[tuple[str, float]]) -> float:
    """The textbook definitions, written once more without a library."""
    grades = [judged.get(doc, 0) for doc, _ in sorted(hits, key=lambda hit: (-hit[1], hit[0]))][:k]
    if family == "recall":
        return sum(grade > 0 for grade in grades) / sum(grade > 0 for grade in judged.values())
    if family == "RR":
        return next((1 / rank for rank, grade in enumerate(grades, 1) if grade), 0.0)
    ideal = sorted(judged.values(), reverse=True)[:k]
    gain, best = (sum(g / math.log2(rank + 1) for rank, g in enumerate(row, 1)) for row in (grades, ideal))
    return gain / best


def random_case(seed: int) -> tuple[dict[str, dict[str, int]], dict[str, list[tuple[str, float]]]]:
    """30 queries over 40 documents; scores from five values so that most are tied; every sixth query has no results."""
    rng = random.Random(seed)
    documents = [f"d{n}" for n in range(40)]
    judgements: dict[str, dict[str, int]] = {}
    rankings: dict[str, list[tuple[str, float]]] = {}
    for number in range(30):
        query = f"q{number}"
        judgements[query] = {doc: rng.choice([0, 1, 1, 2, 3]) for doc in rng.sample(documents, rng.randint(1, 25))}
        judgements[query][rng.choice(documents)] = 1
        if number % 6 == 0:
            if number % 12 == 0:
                rankings[query] = []
            continue
        found = rng.sample(documents, rng.randint(1, 20))
        rankings[query] = [(doc, rng.choice([-0.5, 0.0, 0.25, 0.7, 1.0])) for doc in found]
    return judgements, rankings


@pytest.mark.parametrize("metric", ["recall@1", "recall@10", "nDCG@3", "nDCG@10", "RR@5", "MRR@10", "recall@1000"])
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_the_definition(metric: str, seed: int) -> None:
    judgements, rankings = random_case(seed)
    family, k = parse_metric(metric).family, parse_metric(metric).cutoff
    expected = {query: by_hand(family, k, judgements[query], rankings.get(query, [])) for query in judgements}
    assert per_query(metric, judgements, rankings) == pytest.approx(expected, abs=1e-12)


def test_ties_do_not_depend_on_the_order_of_the_answer() -> None:
    judgements, rankings = random_case(9)
    for metric in ("recall@3", "nDCG@3", "RR@3"):
        backwards = {query: hits[::-1] for query, hits in rankings.items()}
        assert per_query(metric, judgements, rankings) == per_query(metric, judgements, backwards)
    tied = {"q": [("b", 0.5), ("a", 0.5)]}
    assert per_query("RR@10", {"q": {"a": 1}}, tied) == {"q": 1.0}
    assert per_query("RR@10", {"q": {"b": 1}}, tied) == {"q": 0.5}


def test_scores_that_single_precision_cannot_tell_apart_still_rank() -> None:
    close = {"q": [("a", 0.8), ("b", 0.8 + 1e-12)]}
    assert per_query("RR@1", {"q": {"b": 1}}, close) == {"q": 1.0}


def test_queries_without_results_score_zero_and_order_is_by_query_id() -> None:
    judgements: Judgements = {"b": {"x": 1}, "a": {"x": 1}, "c": {"x": 1}}
    rankings: Rankings = {"b": [("x", 0.1)], "c": [], "unjudged": [("x", 0.1)]}
    for metric in ("recall@10", "nDCG@10", "RR@10"):
        assert list(per_query(metric, judgements, rankings).items()) == [("a", 0.0), ("b", 1.0), ("c", 0.0)]


def test_grade_0_is_irrelevant_and_any_grade_above_counts_once_in_recall() -> None:
    rankings = {"q": [("zero", 3.0), ("three", 2.0)]}
    assert per_query("recall@10", {"q": {"zero": 0, "three": 3, "one": 1}}, rankings) == {"q": 0.5}


def test_more_relevant_documents_than_places_keep_recall_below_one() -> None:
    judged = {f"d{n}": 1 for n in range(20)}
    assert per_query("recall@10", {"q": judged}, {"q": [(doc, 1.0) for doc in judged]}) == {"q": 0.5}


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("recall@10", "recall@10"),
        ("R@10", "recall@10"),
        ("ndcg@5", "nDCG@5"),
        ("MRR@10", "RR@10"),
        ("rr@1000", "RR@1000"),
    ],
)
def test_metric_names(name: str, canonical: str) -> None:
    assert str(parse_metric(name)) == canonical


@pytest.mark.parametrize("name", ["", "recall", "recall@", "recall@0", "recall@1001", "P@10", "recall@10 ", "MAP", "recall@-1"])
def test_unknown_metrics_are_refused_with_the_allowed_ones(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        per_query(name, {}, {})
    assert str(caught.value) == (
        f"There is no metric {name!r}. Use one of recall@k, nDCG@k, RR@k (also written MRR@k), with k from 1 to 1000."
    )


def test_rankings_that_are_none_are_defects() -> None:
    with pytest.raises(ValueError, match="names a document twice; collapse chunks into documents first"):
        per_query("recall@10", {"q": {"a": 1}}, {"q": [("a", 0.9), ("a", 0.8)]})
    with pytest.raises(ValueError, match="score that is not a number"):
        top([("a", math.nan)], 10)


def test_unjudged_share() -> None:
    judgements = {"q": {"a": 1, "b": 0}, "r": {"a": 1}}
    rankings = {"q": [("a", 3.0), ("b", 2.0), ("c", 1.0)], "r": [("d", 1.0)], "other": [("z", 1.0)]}
    assert unjudged_at_k(judgements, rankings, 10) == 2 / 4
    assert unjudged_at_k(judgements, rankings, 1) == 1 / 2
    assert unjudged_at_k(judgements, {}, 10) == 0.0
