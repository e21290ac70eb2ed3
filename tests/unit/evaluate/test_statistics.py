"""Bounds and sample sizes: laws that hold for any data, and error rates measured on simulated held-out sets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embed_pipeline.evaluate import statistics
from embed_pipeline.evaluate.statistics import Floats, mean_bounds, overlap_at_k, paired_bootstrap, required_queries, share_found

MARGIN = 0.02
# Of a rate near 0.05 over 1,000 simulated sets: 3 standard errors.
TOLERANCE = 0.02

scores = st.lists(st.floats(0, 1), min_size=2, max_size=40)
pairs = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40)


def simulated(sets: int, queries: int, difference: float, seed: int) -> Floats:
    """Shape (sets, queries): 45 % ties, the rest normal around a shift that makes the mean `difference`; sd 0.25."""
    rng = np.random.default_rng(seed)
    moved = rng.random((sets, queries)) >= 0.45
    drawn = rng.normal(difference / 0.55, 0.25 / math.sqrt(0.55), (sets, queries))
    return np.clip(np.where(moved, drawn, 0.0), -1, 1)


def acceptance(sets: Floats, margin: float = MARGIN) -> float:
    """Share of the sets whose lower bound excludes a loss of `margin`; 1,000 resamples keep the test short."""
    bounds = [mean_bounds(d, worst=-1, best=1, confidence=0.95, resamples=1000, seed=n) for n, d in enumerate(sets)]
    return float(np.mean([bound.lower > -margin + 1e-9 for bound in bounds]))


@pytest.mark.parametrize("queries", [30, 100, 200])
def test_a_loss_of_the_margin_is_accepted_no_more_often_than_promised(queries: int) -> None:
    sets = simulated(1000, queries, -MARGIN, seed=queries)
    assert acceptance(sets) <= 0.05 + TOLERANCE
    # The simulation can tell a bad rule: the point estimate accepts half of these.
    assert np.mean(sets.mean(axis=1) > -MARGIN) > 0.4


def test_an_equal_candidate_passes_with_the_power_that_was_promised() -> None:
    sets = simulated(400, 1000, 0.0, seed=1)
    assert required_queries(sets.ravel(), MARGIN, 0.95) == pytest.approx(980, rel=0.05)
    assert acceptance(sets) == pytest.approx(0.8, abs=0.06)


def test_rare_total_losses_do_not_pass_because_none_was_seen() -> None:
    """2 % of queries lose everything: one set of 100 in eight shows none, and resampling alone would accept it."""
    sets = -(np.random.default_rng(2).random((1000, 100)) < MARGIN).astype(np.float64)
    assert np.mean(sets.min(axis=1) == 0) > 0.1
    assert acceptance(sets) <= 0.05


def test_equal_scores_are_evidence_in_proportion_to_their_number() -> None:
    same = np.full(100, 0.7)
    interval = paired_bootstrap(same, same, confidence=0.95)
    unseen = 1 - 0.05 ** (1 / 100)
    assert interval.mean == 0
    assert (interval.lower, interval.upper) == pytest.approx((-unseen, unseen))
    needed = required_queries(np.zeros(100), MARGIN, 0.95)
    assert needed == 149
    enough, short = (mean_bounds(np.zeros(n), worst=-1, best=1, confidence=0.95).lower for n in (needed, needed - 1))
    assert enough > -MARGIN >= short


def test_bounds_agree_with_the_normal_theory_where_it_holds() -> None:
    differences = simulated(1, 2000, 0.01, seed=3)[0]
    interval = mean_bounds(differences, worst=-1, best=1, confidence=0.95)
    half = 1.645 * differences.std(ddof=1) / math.sqrt(2000)
    assert interval.lower == pytest.approx(differences.mean() - half, abs=0.05 * half)
    assert interval.upper == pytest.approx(differences.mean() + half, abs=0.05 * half)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_laws_of_the_bounds(paired: list[tuple[float, float]]) -> None:
    before, after = (np.array(side) for side in zip(*paired, strict=True))

    def bounds(one: Floats, other: Floats, confidence: float = 0.95) -> statistics.Interval:
        return paired_bootstrap(one, other, confidence=confidence, resamples=200, seed=5)

    interval = bounds(before, after)
    assert -1 - 1e-9 <= interval.lower <= interval.mean + 1e-9
    assert interval.mean - 1e-9 <= interval.upper <= 1 + 1e-9
    assert interval.mean == pytest.approx(float(np.mean(after - before)), abs=1e-9)
    assert bounds(before, after) == interval, "the same seed gives the same answer"
    assert bounds(before[::-1], after[::-1]) == interval, "the order of the queries does not matter"
    surer = bounds(before, after, confidence=0.99)
    assert surer.lower <= interval.lower
    assert surer.upper >= interval.upper


def test_memory_is_bounded_and_pieces_change_nothing_but_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = simulated(1, 300, 0.0, seed=4)[0]
    whole = mean_bounds(differences, worst=-1, best=1, confidence=0.95)
    sizes: list[int] = []
    real = np.random.default_rng

    class Recorder:
        def __init__(self, seed: int) -> None:
            self.random = real(seed)

        def integers(self, high: int, size: tuple[int, int]) -> np.ndarray:
            sizes.append(math.prod(size))
            return self.random.integers(high, size=size)

    monkeypatch.setattr(statistics, "_CHUNK", 7_000)
    monkeypatch.setattr(np.random, "default_rng", Recorder)
    pieces = mean_bounds(differences, worst=-1, best=1, confidence=0.95)
    assert max(sizes) <= 7_000
    assert sum(sizes) == 300 * 10_000
    assert pieces == whole


def test_required_queries_of_the_published_table() -> None:
    """sd 0.25 at 95 % and 80 %: (1.6449 + 0.8416)^2 * 0.0625 / margin^2, by hand."""
    differences = np.array([-0.25, 0.25] * 500)
    spread = differences.std(ddof=1)
    for margin in (0.01, 0.02, 0.03, 0.05):
        by_hand = 6.1826 * spread**2 / margin**2
        assert required_queries(differences, margin, 0.95) == pytest.approx(by_hand, abs=1.5)
    assert required_queries(differences, 0.02, 0.95, power=0.9) > required_queries(differences, 0.02, 0.95)
    assert required_queries(differences, 0.02, 0.99) > required_queries(differences, 0.02, 0.95)


@given(scores)
@settings(max_examples=40, deadline=None)
def test_smaller_margins_need_more_queries(values: list[float]) -> None:
    needed = [required_queries(values, margin, 0.95) for margin in (0.1, 0.05, 0.02, 0.01)]
    assert needed == sorted(needed)
    assert needed[0] >= 29  # ln 0.05 / ln 0.9 = 28.4


def test_defects_are_refused() -> None:
    with pytest.raises(ValueError, match="2 baseline scores cannot be paired with 1 candidate scores"):
        paired_bootstrap([0.1, 0.2], [0.1], confidence=0.95)
    with pytest.raises(ValueError, match="scores must be numbers from 0 to 1"):
        paired_bootstrap([0.1], [math.nan], confidence=0.95)
    with pytest.raises(ValueError, match="scores must be numbers from -1 to 1"):
        required_queries([2.0], 0.02, 0.95)
    with pytest.raises(ValueError, match="at least one score"):
        paired_bootstrap([], [], confidence=0.95)
    for confidence in (0.5, 1.0, 95.0):
        with pytest.raises(ValueError, match=r"confidence must lie between 0\.5 and 1"):
            paired_bootstrap([0.1], [0.1], confidence=confidence)
    for margin in (0.0, -0.1, 1.0):
        with pytest.raises(ValueError, match="margin must lie between 0 and 1"):
            required_queries([0.1], margin, 0.95)


def test_overlap() -> None:
    first = {"q": [("a", 3.0), ("b", 2.0), ("c", 1.0)], "silent": [], "lost": [("a", 1.0)]}
    second = {"q": [("b", 9.0), ("x", 8.0), ("a", 7.0)], "silent": [], "new": [("a", 1.0)]}
    assert overlap_at_k(first, first, 10) == 1.0
    assert overlap_at_k(first, second, 2) == pytest.approx((1 / 2 + 0 + 0) / 3)
    assert overlap_at_k(first, second, 3) == overlap_at_k(second, first, 3) == pytest.approx((2 / 3) / 3)
    assert overlap_at_k({}, {}, 10) == 0.0


def test_share_found_is_of_what_is_wanted() -> None:
    """More than is wanted may be found: what came meanwhile is nearer, and was wanted by nobody."""
    wanted = {"1": [("a", 0.9), ("b", 0.8)], "2": []}
    assert share_found(wanted, {"1": [("new", 1.0), ("a", 0.9), ("b", 0.8)]}, 3) == 1.0
    assert share_found(wanted, {"1": [("new", 1.0), ("a", 0.9), ("b", 0.8)]}, 2) == 0.5
    assert share_found(wanted, {}, 10) == share_found({}, wanted, 10) == 0.0


def test_share_found_among_equals() -> None:
    """Hundreds of documents share a title, and two searches cut them differently: neither has missed one. What is further away has."""
    wanted = {"1": [("a", 0.9), ("b", 0.5), ("c", 0.5)]}
    assert share_found(wanted, {"1": [("a", 0.9), ("x", 0.5000001), ("y", 0.4999999)]}, 3) == 1.0
    assert share_found(wanted, {"1": [("a", 0.9), ("b", 0.5), ("y", 0.499)]}, 3) == pytest.approx(2 / 3)
    assert share_found(wanted, {"1": [("x", 0.5), ("y", 0.5), ("z", 0.5)]}, 3) == pytest.approx(2 / 3)
    assert share_found(wanted, {"1": [("new", 1.0), ("b", 0.5), ("c", 0.5)]}, 3) == pytest.approx(2 / 3)
