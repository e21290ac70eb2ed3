"""A route: what a query goes through. The serving pointer names one, evidence is about one, every answer says which it took."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["direct", "refine"]


@dataclass(frozen=True)
class Route:
    """`direct`: the vectors of `version`. `refine`: the same list, its first `depth` places put in order by the version `refine`."""

    version: str
    refine: str | None = None
    depth: int | None = None
    kind: Kind = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", "direct" if self.refine is None else "refine")

    def __str__(self) -> str:
        return self.version if self.refine is None else f"{self.version} refined by {self.refine}"
