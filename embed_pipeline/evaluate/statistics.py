"""Statistics of paired differences: bootstrap bounds, the queries that a margin needs, the overlap of two rankings.

Pure functions without I/O. Scores lie in 0..1, so differences lie in -1..1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from embed_pipeline.evaluate.metrics import Rankings, top

Floats = NDArray[np.float64]

# Random indices held at once: 8 bytes each, and as many values. 10,000 resamples of 10,000 queries would be 800 MB.
_CHUNK = 1_000_000
RESAMPLES = 10_000
# Two scores of one vector, each summed in another order in single precision, differ by less.
TIE = 1e-5


@dataclass(frozen=True)
class Interval:
    """A mean with one-sided bounds: each of `lower` and `upper` holds with the confidence asked for, on its own."""

    mean: float
    lower: float
    upper: float


def paired_bootstrap(
    baseline: Sequence[float] | Floats,
    candidate: Sequence[float] | Floats,
    *,
    confidence: float,
    upper_confidence: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """One-sided bounds of mean(candidate - baseline), by resampling queries (percentile bootstrap, Efron 1979).

    `baseline`, `candidate`: shape (queries,), scores of the same queries in the same order, in 0..1. `confidence`: of
    each bound, above 0.5 and below 1; `upper_confidence`: of the upper one, where it is another. The same data and seed give the same
    answer, whatever the order of the queries. See `mean_bounds`.
    """
    before, after = _scores(baseline), _scores(candidate)
    if before.shape != after.shape:
        raise ValueError(f"{before.size} baseline scores cannot be paired with {after.size} candidate scores")
    return mean_bounds(
        after - before,
        worst=-1.0,
        best=1.0,
        confidence=confidence,
        upper_confidence=upper_confidence,
        resamples=resamples,
        seed=seed,
    )


def mean_bounds(
    values: Sequence[float] | Floats,
    *,
    worst: float,
    best: float,
    confidence: float,
    upper_confidence: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """One-sided bounds of the mean of the population, within worst..best, that `values`, shape (queries,), come from.

    The wider of two is taken on each side. The percentile bootstrap knows only what was seen: when all differences are
    0 it would call a loss impossible. But kinds of query that make up a share p = 1 - alpha^(1/n) of the traffic are
    all absent from a sample of n with probability alpha = 1 - confidence, and each of them may score `worst` or `best`
    (the exact binomial bound at zero events, Clopper and Pearson, Biometrika 1934). So the interval is never narrower
    than what n queries can rule out: on 100 queries at 95 %, p = 0.03.
    """
    data = _scores(values, low=worst, high=best)
    above = confidence if upper_confidence is None else upper_confidence
    for each in (confidence, above):
        if not 0.5 < each < 1:
            raise ValueError(f"confidence must lie between 0.5 and 1, not at {each}")
    # Sorted: the same resamples are drawn whatever the order in which the queries came.
    means = _resampled_means(np.sort(data), resamples, seed)
    mean = float(np.sort(data).mean())
    below_mean = unseen_share(data.size, confidence) * (worst - mean)
    above_mean = unseen_share(data.size, above) * (best - mean)
    lower = min(float(np.quantile(means, 1 - confidence, method="lower")), mean + below_mean)
    upper = max(float(np.quantile(means, above, method="higher")), mean + above_mean)
    return Interval(mean, lower, upper)


def share_bounds(count: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided bounds of a share, of which `count` in a sample of `of` were seen (Wilson's interval, JASA 1927)."""
    if of == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = count / of, z * z / of
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * (share * (1 - share) / of + weight / (4 * of)) ** 0.5
    return max(middle - half, 0.0), min(middle + half, 1.0)


def unseen_share(queries: int, confidence: float) -> float:
    """The largest share of the traffic that a sample of so many queries may lack altogether, at this confidence (see `mean_bounds`)."""
    return float(1 - (1 - confidence) ** (1 / queries))


def _resampled_means(values: Floats, resamples: int, seed: int) -> Floats:
    if values[0] == values[-1]:
        return np.full(resamples, values[0])
    random = np.random.default_rng(seed)
    rows = max(1, _CHUNK // values.size)
    means = np.empty(resamples)
    for start in range(0, resamples, rows):
        stop = min(start + rows, resamples)
        means[start:stop] = values[random.integers(values.size, size=(stop - start, values.size))].mean(axis=1)
    return means


def required_queries(differences: Sequence[float] | Floats, margin: float, confidence: float, power: float = 0.8) -> int:
    """How many queries pass a candidate that is in truth equal, with probability `power`.

    `differences`: shape (queries,), measured; only their standard deviation s is used.
    n = ((z_confidence + z_power) * s / margin)^2, the normal approximation for non-inferiority of paired means
    (Julious, Statistics in Medicine 2004, 23:1921-1986), and not fewer than the n at which the share that may be unseen
    (`mean_bounds`) falls below the margin.
    """
    data = _scores(differences, low=-1.0, high=1.0)
    if not 0 < margin < 1:
        raise ValueError(f"margin must lie between 0 and 1, not at {margin}")
    normal = NormalDist()
    spread = float(data.std(ddof=1)) if data.size > 1 else 0.0
    approximate = ((normal.inv_cdf(confidence) + normal.inv_cdf(power)) * spread / margin) ** 2
    unseen = math.log(1 - confidence) / math.log1p(-margin)
    return max(math.ceil(approximate), math.floor(unseen) + 1)


def overlap_at_k(first: Rankings, second: Rankings, k: int) -> float:
    """Mean share (0..1) of the first `k` documents that two versions have in common, over queries that either answered.

    Information, not a gate: a better model should disagree. Near 0 it speaks of a wiring fault (wrong prefix,
    misaligned rows).
    """
    shares = []
    for query_id in first.keys() | second.keys():
        one, other = set(top(first.get(query_id, ()), k)), set(top(second.get(query_id, ()), k))
        if one or other:
            shares.append(len(one & other) / max(len(one), len(other)))
    return math.fsum(shares) / len(shares) if shares else 0.0


def share_found(wanted: Rankings, found: Rankings, k: int) -> float:
    """Mean share (0..1) of the first `k` documents of `wanted` that are among the first `k` of `found`, over queries that want any.

    A document as near as the last that is wanted stands for another such that is missing: among equal passages any is as right as another,
    and no two searches cut them alike. (Recall by distance, as ann-benchmarks counts it: Aumueller, Bernhardsson, Faithfull, Information
    Systems 2020, 87:101374.)
    """
    shares = []
    for query_id, ranking in wanted.items():
        one = top(ranking, k)
        if one:
            scores, of_found = dict(ranking), dict(found.get(query_id, ()))
            other = top(found.get(query_id, ()), k)
            last = min(scores[each] for each in one)
            missing = [scores[each] for each in one if each not in other]
            instead = [of_found[each] for each in other if each not in one]
            standing_in = min(sum(is_tied(score, last) for score in missing), sum(is_tied(score, last) for score in instead))
            shares.append(1 - (len(missing) - standing_in) / len(one))
    return math.fsum(shares) / len(shares) if shares else 0.0


def is_tied(score: float, other: float) -> bool:
    """Whether two scores are those of equal vectors, as far as single precision can tell."""
    return math.isclose(score, other, rel_tol=TIE, abs_tol=TIE)


def _scores(values: Sequence[float] | Floats, low: float = 0.0, high: float = 1.0) -> Floats:
    """`values` as an array; ValueError unless it is one row of numbers in low..high (up to rounding of the metric)."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"expected one row of at least one score, not the shape {array.shape}")
    if not (np.isfinite(array).all() and array.min() >= low - 1e-9 and array.max() <= high + 1e-9):
        raise ValueError(f"scores must be numbers from {low:g} to {high:g}")
    return array
