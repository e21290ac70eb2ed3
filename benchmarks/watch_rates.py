"""How often a whole watch after a cutover errs, by simulation: all its looks, by the rule of `evaluate/repeated.py`.

    python -m benchmarks.watch_rates [--watches 300] [--write]

A false alarm: at least one of 144 looks (a day, every ten minutes) proves a loss beyond the margin of 0.02, where there is none, or exactly that
much. The power: one does, where the version is worse by so much. Looks ask the same queries again; how they depend on each other nobody
knows, so both ends are shown: each look gives the same answers, and each has answers of its own. `--write` puts the table into docs/watch.md.
Nothing of it depends on the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulated import publish
from embed_pipeline.evaluate.repeated import Answers, judge_look

MARGIN, CONFIDENCE, LOOKS = 0.02, 0.95, 144
MIN_ANN_RECALL = 0.95

Scores = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int, float], tuple[Scores, Scores]]


def found_or_not(random: np.random.Generator, queries: int, loss: float) -> tuple[Scores, Scores]:
    """One relevant document for each query: 3 % of all queries gain it, and so many more lose it that the loss comes out."""
    before = (random.random(queries) < 0.7).astype(np.float64)
    lost = before * (random.random(queries) < (0.03 + loss) / 0.7)
    gained = (1 - before) * (random.random(queries) < 0.03 / 0.3)
    return before, before - lost + gained


def total(random: np.random.Generator, queries: int, loss: float) -> tuple[Scores, Scores]:
    """That share of all queries finds nothing any more, the rest ties."""
    return np.ones(queries), (random.random(queries) >= loss).astype(np.float64)


DRAWS: dict[str, Draw] = {"found or not": found_or_not, "a rare total loss": total}


def alarms(draw: Draw, queries: int, loss: float, watches: int, *, same: bool) -> float:
    """The share of watches with an alarm."""
    return (
        sum(_alarms(draw, queries, loss, np.random.default_rng([number, queries]), same) for number in range(watches)) / watches
    )


def _alarms(draw: Draw, queries: int, loss: float, random: np.random.Generator, same: bool) -> bool:
    return any(_is_alarm(*draw(random, queries, loss)) for _ in range(1 if same else LOOKS))


def _is_alarm(before: Scores, after: Scores) -> bool:
    change = after - before
    # The bound is at 3.7 standard errors: what is not even two below the limit needs no resampling.
    if change.mean() + 2 * change.std() / np.sqrt(len(change)) >= -MARGIN:
        return False
    hits = np.ones(len(before))
    found = judge_look(
        Answers(list(before), list(hits)),
        Answers(list(after), list(hits)),
        list(hits),
        margin=MARGIN,
        min_ann_recall=MIN_ANN_RECALL,
        confidence=CONFIDENCE,
        looks=LOOKS,
    )
    return any(each.is_proven for each in found)


def table(watches: int) -> Iterator[str]:
    yield "| differences | queries | false alarm, no loss | false alarm, loss 0.02 | the same, looks alike | loss 0.05 | loss 0.10 | loss 0.20 |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for name, draw in DRAWS.items():
        for queries in (100, 300, 1_000):
            none, margin = (alarms(draw, queries, loss, watches, same=False) for loss in (0.0, MARGIN))
            alike = [alarms(draw, queries, loss, watches, same=True) for loss in (MARGIN, 0.05, 0.1, 0.2)]
            yield f"| {name} | {queries:,} | {none:.3f} | {margin:.3f} | {' | '.join(f'{each:.3f}' for each in alike)} |"
    yield ""
    yield (
        f"{watches:,} simulated watches of {LOOKS} looks for each figure: a rate of 0.05 is known to {np.sqrt(0.05 * 0.95 / watches):.3f} (one "
        "standard error). The first two false alarms are of looks that each have answers of their own, all others of looks that are alike."
    )


if __name__ == "__main__":
    publish(__doc__, "watches", table, "watch.md", "make watch-rates")
