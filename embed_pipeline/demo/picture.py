"""The demo's one picture: recall by the share that is embedded by the new model, in place and with both versions kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embed_pipeline.demo.trap import TrapPoint
from embed_pipeline.extras import needed_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Vermilion and orange for what is lost, blue and green for what is kept: of Okabe and Ito's palette.
_OLD_QUERIES, _NEW_QUERIES, _KEPT, _REFINED = "#D55E00", "#E69F00", "#0072B2", "#009E73"


@dataclass(frozen=True)
class Round:
    """One round of the reader over all its queries: when it ended (seconds), recall, which versions answered, and whether all of it was refined."""

    at: float
    recall: float
    versions: tuple[str, ...]
    is_refined: bool = False


def draw(trap: list[TrapPoint], rounds: list[Round], documents: int, path: Path) -> None:
    """The same documents and queries in every line. In the title, what the reader met while the real index migrated (`rounds`)."""
    with needed_for("The picture of a demo"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw_lines(axes, trap)
    lowest = min(each.recall for each in rounds)
    axes.set_title(
        f"{documents:,} documents change their model. Searched all along with embed-pipeline: recall@10 from\n"
        f"{rounds[0].recall:.2f} to {rounds[-1].recall:.2f}, at no time below {lowest:.2f}; on a copy overwritten in place, down to "
        f"{min(point.old_queries for point in trap):.2f}.",
        loc="left",
        fontsize=10,
    )
    axes.set_xlabel("documents embedded by the new model, %")
    axes.set_ylabel("recall@10")
    axes.set_xlim(-2, 102)
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _draw_lines(axes: Axes, trap: list[TrapPoint]) -> None:
    shares = [100 * point.share for point in trap]
    old, new = [point.old_queries for point in trap], [point.new_queries for point in trap]
    kept = [old[0]] * len(trap)
    # Whoever overwrites in place may switch the queries' model at the best moment: what is shaded is lost all the same.
    between = np.linspace(0, 100, 401)
    best = np.maximum(np.interp(between, shares, old), np.interp(between, shares, new))
    axes.fill_between(between, best, kept[0], where=(best <= kept[0]).tolist(), color=_OLD_QUERIES, alpha=0.12, linewidth=0)
    axes.plot(
        shares, [point.refined for point in trap], "o-", color=_REFINED, label="both kept: v1's answers in v2's order (refine)"
    )
    # At 100 % the cutover moves it to the new version in one step.
    axes.plot(
        [*shares, shares[-1]], [*kept, new[-1]], "o-", color=_KEPT, label="both kept: v1 answers until the cutover, then v2"
    )
    axes.plot(shares, new, "o--", color=_NEW_QUERIES, label="overwritten in place, queries by the new model")
    axes.plot(shares, old, "o-", color=_OLD_QUERIES, label="overwritten in place, queries by the old model")
    axes.legend(frameon=False, fontsize=9, loc="upper left")
