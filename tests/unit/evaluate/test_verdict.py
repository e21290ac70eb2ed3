"""The verdict: each outcome with its whole sentence, the edges between them, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from embed_pipeline.errors import HoldoutError
from embed_pipeline.evaluate.verdict import GateRule, Verdict, judge

RULE = GateRule(metric="recall@10", margin=0.02, confidence=0.95, min_queries=100)


def hits(count: int, of: int = 400) -> list[float]:
    """Scores of `of` queries, the first `count` of which found their document."""
    return [1.0] * count + [0.0] * (of - count)


def decide(baseline: list[float] | None, candidate: list[float], rule: GateRule = RULE) -> Verdict:
    return judge(baseline, candidate, rule, candidate_name="v2", baseline_name="v1")


def test_pass() -> None:
    verdict = decide(hits(240), hits(290))
    assert verdict.outcome == "pass"
    assert verdict.sentence == (
        "pass: recall@10 of v2 0.725 against v1 0.600 on 400 queries: difference +0.125, "
        f"one-sided 95 % lower bound {verdict.lower:+.3f}, margin 0.020."
    )
    assert (verdict.mean_baseline, verdict.mean_candidate, verdict.queries) == (0.6, 0.725, 400)
    assert verdict.difference == pytest.approx(0.125)
    # By normal theory: 0.125 - 1.645 * sqrt(0.125 * 0.875 / 400).
    assert verdict.lower == pytest.approx(0.0978, abs=0.005)
    assert verdict.queries_needed is None


def test_fail() -> None:
    verdict = decide(hits(290), hits(240))
    assert verdict.outcome == "fail"
    assert verdict.sentence == (
        "fail: recall@10 of v2 0.600 against v1 0.725 on 400 queries: difference -0.125, "
        f"one-sided 95 % upper bound {verdict.upper:+.3f}, a loss beyond the margin 0.020."
    )


def test_an_improvement_below_the_floor_fails() -> None:
    verdict = decide(hits(200), hits(300), replace(RULE, floor=0.8))
    assert verdict.outcome == "fail"
    assert verdict.sentence.endswith("on 400 queries: difference +0.250, v2 is below the floor 0.800.")
    assert decide(hits(200), hits(320), replace(RULE, floor=0.8)).outcome == "pass", "on the floor is not below it"


def mixed(gained: int, lost: int, tied: int) -> tuple[list[float], list[float]]:
    return [0.0] * gained + [1.0] * (lost + tied), [1.0] * gained + [0.0] * lost + [1.0] * tied


def test_undecided_says_how_many_queries_would_decide() -> None:
    verdict = decide(*mixed(20, 20, 360))
    assert verdict.outcome == "undecided"
    assert verdict.queries_needed is not None
    # sd of 40 moves of 1 in 400 is sqrt(0.1): 6.1826 * 0.1 / 0.02^2, by hand 1546 (+ 4 for n - 1).
    assert verdict.queries_needed == pytest.approx(1549, abs=2)
    assert verdict.sentence == (
        "undecided: recall@10 of v2 0.950 against v1 0.950 on 400 queries: difference +0.000, "
        f"one-sided 95 % bounds {verdict.lower:+.3f} and {verdict.upper:+.3f}, margin 0.020. "
        f"If the two are in truth equal, about {verdict.queries_needed} queries "
        "would decide with a probability of 80 %."
    )


def test_undecided_on_a_large_set_does_not_ask_for_more() -> None:
    verdict = decide(*mixed(20, 60, 3920))
    assert verdict.outcome == "pass", verdict.sentence
    verdict = decide(*mixed(20, 100, 3880))
    assert verdict.outcome == "undecided"
    assert verdict.queries_needed is None
    assert "For two equal versions " in verdict.sentence
    assert verdict.sentence.endswith(" queries would do, so v2 is probably worse by close to the margin.")


def test_identical_scores_need_enough_queries_too() -> None:
    few = decide(hits(80, of=100), hits(80, of=100))
    assert (few.outcome, few.queries_needed) == ("undecided", 149)
    assert decide(hits(80, of=149), hits(80, of=149)).outcome == "pass"


def test_a_bound_on_the_margin_itself_does_not_pass() -> None:
    verdict = decide(*mixed(0, 3, 397))
    exact = replace(RULE, margin=-verdict.lower)
    assert decide(*mixed(0, 3, 397), exact).outcome == "undecided"
    assert decide(*mixed(0, 3, 397), replace(RULE, margin=-verdict.lower + 1e-6)).outcome == "pass"


def test_first_version_without_a_floor_is_compared_with_nothing() -> None:
    verdict = decide(None, hits(120))
    assert verdict.outcome == "pass"
    assert verdict.sentence == (
        "pass: recall@10 of v2 0.300 on 400 queries: no other version serves and there is no floor, so it was compared with nothing."
    )
    assert (verdict.mean_baseline, verdict.difference, verdict.queries_needed) == (None, None, None)
    assert verdict.lower < 0.3 < verdict.upper


def test_first_version_against_the_floor() -> None:
    rule = replace(RULE, floor=0.5)
    low, between, high = (decide(None, hits(count), rule) for count in (199, 210, 240))
    assert [v.outcome for v in (low, between, high)] == ["fail", "undecided", "pass"]
    assert low.sentence == "fail: recall@10 of v2 0.497 on 400 queries: below the floor 0.500."
    assert high.sentence == (
        f"pass: recall@10 of v2 0.600 on 400 queries: one-sided 95 % lower bound {high.lower:.3f}, above the floor 0.500."
    )
    assert between.queries_needed is not None
    assert between.queries_needed > 400
    assert between.sentence == (
        f"undecided: recall@10 of v2 0.525 on 400 queries: one-sided 95 % lower bound {between.lower:.3f}, "
        f"not above the floor 0.500. If the true mean is 0.525, about {between.queries_needed} queries "
        "would decide with a probability of 80 %."
    )
    on_it = decide(None, hits(200), rule)
    assert (on_it.outcome, on_it.queries_needed) == ("undecided", None)
    assert on_it.sentence.endswith("It stands on the floor itself, where no number of queries decides.")


@pytest.mark.parametrize("floor", [0.0, 1.0])
@pytest.mark.parametrize("score", [0.0, 1.0])
def test_extreme_floors_have_a_verdict(floor: float, score: float) -> None:
    verdict = decide(None, [score] * 200, replace(RULE, floor=floor))
    expected = "fail" if score < floor else "pass" if score > floor else "undecided"
    assert verdict.outcome == expected


def test_too_few_queries_are_refused() -> None:
    for baseline in (None, [1.0] * 99):
        with pytest.raises(HoldoutError) as caught:
            decide(baseline, [1.0] * 99)
        assert str(caught.value) == (
            "The held-out set has 99 queries, and the gate on recall@10 asks for at least 100. "
            "Add judged queries, or lower gate.min_queries in defs.yaml."
        )
    with pytest.raises(HoldoutError, match="has 1 query, and"):
        decide(None, [1.0])


def test_unpaired_scores_are_a_defect() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        decide(hits(1, of=101), hits(1, of=100))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.floats(0.005, 0.3))
def test_laws_of_the_verdict(gained: int, lost: int, margin: float) -> None:
    rule = replace(RULE, margin=margin)
    baseline, candidate = mixed(gained, lost, 200 - gained - lost)
    verdict = decide(baseline, candidate, rule)
    assert verdict == decide(baseline, candidate, rule)
    assert verdict.sentence.startswith(f"{verdict.outcome}: ")
    assert (verdict.outcome == "pass") == (verdict.lower > -margin + 1e-9)
    assert (verdict.outcome == "fail") == (verdict.upper < -margin - 1e-9)
    assert verdict.queries_needed is None or verdict.queries_needed > 200
    # What passes still passes at a wider margin, and never with roles exchanged as a failure of the better side.
    assume(verdict.outcome == "pass")
    assert decide(baseline, candidate, replace(rule, margin=margin + 0.05)).outcome == "pass"
    if np.mean(candidate) <= np.mean(baseline):
        assert decide(candidate, baseline, rule).outcome != "fail"
