"""The gate's rule asked again and again after a cutover, so that a whole watch errs no more often than one gate. Values in, a finding out.

Each look asks the same held-out queries, so looks depend on each other in a way that nobody knows; Bonferroni's correction holds whatever
that is (a confidence sequence would need new queries at each look). The number of looks is fixed before the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embed_pipeline.evaluate.statistics import mean_bounds, unseen_share

# What a look asks: relevance, answers without a hit, and what the ANN index finds.
SIGNALS = 3
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Loss:
    """A mean (0..1, or of differences) that lies below its limit beyond doubt, or does not. `upper` is None where the mean itself does not."""

    name: str
    mean: float
    limit: float
    upper: float | None

    @property
    def is_proven(self) -> bool:
        return self.upper is not None and self.upper < self.limit - _ROUNDING

    def __str__(self) -> str:
        bound = "" if self.upper is None else f", upper bound {self.upper:+.3f}"
        return f"{self.name} {self.mean:+.3f}{bound} against {self.limit:+.3f}"


@dataclass(frozen=True)
class Answers:
    """What one version gave to each query that says something different: the metric, and whether there was any hit (1 or 0)."""

    scores: Sequence[float]
    hits: Sequence[float]


def corrected(confidence: float, looks: int) -> float:
    """Of each bound, so that all bounds of all looks hold together with `confidence`."""
    return 1 - (1 - confidence) / (looks * SIGNALS)


def judge_look(
    before: Answers,
    after: Answers,
    ann_recall: Sequence[float],
    *,
    margin: float,
    min_ann_recall: float,
    confidence: float,
    looks: int,
) -> list[Loss]:
    """The three signals of one of so many looks. `before`: the version that served, of the same queries in the same order.

    `ann_recall`: of each query, the share of the exact answer that the index finds.
    """
    each = corrected(confidence, looks)
    return [
        _loss("difference", _differences(before.scores, after.scores), -margin, -1.0, each),
        _loss("queries with a hit", _differences(before.hits, after.hits), -margin, -1.0, each),
        _loss("ANN recall", ann_recall, min_ann_recall, 0.0, each),
    ]


def _differences(before: Sequence[float], after: Sequence[float]) -> list[float]:
    return [new - old for old, new in zip(before, after, strict=True)]


def _loss(name: str, values: Sequence[float], limit: float, worst: float, confidence: float) -> Loss:
    mean = float(np.mean(values))
    if not mean < limit:
        return Loss(name, mean, limit, None)
    # The bound is never below this one, and most looks need no other.
    least = mean + unseen_share(len(values), confidence) * (1.0 - mean)
    if least >= limit:
        return Loss(name, mean, limit, least)
    return Loss(name, mean, limit, mean_bounds(values, worst=worst, best=1.0, confidence=confidence).upper)
