"""The demo's one picture: recall over time, the naive way and ours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from embed_pipeline.demo.trap import TrapPoint
from embed_pipeline.extras import needed_for


@dataclass(frozen=True)
class Round:
    """One round of the reader over all its queries: when it ended (seconds), recall, which versions answered, and whether all of it was refined."""

    at: float
    recall: float
    versions: tuple[str, ...]
    is_refined: bool = False


def draw(trap: list[TrapPoint], rounds: list[Round], marks: list[tuple[float, str]], documents: int, path: Path) -> None:
    """The same documents and queries in both panels. Left: by the share done, the in-place overwrite, and the old lists put in order by what is
    done. Right: what the reader measured during our migration, with its steps."""
    with needed_for("The picture of a demo"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.6))
    shares = [100 * point.share for point in trap]
    left.plot(
        shares,
        [point.old_queries for point in trap],
        "o-",
        color="#b3392f",
        label="overwritten in place, queries by the old model",
    )
    left.plot(
        shares,
        [point.new_queries for point in trap],
        "o--",
        color="#d98b5f",
        label="overwritten in place, queries by the new model",
    )
    left.plot(shares, [point.refined for point in trap], "o-", color="#2f6fb3", label="both kept, the old lists refined")
    left.set_title(f"By share, on a copy of the same {documents:,} documents")
    left.set_xlabel("documents embedded by the new model, %")
    left.set_ylabel("recall@10")
    left.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0.0, 1.0))
    right.step([each.at for each in rounds], [each.recall for each in rounds], where="post", color="#2f6fb3")
    for at, name in marks:
        right.axvline(at, color="#999999", linewidth=0.7, linestyle=":")
        right.text(at, 0.02, f" {name}", rotation=90, fontsize=7, va="bottom", color="#555555")
    right.set_title("With embed-pipeline, searched all along")
    right.set_xlabel("seconds")
    left.set_ylim(0, 1.1)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
