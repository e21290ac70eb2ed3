"""The figures of shadow reads: how far two lists agree, and quantiles that can be added up."""

from __future__ import annotations

import random

import pytest

from embed_pipeline.evaluate.agreement import overlap, rank_biased_overlap
from embed_pipeline.evaluate.sketch import quantile, sketch


def test_rank_biased_overlap() -> None:
    """Its ends, its order, and the definition itself: over all prefixes, of lists that go on as far as anybody looks."""
    assert rank_biased_overlap("abc", "abc") == pytest.approx(1)
    assert rank_biased_overlap("ab", "abc") == pytest.approx(1), "what is seen of the shorter agrees"
    assert rank_biased_overlap("abc", "xyz") == rank_biased_overlap("abc", "") == 0
    assert rank_biased_overlap("abcd", "bacd") < rank_biased_overlap("abcd", "abdc") < 1, "first places count most"
    assert overlap("abcd", "dcba") == 1
    draw = random.Random(1)
    first, second = (draw.sample(range(2_000), 2_000) for _ in "ab")
    summed = 0.1 * sum(0.9 ** (d - 1) * len({*first[:d]} & {*second[:d]}) / d for d in range(1, 500))
    assert rank_biased_overlap(list(map(str, first)), list(map(str, second))) == pytest.approx(summed, abs=1e-9)
    assert rank_biased_overlap("abcdefg", "fgab") == pytest.approx(rank_biased_overlap("fgab", "abcdefg"))


def test_quantiles_of_sketches_that_are_added() -> None:
    draw = random.Random(2)
    times = [draw.lognormvariate(2, 1) for _ in range(5_000)]
    scores = [-draw.random() for _ in range(5_000)] + [0.0]
    for values in (times, scores):
        both = sketch(values[:1_000]) + sketch(values[1_000:])
        for share in (0.05, 0.5, 0.95, 0.99):
            exact = sorted(values)[int(share * len(values))]
            assert quantile(both, share) == pytest.approx(exact, rel=0.02, abs=2e-3)
    assert quantile(sketch([]), 0.5) is None
    assert quantile(sketch([float("nan"), float("inf")]), 1) > 300_000  # type: ignore[operator]
