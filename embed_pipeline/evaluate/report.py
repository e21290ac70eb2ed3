"""What a person sees of an evaluation: a Markdown table, and a picture that stands inline in it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embed_pipeline.evaluate.statistics import paired_bootstrap
from embed_pipeline.extras import needed_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Grey, with blue and vermilion of Okabe and Ito's palette, which colour-blind readers tell apart.
_BASELINE, _CANDIDATE, _WORSE = "#777777", "#0072B2", "#D55E00"


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


def plot_png(
    rows: Sequence[MetricRow],
    differences: Sequence[float] | None = None,
    *,
    candidate_name: str,
    baseline_name: str | None = None,
    margin: float | None = None,
) -> bytes:
    """A PNG of the means per metric and, given the `differences` per query of the gate's metric, of their spread.

    The whisker on a candidate's bar runs from baseline + lower to baseline + upper. Without pyplot, whose global state
    is no friend of threads.
    """
    with needed_for("The picture of a verdict"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    panels = 1 if differences is None else 2
    figure = Figure(figsize=(4.2 * panels, 2.8), dpi=90)
    FigureCanvasAgg(figure)  # sets the figure's canvas
    # Margins that fit every label there is: looking for the best ones draws everything twice.
    figure.subplots_adjust(left=0.13 / panels, right=1 - 0.05 / panels, bottom=0.11, top=0.89, wspace=0.22)
    _draw_means(figure.add_subplot(1, panels, 1), rows, candidate_name, baseline_name)
    if differences is not None:
        _draw_differences(figure.add_subplot(1, panels, 2), np.asarray(differences, dtype=np.float64), margin)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": ""})
    return buffer.getvalue()


def inline_image(png: bytes, alt: str) -> str:
    """Markdown that shows `png` without a file beside it; `alt` is the text for readers who see no pictures."""
    text = alt.translate(str.maketrans("[]\n", "() "))
    return f"![{text}](data:image/png;base64,{base64.b64encode(png).decode('ascii')})"


def _draw_means(axes: Axes, rows: Sequence[MetricRow], candidate_name: str, baseline_name: str | None) -> None:
    places, paired = np.arange(len(rows)), baseline_name is not None
    width = 0.38 if paired else 0.6
    shift = width / 2 if paired else 0.0
    heights = [row.candidate for row in rows]
    bars = [axes.bar(places + shift, heights, width, color=_CANDIDATE, label=candidate_name)]
    if paired:
        before = [row.baseline or 0.0 for row in rows]
        bars.insert(0, axes.bar(places - shift, before, width, color=_BASELINE, label=baseline_name))
        for place, row in zip(places, rows, strict=True):
            if row.baseline is not None and row.lower is not None and row.upper is not None:
                ends = [row.baseline + row.lower, row.baseline + row.upper]
                axes.plot([place + shift] * 2, ends, color="black", linewidth=1.5, marker="_", markersize=6)
    for bar in bars:
        axes.bar_label(bar, fmt="%.2f", label_type="center", color="white", fontsize=8)
    axes.set_xticks(places, [row.metric for row in rows])
    axes.set_ylim(0, 1)
    axes.set_title("mean per metric", fontsize=9)
    axes.legend(fontsize=8, loc="best")
    axes.tick_params(labelsize=8)


def _draw_differences(axes: Axes, differences: np.ndarray, margin: float | None) -> None:
    """Ties are counted in the title and left out of the bars: often half of all, they would flatten the rest."""
    from matplotlib.ticker import MaxNLocator

    better, worse = differences[differences > 0], differences[differences < 0]
    for values, sign, colour in ((worse, -1, _WORSE), (better, 1, _CANDIDATE)):
        # Tenths of |difference|, closed above, so that a loss of 0.1 and a gain of 0.1 stand equally far from 0.
        tenths = np.clip(np.ceil(10 * np.abs(values) - 1e-9).astype(int), 1, 10)
        axes.bar(sign * (np.arange(10) + 0.5) / 10, np.bincount(tenths, minlength=11)[1:], width=0.1, color=colour)
    mean = float(differences.mean())
    axes.axvline(mean, color="black", linewidth=1.2, label=f"mean {_signed(mean)}")
    if margin is not None:
        axes.axvline(-margin, color="black", linewidth=1, linestyle=":", label=f"margin {-margin:.3f}")
    ties = differences.size - better.size - worse.size
    axes.set_title(f"difference per query: {better.size} better, {ties} equal, {worse.size} worse", fontsize=9)
    axes.set_ylabel("queries", fontsize=8)
    axes.set_xlim(-1, 1)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8)
    axes.tick_params(labelsize=8)


def _mean(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+z.3f}"


def _bounds(row: MetricRow) -> str:
    return "" if row.lower is None or row.upper is None else f"{_signed(row.lower)} to {_signed(row.upper)}"
