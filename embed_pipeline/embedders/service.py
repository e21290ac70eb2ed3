"""One provider's embedding endpoint: a request goes out, a reply comes back, and nothing is tried twice here.

A service knows its protocol and its library, and how that library's exceptions are to be told apart (`failures.py`). Packing, limits,
retries and what is asked again are `remote.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from embed_pipeline.embedders.metering import Headroom
from embed_pipeline.embedders.models import Limits, known
from embed_pipeline.embedders.protocol import Role, Vectors
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.spec import VersionSpec


@dataclass(frozen=True)
class Reply:
    """What a provider answered to one request."""

    vectors: Vectors
    """float32, one row for each text, in the order of the texts."""
    tokens: int | None
    """What the provider counted and bills; None where it does not say."""
    headroom: Headroom | None = None
    spoiled: Mapping[int, str] = field(default_factory=dict)
    """Positions whose row is no vector of the declared length, and what it is. The others are good."""


class Service(Protocol):
    """One provider with one model. Thread-safe."""

    limits: Limits
    cuts: bool
    """Whether the provider itself cuts a text that is too long when it is told to."""

    def request(self, texts: Sequence[str], role: Role, *, cut: bool = False) -> Reply:
        """Ask once. Raises one of `failures`; Unusable when it cannot be told which text has which row.

        `cut`: the provider shortens what is too long, where `cuts` says that it can.
        """
        ...

    def leave_out(self, words: str) -> str | None:
        """Send no more what these words of a refusal name, where it can be left out; says so in a sentence, None where nothing can."""
        ...

    def identity(self) -> Mapping[str, str]:
        """What decides the vectors and is not in the declaration."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


def asked_dimensions(spec: VersionSpec) -> int | None:
    """The number of dimensions that a request names; None: none, and the model answers with what it has.

    Raises ConfigurationError when a known model has no vectors of the declared number. `send_dimensions` goes first.
    """
    if spec.send_dimensions is not None:
        return spec.dimensions if spec.send_dimensions else None
    model = known(spec.provider, spec.model_name)
    if model is None or spec.dimensions == model.dimensions:
        return None
    if not model.answers(spec.dimensions):
        has = f"{model.dimensions} or fewer" if model.shorter == () else ", ".join(map(str, model.shorter or (model.dimensions,)))
        raise ConfigurationError(
            f"The model {spec.model_name} of {spec.provider} has vectors of {has} dimensions, not {spec.dimensions}.",
            next_step="Correct `dimensions`, or declare send_dimensions when the server behind base_url has another model of that name.",
        )
    return spec.dimensions
