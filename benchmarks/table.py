"""How benchmarks print: the machine in one line, medians with their range, tables whose columns line up."""

from __future__ import annotations

import os
from collections.abc import Sequence
from statistics import median


def heading(what: str) -> None:
    """The machine as it is now: a figure from a busy one says little."""
    print(f"\n## {what}\n\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n", flush=True)


def number(value: float) -> str:
    """Three figures, or all of those before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """The median, and the range where there is more than one."""
    if not values:
        return "-"
    middle = number(median(values))
    return middle if len(values) == 1 else f"{middle} ({number(min(values))} to {number(max(values))})"


def ratios(these: Sequence[float], those: Sequence[float]) -> list[float]:
    """Round by round, so that what a machine does meanwhile is in both."""
    return [this / that for this, that in zip(these, those, strict=True)]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def write(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table in Markdown that also reads well in a terminal."""
    widths = [max(len(row[n]) for row in (columns, *rows)) for n in range(len(columns))]
    for row in (columns, ["-" * width for width in widths], *rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
    print(flush=True)
