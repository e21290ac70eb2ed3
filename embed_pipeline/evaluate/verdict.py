"""The gate's rule: may this version serve, on the evidence of its scores? Values in, a verdict out, no I/O.

Non-inferiority: the null hypothesis is that the candidate is worse by `margin` or more, and only a bound that excludes
it passes. "No significant loss" is no such proof: with few queries it accepts nearly every candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from embed_pipeline.errors import HoldoutError
from embed_pipeline.evaluate.statistics import RESAMPLES, Interval, mean_bounds, paired_bootstrap, required_queries

# A bound that equals the margin does not pass, and rounding in the last binary digits must not decide that.
_ROUNDING = 1e-9
POWER = 0.8

Outcome = Literal["pass", "fail", "undecided"]


@dataclass(frozen=True)
class GateRule:
    """Pass when the loss of mean `metric` (0..1) is below `margin` at one-sided `confidence`, on >= `min_queries`.

    `floor`: the mean below which no version serves, whatever it is compared with. `min_baseline`: the mean of the version that serves below
    which the held-out set is not believed. `fail_confidence`: of the bound by which it fails, where that is another one.
    """

    metric: str
    margin: float
    confidence: float
    min_queries: int
    floor: float | None = None
    min_baseline: float = 0.0
    fail_confidence: float | None = None

    @property
    def of_loss(self) -> float:
        """The confidence of the bound that says that something was lost."""
        return self.fail_confidence or self.confidence


@dataclass(frozen=True)
class Verdict:
    """The outcome, the sentence that says why, and its numbers.

    `lower` and `upper` are one-sided bounds, each at the rule's confidence: of the difference (candidate - baseline),
    or, when there was no baseline, of the candidate's mean. `queries_needed`: for undecided, how many queries would
    probably decide; None when more queries are no remedy.
    """

    outcome: Outcome
    sentence: str
    mean_baseline: float | None
    mean_candidate: float
    difference: float | None
    lower: float
    upper: float
    queries: int
    queries_needed: int | None = None


def judge(
    baseline: Sequence[float] | None,
    candidate: Sequence[float],
    rule: GateRule,
    seed: int = 0,
    *,
    resamples: int = RESAMPLES,
    candidate_name: str = "the candidate",
    baseline_name: str = "the active version",
) -> Verdict:
    """The verdict on `candidate`: scores of the same queries in the same order as `baseline`, in 0..1.

    With a baseline: pass when the lower bound of the difference is above -margin and the candidate's mean reaches the
    floor; fail when the upper bound is below -margin or the mean is below the floor; else undecided. Without one, see
    `_judge_alone`.

    Raises HoldoutError when there are fewer queries than the rule asks for.
    """
    if len(candidate) < rule.min_queries:
        raise HoldoutError(
            f"The held-out set has {len(candidate)} {'query' if len(candidate) == 1 else 'queries'}, "
            f"and the gate on {rule.metric} asks for at least {rule.min_queries}.",
            next_step="Add judged queries, or lower gate.min_queries in defs.yaml.",
        )
    if baseline is None:
        return _judge_alone(candidate, rule, seed, resamples, candidate_name)
    return _judge_pair(baseline, candidate, rule, seed, resamples, candidate_name, baseline_name)


def _judge_pair(
    baseline: Sequence[float],
    candidate: Sequence[float],
    rule: GateRule,
    seed: int,
    resamples: int,
    name: str,
    baseline_name: str,
) -> Verdict:
    interval = two_sided(baseline, candidate, rule, resamples, seed)
    before, after = float(np.mean(baseline)), float(np.mean(candidate))
    _believe(before, after, interval, rule, name, baseline_name)
    needed: int | None = None
    outcome: Outcome
    if _below(interval.upper, -rule.margin):
        bound = f"{_at(rule.of_loss)} upper bound {_signed(interval.upper)}"
        outcome, reason = "fail", f"{bound}, a loss beyond the margin {rule.margin:.3f}."
    elif rule.floor is not None and _below(after, rule.floor):
        outcome, reason = "fail", f"{name} is below the floor {rule.floor:.3f}."
    elif _below(-rule.margin, interval.lower):
        bound = f"{_at(rule.confidence)} lower bound {_signed(interval.lower)}"
        outcome, reason = "pass", f"{bound}, margin {rule.margin:.3f}."
    else:
        outcome = "undecided"
        differences = np.asarray(candidate, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
        estimate = required_queries(differences, rule.margin, rule.confidence, POWER)
        needed = estimate if estimate > len(candidate) else None
        advice = _more_queries(estimate) if needed else _close_to_margin(estimate, name)
        reason = f"{_bounds(interval, rule)}, margin {rule.margin:.3f}. {advice}"
    sentence = (
        f"{outcome}: {rule.metric} of {name} {after:.3f} against {baseline_name} {before:.3f} "
        f"on {len(candidate)} queries: difference {_signed(interval.mean)}, {reason}"
    )
    return Verdict(outcome, sentence, before, after, interval.mean, interval.lower, interval.upper, len(candidate), needed)


def two_sided(
    baseline: Sequence[float], candidate: Sequence[float], rule: GateRule, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The bounds of the difference: the lower one, by which it passes, and the upper one, by which it fails, each at its confidence."""
    return paired_bootstrap(
        baseline, candidate, confidence=rule.confidence, upper_confidence=rule.of_loss, resamples=resamples, seed=seed
    )


def _believe(before: float, after: float, interval: Interval, rule: GateRule, name: str, baseline_name: str) -> None:
    """HoldoutError for a set on which nobody finds anything: there two versions are as bad as each other, whatever they are worth.

    A candidate that is proven better does find something: it may be what mends a broken version.
    """
    if _below(before, rule.min_baseline) and interval.lower <= 0:
        raise HoldoutError(
            f"{rule.metric} of {baseline_name}, which serves, is {before:.3f} on this held-out set, below holdout.min_baseline "
            f"{rule.min_baseline:.3f}, and {after:.3f} of {name} is not proven better: a set on which nobody finds anything proves nothing.",
            next_step="See whether its judgements are of these documents, or lower holdout.min_baseline in defs.yaml.",
        )


def _judge_alone(candidate: Sequence[float], rule: GateRule, seed: int, resamples: int, name: str) -> Verdict:
    """The first version of an index: with nothing to compare with, only the floor decides; without a floor it passes.

    A mean below the floor fails, a lower bound of the mean above it passes, in between is undecided: a new index has no
    users who would suffer from waiting, so a floor that may have been reached by luck is not taken as reached.
    """
    interval = mean_bounds(candidate, worst=0.0, best=1.0, confidence=rule.confidence, resamples=resamples, seed=seed)
    needed: int | None = None
    outcome: Outcome
    if rule.floor is None:
        outcome, reason = "pass", "no other version serves and there is no floor, so it was compared with nothing."
    elif _below(interval.mean, rule.floor):
        outcome, reason = "fail", f"below the floor {rule.floor:.3f}."
    elif _below(rule.floor, interval.lower):
        bound = f"{_at(rule.confidence)} lower bound {interval.lower:.3f}"
        outcome, reason = "pass", f"{bound}, above the floor {rule.floor:.3f}."
    else:
        outcome = "undecided"
        distance = interval.mean - rule.floor
        # With the mean on the floor itself no number of queries would help; a distance of 1 can only be a floor of 0.
        needed = required_queries(candidate, distance, rule.confidence, POWER) if _ROUNDING < distance < 1 else None
        bound = f"{_at(rule.confidence)} lower bound {interval.lower:.3f}"
        reason = f"{bound}, not above the floor {rule.floor:.3f}. {_alone_advice(interval.mean, needed)}"
    sentence = f"{outcome}: {rule.metric} of {name} {interval.mean:.3f} on {len(candidate)} queries: {reason}"
    return Verdict(outcome, sentence, None, interval.mean, None, interval.lower, interval.upper, len(candidate), needed)


def _below(value: float, limit: float) -> bool:
    return value < limit - _ROUNDING


def _alone_advice(mean: float, needed: int | None) -> str:
    if needed is None:
        return "It stands on the floor itself, where no number of queries decides."
    return f"If the true mean is {mean:.3f}, about {needed} queries would decide with a probability of {100 * POWER:g} %."


def _more_queries(estimate: int) -> str:
    return f"If the two are in truth equal, about {estimate} queries would decide with a probability of {100 * POWER:g} %."


def _close_to_margin(estimate: int, name: str) -> str:
    return f"For two equal versions {estimate} queries would do, so {name} is probably worse by close to the margin."


def _at(confidence: float) -> str:
    return f"one-sided {100 * confidence:.4g} %"


def _bounds(interval: Interval, rule: GateRule) -> str:
    lower, upper = _signed(interval.lower), _signed(interval.upper)
    if rule.of_loss == rule.confidence:
        return f"{_at(rule.confidence)} bounds {lower} and {upper}"
    return f"one-sided bounds {lower} ({100 * rule.confidence:.4g} %) and {upper} ({100 * rule.of_loss:.4g} %)"


def _signed(value: float) -> str:
    return f"{value:+z.3f}"  # z: never "-0.000"
