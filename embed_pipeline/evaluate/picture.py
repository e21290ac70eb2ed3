"""The picture of a verdict: the verdict as its title, an interval for each metric and slice in units of its margin, ties, and what lost most."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embed_pipeline.evaluate.report import MetricRow
from embed_pipeline.evaluate.slices import Slice
from embed_pipeline.extras import needed_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from embed_pipeline.catalog.judged_queries import QueryRow

# Blue and vermilion of Okabe and Ito's palette, which colour-blind readers tell apart, and a grey for what is not decided.
_PROVEN, _LOST, _OPEN = "#0072B2", "#D55E00", "#555555"
WIDTH, DPI = 7.6, 90
ROW, LINE, TITLE_LINE = 0.27, 0.19, 0.19
TITLE_LINES, TITLE_WIDTH, QUERY_WIDTH = 4, 104, 64
# What does not decide is named on the page; here it would only make the picture long.
SLICES = 8
# Latin, Greek and Cyrillic, which the font of the picture has, in the order in which they are written. Other queries go by their ids.
DRAWN_BELOW = 0x530


@dataclass(frozen=True)
class Picture:
    """What is drawn. `metric`: the one that decides, `rows` its and the others' intervals. `worst`: the queries that lost most."""

    sentence: str
    metric: str
    rows: Sequence[MetricRow]
    margin: float
    candidate: str
    baseline: str | None = None
    slices: Sequence[Slice] = ()
    differences: Sequence[float] = ()
    worst: Sequence[QueryRow] = ()
    floor: float | None = None

    def png(self) -> bytes:
        """Without pyplot, whose global state is no friend of threads. The same numbers give the same bytes."""
        with needed_for("The picture of a verdict"):
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure

        intervals, lines = self._intervals(), self._lines()
        outcome, _, why = self.sentence.partition(": ")
        against = f" against {self.baseline}" if self.baseline else ""
        title = [
            f"{outcome}: {self.candidate}{against}",
            *textwrap.wrap(why, TITLE_WIDTH, max_lines=TITLE_LINES, placeholder=" ..."),
        ]
        above, below = 0.32 + TITLE_LINE * len(title), 0.62 + LINE * len(lines)
        inside = ROW * len(intervals) + 0.1
        figure = Figure(figsize=(WIDTH, above + inside + below), dpi=DPI)
        FigureCanvasAgg(figure)  # sets the figure's canvas
        height = above + inside + below
        axes = figure.add_axes((0.24, below / height, 0.48, inside / height))
        _write(figure, title, 1 - 0.12 / height, TITLE_LINE / height, weight_first="bold")
        if self.baseline is None:
            self._draw_means(axes)
        else:
            self._draw_intervals(axes, intervals)
        _write(figure, lines, (below - 0.6) / height, LINE / height)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": ""})
        return buffer.getvalue()

    def _intervals(self) -> list[_Interval]:
        """From top to bottom: the metric that decides, the other metrics, the slices that decide, the other slices."""
        rows = sorted(self.rows, key=lambda each: each.metric != self.metric)
        found = [_Interval.of(each, each.metric, each.metric == self.metric, self.margin) for each in rows]
        shown = sorted(self.slices, key=lambda each: each.margin is None)[:SLICES]
        named = [(each, f"{each.name} ({each.queries})") for each in shown]
        return found + [
            _Interval.of(each, _short(name, 24), each.margin is not None, each.margin or self.margin) for each, name in named
        ]

    def _lines(self) -> list[str]:
        if self.baseline is None:
            return []
        better = sum(each > 0 for each in self.differences)
        worse = sum(each < 0 for each in self.differences)
        ties = len(self.differences) - better - worse
        found = [f"{self.metric} per query: {better:,} better, {ties:,} equal, {worse:,} worse."]
        lost = [row for row in self.worst if row.baseline is not None and row.candidate < row.baseline]
        if lost:
            found.append("Lost most:")
        for row in lost:
            named = row.query if all(ord(each) < DRAWN_BELOW for each in row.query) else f"query {row.query_id}"
            found.append(f"    {row.baseline or 0:.2f} \N{RIGHTWARDS ARROW} {row.candidate:.2f}   {_short(named, QUERY_WIDTH)}")
        return found

    def _draw_intervals(self, axes: Axes, intervals: Sequence[_Interval]) -> None:
        reach = 1.12 * max(2.0, *(abs(end) for each in intervals for end in (each.lower, each.upper)))
        axes.axvspan(-reach, -1, color=_LOST, alpha=0.13, linewidth=0)
        axes.axvline(-1, color=_LOST, linewidth=1)
        axes.axvline(0, color="black", linewidth=0.8, linestyle=":")
        for place, each in enumerate(intervals):
            axes.plot(
                [each.lower, each.upper],
                [place, place],
                color=each.colour,
                linewidth=3 if each.decides else 1.4,
                solid_capstyle="butt",
            )
            axes.plot([each.middle], [place], color=each.colour, marker="o", markersize=6 if each.decides else 4)
            axes.text(1.02, place, each.said, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
        after_metrics = len(self.rows) - 0.5
        if len(intervals) > len(self.rows):
            axes.axhline(after_metrics, color="#BBBBBB", linewidth=0.8)
        axes.set_yticks(range(len(intervals)), [each.name for each in intervals], fontsize=8, parse_math=False)
        for label, each in zip(axes.get_yticklabels(), intervals, strict=True):
            label.set_fontweight("bold" if each.decides else "normal")
        axes.set_ylim(len(intervals) - 0.5, -0.5)
        axes.set_xlim(-reach, reach)
        axes.set_xlabel(
            f"{self.candidate} less {self.baseline}, in margins; shaded: worse than allowed; bold decides",
            fontsize=8,
            parse_math=False,
        )
        axes.tick_params(labelsize=8, left=False)

    def _draw_means(self, axes: Axes) -> None:
        """A first version: compared with nothing but a floor, if there is one."""
        rows = sorted(self.rows, key=lambda each: each.metric != self.metric)
        if self.floor is not None:
            axes.axvspan(0, self.floor, color=_LOST, alpha=0.13, linewidth=0)
        for place, row in enumerate(rows):
            axes.plot([row.candidate], [place], color=_PROVEN, marker="o", markersize=6 if row.metric == self.metric else 4)
            axes.text(1.02, place, f"{row.candidate:.3f}", transform=axes.get_yaxis_transform(), va="center", fontsize=8)
        axes.set_yticks(range(len(rows)), [row.metric for row in rows], fontsize=8)
        axes.set_ylim(max(len(rows), len(self._intervals())) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        shaded = "; shaded: below the floor" if self.floor is not None else ""
        axes.set_xlabel(f"mean of {self.candidate}, compared with nothing{shaded}", fontsize=8, parse_math=False)
        axes.tick_params(labelsize=8, left=False)


@dataclass(frozen=True)
class _Interval:
    """One line of the picture, in units of its margin. `said`: the same as numbers."""

    name: str
    decides: bool
    lower: float
    middle: float
    upper: float
    said: str

    @classmethod
    def of(cls, each: MetricRow | Slice, name: str, decides: bool, margin: float) -> _Interval:
        lower, middle, upper = each.lower, each.difference, each.upper
        if lower is None or middle is None or upper is None:
            return cls(name, decides, 0.0, 0.0, 0.0, "no queries")
        said = f"{middle:+z.3f}  ({lower:+z.3f} to {upper:+z.3f})"
        return cls(name, decides, lower / margin, middle / margin, upper / margin, said)

    @property
    def colour(self) -> str:
        if self.lower > -1:
            return _PROVEN
        return _LOST if self.upper < -1 else _OPEN


def _write(figure: Figure, lines: Sequence[str], top: float, step: float, weight_first: str = "normal") -> None:
    for number, line in enumerate(lines):
        weight = weight_first if number == 0 else "normal"
        figure.text(0.015, top - number * step, line, fontsize=8.5, va="top", fontweight=weight, parse_math=False)


def _short(text: str, width: int) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= width else f"{one_line[: width - 3]}..."
