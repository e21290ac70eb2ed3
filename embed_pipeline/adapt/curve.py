"""The cost curve of a migration: what each way to serve is worth against what it takes, and one sentence of advice. Pure."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from embed_pipeline.catalog.curve_points import Arm, Forecast, Point, Served
from embed_pipeline.extras import needed_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ARMS: dict[Arm, str] = {"keep_old": "keep old", "refine": "refine", "bridge": "bridge", "full": "full"}
# Of Okabe and Ito's palette, which colour-blind readers tell apart.
_COLOURS: dict[Arm, str] = {"keep_old": "#777777", "refine": "#0072B2", "bridge": "#D55E00", "full": "#009E73"}


@dataclass(frozen=True)
class Curve:
    """The points of one migration, oldest first; never without one. `margin`: the loss that gate.margin still counts as not worse."""

    index: str
    version: str
    baseline: str
    margin: float
    points: tuple[Point, ...]
    advice: str

    @classmethod
    def of(cls, index: str, version: str, baseline: str, margin: float, points: Sequence[Point]) -> Curve | None:
        """The points that belong together: by the held-out set and metric of the newest one. None without any."""
        if not points:
            return None
        last = points[-1]
        same = [each for each in points if (each.holdout_sha256, each.metric) == (last.holdout_sha256, last.metric)]
        return cls(index, version, baseline, margin, tuple(same), _advice(version, baseline, margin, same))

    @property
    def metric(self) -> str:
        return self.points[-1].metric

    @property
    def forecast(self) -> Forecast:
        """Of the newest point that had one."""
        return next((each.forecast for each in reversed(self.points) if each.forecast != Forecast()), Forecast())

    def rows(self) -> list[list[str]]:
        """Cells of the table, one line for each point and arm."""
        found = []
        for point in self.points:
            first = [f"{point.documents:,} of {point.of_documents:,}", _usd(point.usd), _duration(point.seconds)]
            for arm, words in ARMS.items():
                if arm in point.arms:
                    found.append([*first, words, *_cells(arm, point.arms[arm])])
                    first = ["", "", ""]
        return found

    @property
    def header(self) -> list[str]:
        bounds = f"one-sided {100 * self.points[-1].confidence:g} % bounds"
        return ["documents", "money", "time", "arm", self.metric, f"against {self.baseline}", bounds]

    def table(self) -> str:
        """The same as a Markdown table."""
        rule = ["---:"] * 3 + ["---"] + ["---:"] * 3
        return "\n".join(f"| {' | '.join(line)} |" for line in [self.header, rule, *self.rows()]) + "\n"

    def draw(self) -> bytes:
        """A PNG: the metric against documents, with money above where there is a price."""
        with needed_for("The picture of a cost curve"):
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 3.6), dpi=90)
        FigureCanvasAgg(figure)  # sets the figure's canvas
        figure.subplots_adjust(left=0.11, right=0.97, bottom=0.14, top=0.8)
        axes = figure.add_subplot(1, 1, 1)
        self._draw_arms(axes)
        self._draw_scales(axes)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": ""})
        return buffer.getvalue()

    def _draw_arms(self, axes: Axes) -> None:
        end = self.points[-1].of_documents
        old = self.points[-1].arms["keep_old"]
        axes.axhline(old.mean, color=_COLOURS["keep_old"], linewidth=1.2, label=ARMS["keep_old"])
        axes.axhspan(old.lower, old.upper, color=_COLOURS["keep_old"], alpha=0.12, linewidth=0)
        for arm in ("refine", "bridge", "full"):
            shown = [(point.documents, point.arms[arm]) for point in self.points if arm in point.arms]
            if arm == "full":
                # It takes every document, whenever it was foretold.
                shown = [(end, each) for _, each in shown[-1:]]
            if not shown:
                continue
            at = [documents for documents, _ in shown]
            means = [each.mean for _, each in shown]
            whiskers = [[each.difference - each.lower for _, each in shown], [each.upper - each.difference for _, each in shown]]
            label = f"{ARMS[arm]} (foretold)" if shown[-1][1].estimated else ARMS[arm]
            style: dict[str, Any] = {"linestyle": "none"} if arm != "refine" else {}
            axes.errorbar(
                at, means, yerr=whiskers, color=_COLOURS[arm], marker="o", markersize=4, capsize=2, label=label, **style
            )

    def _draw_scales(self, axes: Axes) -> None:
        end = max(self.points[-1].of_documents, 1)
        axes.set_xlim(0, 1.02 * end)
        axes.set_xlabel(f"documents that {self.version} has", fontsize=8)
        axes.set_ylabel(self.metric, fontsize=8)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=7, loc="best")
        axes.set_title(f"{self.index}: {self.baseline} to {self.version}, {self.points[-1].queries} queries", fontsize=9)
        total = self.forecast.usd
        if total:
            each = total / end
            money = axes.secondary_xaxis("top", functions=(partial(np.multiply, each), partial(np.multiply, 1 / each)))
            money.set_xlabel("USD", fontsize=7)
            money.tick_params(labelsize=7)


def _advice(version: str, baseline: str, margin: float, points: Sequence[Point]) -> str:
    """One sentence: what the newest word on each arm comes to."""
    newest: dict[Arm, Served] = {arm: point.arms[arm] for point in points for arm in ARMS if arm in point.arms}
    full, bridge, refine = newest.get("full"), newest.get("bridge"), newest.get("refine")
    judged = full if full is not None else refine
    if judged is None:
        return f"Nothing is known of {version} yet: run the preview."
    found = f"{judged.difference:+z.3f} [{judged.lower:+z.3f}, {judged.upper:+z.3f}]"
    foretold = "is foretold" if judged.estimated or full is None else "is measured"
    if judged.lower > 0:
        advice = f"Migrate: {version} {foretold} to be better ({found}); refine while it fills, and cut over at 100 %"
    elif judged.lower > -margin:
        advice = (
            f"Migrate only for another reason than answers: {version} {foretold} to be no worse, and not to be better ({found})"
        )
    elif judged.upper < 0:
        advice = f"Keep {baseline}: {version} {foretold} to be worse ({found})"
    else:
        advice = f"Undecided: these queries cannot tell {version} from {baseline} ({found}); judge more of them before the bill"
    if bridge is not None:
        against = f"{bridge.difference:+z.3f} [{bridge.lower:+z.3f}, {bridge.upper:+z.3f}]"
        advice += f"; the bridge {'would pass' if bridge.lower > -margin else 'is refused'}: {against}"
    return advice + "."


def _cells(arm: Arm, served: Served) -> list[str]:
    mean = f"{served.mean:.3f}{' foretold' if served.estimated else ''}"
    if arm == "keep_old":
        return [mean, "", f"{served.lower:.3f} to {served.upper:.3f}"]
    return [mean, f"{served.difference:+z.3f}", f"{served.lower:+z.3f} to {served.upper:+z.3f}"]


def _usd(value: float | None) -> str:
    return "" if value is None else f"{value:,.4f} USD"


def _duration(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
