"""What `hnsw.ef_search` buys: the share of the exact answer that the ANN index finds, against the time of a search. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from embed_pipeline.evaluate import latency
from embed_pipeline.evaluate.latency import Latency
from embed_pipeline.evaluate.measured import Measured

TRIED = (10, 20, 40, 80, 160, 320, 640, 1000)


@dataclass(frozen=True)
class EfPoint:
    """With this `ef_search`: the share of the exact top k that was found, and how long searches took."""

    ef_search: int
    recall: float
    took: Latency


@dataclass(frozen=True)
class EfCurve:
    """Points in ascending order. `declared`: what the version is searched with; `least`: gate.min_ann_recall."""

    version: str
    k: int
    declared: int
    least: float
    points: tuple[EfPoint, ...]

    @property
    def measures(self) -> dict[str, Any]:
        """What is kept of it with the evidence."""
        return asdict(self) | {"smallest": self.smallest}

    @classmethod
    def of(cls, measures: Mapping[str, Any]) -> EfCurve | None:
        """Out of what is kept with evidence; None where no curve was measured."""
        kept = measures.get("ef_curve")
        if kept is None:
            return None
        points = [EfPoint(each["ef_search"], each["recall"], Latency(**each["took"])) for each in kept["points"]]
        return cls(kept["version"], kept["k"], kept["declared"], kept["least"], tuple(points))

    @property
    def smallest(self) -> int | None:
        """The smallest one tried that finds enough, as all above it do; None where the largest does not."""
        found = None
        for point in reversed(self.points):
            if point.recall < self.least:
                break
            found = point.ef_search
        return found

    @property
    def sentence(self) -> str:
        """What to declare."""
        if self.smallest is None:
            return (
                f"No ef_search up to {self.points[-1].ef_search} finds {self.least:.3f} of the exact top {self.k} in {self.version}: "
                "build its index with a larger hnsw.m or hnsw.ef_construction."
            )
        return (
            f"The smallest ef_search tried that finds {self.least:.3f} of the exact top {self.k} in {self.version} is {self.smallest}; "
            f"{self.declared} is declared."
        )

    def name(self, point: EfPoint) -> str:
        """Its value, and whether it is the one that was declared."""
        return f"{point.ef_search} (declared)" if point.ef_search == self.declared else str(point.ef_search)

    def markdown_table(self) -> str:
        """One line for each point."""
        lines = ["| ef_search | ANN recall | p50, ms | p95, ms | p99, ms |", "| ---: | ---: | ---: | ---: | ---: |"]
        for each in self.points:
            lines.append(
                f"| {self.name(each)} | {each.recall:.4f} | {each.took.p50:.2f} | {each.took.p95:.2f} | {each.took.p99:.2f} |"
            )
        return "\n".join(lines) + "\n"


def values(k: int, declared: int) -> list[int]:
    """What is tried: a search for k hits looks at k candidates at least."""
    return sorted({k, declared, *TRIED} - set(range(k)))


def point(ef_search: int, measured: Measured, k: int) -> EfPoint:
    """What was measured with one value."""
    return EfPoint(ef_search, measured.ann_recall(k), latency.of(measured))
