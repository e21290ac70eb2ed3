"""How long the searches of the gate took, of both versions: information beside the verdict, and no part of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embed_pipeline.evaluate.measured import Measured

QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True)
class Latency:
    """Milliseconds of `searches` searches through the ANN index, one at a time. The query's embedding is not in them."""

    version: str
    searches: int
    p50: float
    p95: float
    p99: float


def of(measured: Measured) -> Latency:
    """Of what one version was asked."""
    return Latency(measured.version, len(measured.ann_ms), *map(float, np.quantile(measured.ann_ms, QUANTILES)))


def measures(candidate: Latency, baseline: Latency | None) -> dict[str, float]:
    """The same as numbers to keep, each by its own name."""
    found: dict[str, float] = {}
    for each, ending in ((candidate, ""), (baseline, "_baseline")):
        if each is not None:
            found |= {f"search_{name}_ms{ending}": getattr(each, name) for name in ("p50", "p95", "p99")}
    return found


def markdown_table(found: Sequence[Latency]) -> str:
    """One line for each version."""
    lines = ["| search, ms | searches | p50 | p95 | p99 |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += [f"| {each.version} | {each.searches} | {each.p50:.2f} | {each.p95:.2f} | {each.p99:.2f} |" for each in found]
    return "\n".join(lines) + "\n"
