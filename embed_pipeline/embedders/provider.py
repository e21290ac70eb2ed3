"""What a provider's module declares of itself, and how it is found by the provider's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from embed_pipeline.errors import ConfigurationError
from embed_pipeline.spec import PROVIDERS, AccountSpec, VersionSpec

if TYPE_CHECKING:
    from embed_pipeline.embedders.batch import BatchService
    from embed_pipeline.embedders.keys import Key
    from embed_pipeline.embedders.service import Service


@dataclass(frozen=True)
class Provider:
    """One provider that is asked over the network. Its library is imported when a service is opened: each takes a second or two."""

    key_variables: tuple[str, ...]
    """Environment variables that hold its key, in the order in which its own library reads them."""
    open: Callable[[VersionSpec, AccountSpec, Key], Service]
    open_batch: Callable[[VersionSpec, AccountSpec, Key], BatchService] | None = None
    """None: its library has no batch interface."""
    others_speak_it: bool = False
    """Whether servers of other makers speak its protocol (`base_url`). Those may ask for no key."""


def provider_of(spec: VersionSpec) -> Provider:
    """The provider that `spec` names. Raises ConfigurationError where none has this name, or its module declares none."""
    module = PROVIDERS.get(spec.provider)
    if module is None:
        raise ConfigurationError(
            f"There is no provider {spec.provider!r}.",
            next_step=f"Use {', '.join((*PROVIDERS, 'onnx'))}, or package.module:Class for an embedder of your own.",
        )
    found = getattr(import_module(module), "PROVIDER", None)
    if not isinstance(found, Provider):
        raise ConfigurationError(
            f"The module {module} of the provider {spec.provider!r} declares no PROVIDER.",
            next_step=f"Declare it there: PROVIDER = Provider(...), or take {spec.provider!r} out of PROVIDERS.",
        )
    return found
