"""A route: what a query goes through. The serving pointer names one, evidence is about one, every answer says which it took."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from embed_pipeline.errors import ConfigurationError

Kind = Literal["direct", "refine", "bridge"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Route:
    """`direct`: the vectors of `version`. `refine`: the same list, its first `depth` places put in order by the version `refine`. `bridge`: the
    same vectors, asked by queries of the version `queries` that the adapter of this id has mapped into their space."""

    version: str
    refine: str | None = None
    depth: int | None = None
    queries: str | None = None
    adapter: int | None = None
    kind: Kind = field(init=False)

    def __post_init__(self) -> None:
        kind = "direct" if self.other is None else "refine" if self.queries is None else "bridge"
        object.__setattr__(self, "kind", kind)

    @property
    def other(self) -> str | None:
        """The version that makes it more than the one whose vectors are searched."""
        return self.refine or self.queries

    def __str__(self) -> str:
        if self.refine is not None:
            return f"{self.version} refined by {self.refine}"
        return self.version if self.queries is None else f"{self.version} asked by {self.queries}"


def kind_of(word: str) -> Kind:
    """The kind of route of this name; ConfigurationError names those there are."""
    for kind in KINDS:
        if kind == word:
            return kind
    raise ConfigurationError(f"There is no route {word!r}.", next_step=f"Name one of these: {', '.join(KINDS)}.")
