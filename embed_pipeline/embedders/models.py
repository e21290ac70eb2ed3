"""Limits, dimensions and prices of the providers' models: one packaged file, `models.yaml`, with its date and sources."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import yaml


@dataclass(frozen=True)
class Limits:
    """What a provider takes in one request."""

    texts: int
    tokens: int
    """Of all texts of a request together."""
    max_tokens: int | None = None
    """Of one text; None where it is not known."""
    cuts_silently: bool = False
    """Whether a longer text is cut without a word: then only a count of ours can tell."""


@dataclass(frozen=True)
class Model:
    """One embedding model of a provider, as its documentation has it."""

    provider: str
    name: str
    limits: Limits
    dimensions: int
    """What it answers when no number is asked for."""
    shorter: tuple[int, ...] | None
    """The numbers of dimensions that may be asked for; empty: any up to `dimensions`; None: one length only."""
    usd_per_million_tokens: float | None
    batch_usd_per_million_tokens: float | None
    """None: no price of its own is known for batches."""

    @property
    def shortens(self) -> bool:
        """Whether a request may name the number of dimensions."""
        return self.shorter is not None

    def answers(self, dimensions: int) -> bool:
        """Whether the model has vectors of so many dimensions."""
        if self.shorter is None:
            return dimensions == self.dimensions
        return dimensions in self.shorter if self.shorter else 1 <= dimensions <= self.dimensions


def known(provider: str, model_name: str) -> Model | None:
    """The model, when the packaged file has it."""
    return _models().get((provider, model_name))


def limits(provider: str, model_name: str) -> Limits:
    """The model's limits, or those that its provider has for any model. `provider` is a remote one."""
    model = known(provider, model_name)
    return model.limits if model is not None else _limits(_file()["providers"][provider], {})


def checked() -> str:
    """The day when the file was compared with its sources (ISO date)."""
    return str(_file()["checked"])


def all_models() -> list[Model]:
    """Every model of the file, in its order."""
    return list(_models().values())


@lru_cache(maxsize=1)
def _file() -> dict[str, Any]:
    text = files("embed_pipeline.embedders").joinpath("models.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


@lru_cache(maxsize=1)
def _models() -> dict[tuple[str, str], Model]:
    return {
        (provider, name): _model(provider, name, entry, shared)
        for provider, shared in _file()["providers"].items()
        for name, entry in shared["models"].items()
    }


def _model(provider: str, name: str, entry: dict[str, Any], shared: dict[str, Any]) -> Model:
    shorter = entry.get("shorter")
    return Model(
        provider=provider,
        name=name,
        limits=_limits(shared, entry),
        dimensions=entry["dimensions"],
        shorter=() if shorter == "any" else None if shorter is None else tuple(shorter),
        usd_per_million_tokens=entry.get("usd_per_million_tokens"),
        batch_usd_per_million_tokens=entry.get("batch_usd_per_million_tokens"),
    )


def _limits(shared: dict[str, Any], entry: dict[str, Any]) -> Limits:
    both = shared | entry
    return Limits(
        both["texts_per_request"], both["tokens_per_request"], entry.get("max_tokens"), entry.get("cuts_silently", False)
    )
