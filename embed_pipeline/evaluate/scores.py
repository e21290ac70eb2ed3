"""The scores that right and wrong answers have under each version, and what a threshold tuned on one does to the other. Pure.

A score means something in one space only. An application that shows no hit below a threshold has tuned it on the old version, whether it knows
or not, and after a cutover it may show nothing, or anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embed_pipeline.catalog.judged_queries import Hits, QueryRow

QUANTILES = (0.05, 0.5, 0.95)
# The threshold that is looked at: it keeps so many of the old version's right answers.
KEEPS = 0.95
# Of fewer answers a quantile this far out says little.
LEAST = 20


@dataclass(frozen=True)
class Spread:
    """Quantiles of scores: of `count` answers, at QUANTILES."""

    count: int
    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Scores:
    """What one version gives the best relevant hit of each query, and the best wrong one. None where no answer has one."""

    version: str
    right: Spread | None
    wrong: Spread | None


@dataclass(frozen=True)
class Threshold:
    """A threshold that keeps KEEPS of the baseline's right answers: the share of the candidate's right ones, and of the queries' best wrong
    ones under either version, that it drops."""

    score: float
    drops_right: float
    drops_wrong: float
    drops_wrong_before: float

    def sentence(self, candidate: str, baseline: str) -> str:
        """What an application that has such a threshold has to know."""
        return (
            f"A score threshold of {self.score:.3f}, which keeps {KEEPS:.0%} of the right answers of {baseline}, would drop "
            f"{self.drops_right:.0%} of those of {candidate}; of the best wrong ones it drops {self.drops_wrong_before:.0%} with {baseline} and "
            f"{self.drops_wrong:.0%} with {candidate}."
        )


def of_candidate(rows: Sequence[QueryRow], version: str) -> Scores:
    """The scores of the version that was judged."""
    right, wrong = _split(rows, [row.candidate_hits for row in rows])
    return Scores(version, _spread(right), _spread(wrong))


def of_baseline(rows: Sequence[QueryRow], version: str) -> Scores:
    """The scores of the version that serves."""
    right, wrong = _split(rows, [row.baseline_hits or () for row in rows])
    return Scores(version, _spread(right), _spread(wrong))


def threshold(rows: Sequence[QueryRow]) -> Threshold | None:
    """What a threshold tuned on the baseline would do. None without a baseline, or with too few right answers on either side."""
    right_before, wrong_before = _split(rows, [row.baseline_hits or () for row in rows])
    right, wrong = _split(rows, [row.candidate_hits for row in rows])
    if min(len(right_before), len(right)) < LEAST:
        return None
    score = float(np.quantile(right_before, 1 - KEEPS, method="lower"))
    return Threshold(score, _below(right, score), _below(wrong, score), _below(wrong_before, score))


def markdown_table(found: Sequence[Scores]) -> str:
    """One line for each version and kind of answer."""
    lines = ["| score of | version | queries | 5 % | median | 95 % |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    for kind, which in (("the best relevant hit", "right"), ("the best wrong hit", "wrong")):
        for each in found:
            spread: Spread | None = getattr(each, which)
            if spread is not None:
                lines.append(
                    f"| {kind} | {each.version} | {spread.count} | {spread.low:.3f} | {spread.middle:.3f} | {spread.high:.3f} |"
                )
    return "\n".join(lines) + "\n"


def _split(rows: Sequence[QueryRow], answers: Sequence[Hits]) -> tuple[list[float], list[float]]:
    """The score of the best relevant hit and that of the best other one, of the answers that have such; one query of each cluster."""
    right, wrong, seen = list[float](), list[float](), set[str]()
    for row, hits in zip(rows, answers, strict=True):
        if row.cluster in seen:
            continue
        seen.add(row.cluster)
        best = {relevant: [score for doc_id, score in hits if row.is_relevant(doc_id) is relevant] for relevant in (True, False)}
        right += best[True][:1]
        wrong += best[False][:1]
    return right, wrong


def _spread(scores: Sequence[float]) -> Spread | None:
    return Spread(len(scores), *map(float, np.quantile(scores, QUANTILES))) if scores else None


def _below(scores: Sequence[float], limit: float) -> float:
    return float(np.mean(np.asarray(scores) < limit)) if scores else 0.0
