"""How often the gate's rule errs, by simulation: the whole rule, as `evaluate/verdict.py` and `evaluate/examine.py` have it.

    python -m benchmarks.gate_rates [--sets 300] [--write]

Every row simulates so many held-out sets, judges each, and counts. A false pass: the candidate is in truth worse by exactly the margin, 0.02 (of
slices 0.05, in one of them). The power: it is in truth equal. `--write` puts the table into docs/gate.md. Nothing of it depends on the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulated import publish
from embed_pipeline.evaluate import slices
from embed_pipeline.evaluate.examine import World, examine
from embed_pipeline.evaluate.holdout import Holdout
from embed_pipeline.evaluate.slices import SliceRule
from embed_pipeline.evaluate.verdict import GateRule, judge

MARGIN = 0.02
# Fewer than a gate draws: the quantile is less exact, and the rates are the same.
RESAMPLES = 2_000
RULE = GateRule("recall@10", MARGIN, 0.95, 2, min_baseline=0.1)
FLOOR = 0.7
SLICE_MARGIN = 0.05

Scores = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int, float], tuple[Scores, Scores]]
"""Baseline and candidate of so many queries, the candidate worse by so much in truth."""


def one_relevant(random: np.random.Generator, queries: int, loss: float) -> tuple[Scores, Scores]:
    """One relevant document for each query: found or not. 6.25 % of the queries change, which is a standard deviation of 0.25."""
    before = (random.random(queries) < 0.7).astype(np.float64)
    # Of what can be lost and gained, so much that the shares among all queries come out.
    lost = before * (random.random(queries) < (0.0625 + loss) / 2 / 0.7)
    gained = (1 - before) * (random.random(queries) < (0.0625 - loss) / 2 / 0.3)
    return before, before - lost + gained


def graded(random: np.random.Generator, queries: int, loss: float) -> tuple[Scores, Scores]:
    """Several relevant documents, as nDCG sees them: 45 % tie, the rest changes by normal amounts; standard deviation 0.25."""
    change = np.where(random.random(queries) < 0.45, 0.0, random.normal(-loss / 0.55, 0.25 / np.sqrt(0.55), queries))
    change = np.clip(change, -1, 1)
    # Anywhere from where the change does not leave 0..1: to cut it off there would make the loss a smaller one.
    low, high = np.maximum(0, -change), np.minimum(1, 1 - change)
    before = low + (high - low) * random.random(queries)
    return before, np.clip(before + change, 0, 1)


def rare(random: np.random.Generator, queries: int, loss: float) -> tuple[Scores, Scores]:
    """The loss is total and rare: that share of all queries finds nothing any more, the rest ties."""
    return np.ones(queries), (random.random(queries) >= loss).astype(np.float64)


def repeated(random: np.random.Generator, queries: int, loss: float) -> tuple[Scores, Scores]:
    """A log in which every query stands ten times."""
    before, after = one_relevant(random, queries // 10, loss)
    return np.repeat(before, 10), np.repeat(after, 10)


@dataclass(frozen=True)
class Row:
    case: str
    queries: int
    draw: Draw
    rule: GateRule = RULE
    clusters: int | None = None
    """How many different queries the lines of the set are; None: as many."""


def rows() -> Iterator[Row]:
    for queries in (100, 300, 1_000, 2_000):
        yield Row("one relevant document, found or not", queries, one_relevant)
    for queries in (100, 300, 1_000):
        yield Row("graded, sd 0.25", queries, graded)
    for queries in (100, 300, 1_000):
        yield Row("a rare total loss", queries, rare)
    for queries in (1_000,):
        yield Row("every query ten times, each counts once", queries, repeated, clusters=queries // 10)
        yield Row("the same if each line counted", queries, repeated)
    for queries in (300, 1_000):
        yield Row(
            "with gate.floor at the true mean",
            queries,
            one_relevant,
            GateRule("recall@10", MARGIN, 0.95, 2, floor=FLOOR - MARGIN),
        )


def outcomes(row: Row, sets: int, loss: float) -> dict[str, float]:
    """Share of each outcome over the sets."""
    found = {"pass": 0, "fail": 0, "undecided": 0}
    for number in range(sets):
        before, after = row.draw(np.random.default_rng([number, row.queries]), row.queries, loss)
        found[judge(*_as_judged(row, before, after), row.rule, resamples=RESAMPLES).outcome] += 1
    return {name: count / sets for name, count in found.items()}


def _as_judged(row: Row, before: Scores, after: Scores) -> tuple[list[float], list[float]]:
    if row.clusters is None:
        return list(before), list(after)
    queries = {f"{n:05}": f"query {n * row.clusters // row.queries}" for n in range(row.queries)}
    holdout = Holdout(queries, {each: {each: 1} for each in queries}, "")
    examined = examine(holdout, World(10 * row.queries, dict.fromkeys(queries, "")), max_missing=0, min_queries=2, cutoff=10)
    return examined.by_cluster(dict(zip(queries, before, strict=True))), examined.by_cluster(
        dict(zip(queries, after, strict=True))
    )


def alone(sets: int, queries: int, mean: float) -> dict[str, float]:
    """The floor deciding alone, for a version whose mean is in truth `mean`."""
    rule = GateRule("recall@10", MARGIN, 0.95, 2, floor=FLOOR)
    found = {"pass": 0, "fail": 0, "undecided": 0}
    for number in range(sets):
        scores = (np.random.default_rng([number, queries]).random(queries) < mean).astype(np.float64)
        found[judge(None, list(scores), rule, resamples=RESAMPLES).outcome] += 1
    return {name: count / sets for name, count in found.items()}


def sliced(sets: int, each: int, count: int, loss: float, *, corrected: bool = False) -> dict[str, float]:
    """Slices that decide, `count` of `each` queries, of which the first is worse by `loss` in truth and the others are equal.

    `corrected`: as if the bound by which a slice passes were corrected for how many there are, too.
    """
    queries = {f"{n:05}": f"query {n}" for n in range(each * count)}
    lang = {query_id: str(int(query_id) // each) for query_id in queries}
    holdout = Holdout(queries, {query_id: {query_id: 1} for query_id in queries}, "", columns={"lang": lang})
    examined = examine(holdout, World(10 * len(queries), dict.fromkeys(queries, "")), max_missing=0, min_queries=2, cutoff=10)
    rule = replace(RULE, confidence=1 - (1 - RULE.confidence) / count) if corrected else RULE
    found = {"pass": 0, "fail": 0, "undecided": 0}
    for number in range(sets):
        random = np.random.default_rng([number, each, count])
        drawn = [one_relevant(random, each, loss if part == 0 else 0.0) for part in range(count)]
        before, after = (dict(zip(queries, np.concatenate(side), strict=True)) for side in zip(*drawn, strict=True))
        wanted = {"lang": SliceRule(SLICE_MARGIN)}
        looked = slices.look(examined, before, after, rule, wanted, candidate_name="v2", baseline_name="v1", resamples=RESAMPLES)
        found[slices.joined("pass", "", looked, declared=True)[0]] += 1
    return {name: number / sets for name, number in found.items()}


def slice_table(sets: int) -> Iterator[str]:
    yield "| slices | queries in each | one worse by 0.05: pass | equal: pass | equal: undecided | equal: fail |"
    yield "|---|---:|---:|---:|---:|---:|"
    for count, each, corrected in ((1, 300, False), (5, 300, False), (5, 300, True), (10, 300, True)):
        worse, equal = (sliced(sets, each, count, loss, corrected=corrected) for loss in (SLICE_MARGIN, 0.0))
        name = f"{count}, if a pass were corrected too" if corrected else f"{count}"
        yield f"| {name} | {each:,} | {worse['pass']:.3f} | {equal['pass']:.2f} | {equal['undecided']:.2f} | {equal['fail']:.3f} |"


def table(sets: int) -> Iterator[str]:
    yield "| set | queries | false pass at the margin | equal: pass | equal: undecided | equal: fail |"
    yield "|---|---:|---:|---:|---:|---:|"
    for row in rows():
        worse, equal = outcomes(row, sets, MARGIN), outcomes(row, sets, 0.0)
        yield (
            f"| {row.case} | {row.queries:,} | {worse['pass']:.3f} | {equal['pass']:.2f} | {equal['undecided']:.2f} | {equal['fail']:.3f} |"
        )
    yield ""
    yield "| the floor alone, 0.70 | queries | false pass at the floor | true mean 0.75: pass | true mean 0.80: pass |"
    yield "|---|---:|---:|---:|---:|"
    for queries in (100, 300, 1_000):
        at, above, far = (alone(sets, queries, mean) for mean in (FLOOR, 0.75, 0.8))
        yield f"| one relevant document | {queries:,} | {at['pass']:.3f} | {above['pass']:.2f} | {far['pass']:.2f} |"
    yield ""
    yield from slice_table(sets)
    error = np.sqrt(0.05 * 0.95 / sets)
    yield ""
    yield f"{sets:,} simulated sets for each figure: a rate of 0.05 is known to {error:.3f} (one standard error)."


if __name__ == "__main__":
    publish(__doc__, "sets", table, "gate.md", "make gate-rates")
