"""What a person sees of an evaluation: the rows of its metrics, as a table and in a sentence, and a picture that stands inline in them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embed_pipeline.evaluate.statistics import paired_bootstrap


@dataclass(frozen=True)
class MetricRow:
    """Means of one metric (0..1), difference (candidate - baseline), its one-sided bounds; None without baseline."""

    metric: str
    candidate: float
    baseline: float | None = None
    difference: float | None = None
    lower: float | None = None
    upper: float | None = None


def metric_row(
    metric: str, baseline: Sequence[float] | None, candidate: Sequence[float], *, confidence: float, seed: int = 0
) -> MetricRow:
    """The row of `metric` from its scores per query (same queries, same order on both sides)."""
    if baseline is None:
        return MetricRow(metric, float(np.mean(candidate)))
    interval = paired_bootstrap(baseline, candidate, confidence=confidence, seed=seed)
    means = float(np.mean(candidate)), float(np.mean(baseline))
    return MetricRow(metric, *means, interval.mean, interval.lower, interval.upper)


def beyond(rows: Sequence[MetricRow], decides: str, margin: float) -> str:
    """What a pass by one metric has to say of the others: those that fall by more than its margin. Empty where none does."""
    fallen = [row for row in rows if row.metric != decides and row.difference is not None and row.difference < -margin]
    if not fallen:
        return ""
    said = ", ".join(f"{row.metric} falls by {-(row.difference or 0):.3f} ({_bounds(row)})" for row in fallen)
    return f"But {said}, beyond the margin {margin:.3f}: {decides} alone decides (gate.metric)."


def markdown_table(
    rows: Sequence[MetricRow], *, candidate_name: str, baseline_name: str | None = None, confidence: float = 0.95
) -> str:
    """One line per metric. Without `baseline_name` there is only the candidate's column."""
    if baseline_name is None:
        header = ["metric", candidate_name]
        cells = [[row.metric, _mean(row.candidate)] for row in rows]
    else:
        header = ["metric", baseline_name, candidate_name, "difference", f"one-sided {100 * confidence:g} % bounds"]
        cells = [[row.metric, _mean(row.baseline), _mean(row.candidate), _signed(row.difference), _bounds(row)] for row in rows]
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, rule, *cells]) + "\n"


def inline_image(png: bytes, alt: str) -> str:
    """Markdown that shows `png` without a file beside it; `alt` is the text for readers who see no pictures."""
    text = alt.translate(str.maketrans("[]\n", "() "))
    return f"![{text}](data:image/png;base64,{base64.b64encode(png).decode('ascii')})"


def _mean(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+z.3f}"


def _bounds(row: MetricRow) -> str:
    return "" if row.lower is None or row.upper is None else f"{_signed(row.lower)} to {_signed(row.upper)}"
