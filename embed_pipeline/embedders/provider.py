"""What a provider's module declares of itself, and how it is found by the provider's name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from embed_pipeline.embedders.keys import Key
from embed_pipeline.embedders.service import Service
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.foreign_words import keep_secret
from embed_pipeline.spec import PROVIDERS, AccountSpec, VersionSpec


@dataclass(frozen=True)
class Provider:
    """One provider that is asked over the network. Its library is imported when a service is opened: each takes a second or two."""

    key_variables: tuple[str, ...]
    """Environment variables that hold its key, in the order in which its own library reads them."""
    open: Callable[[VersionSpec, AccountSpec, Key], Service]
    batch: str | None = None
    """Where its `BatchService` is, as package.module:Class; it is imported when a job is submitted. None: its library has no batch interface."""
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


def find_key(spec: VersionSpec, account: AccountSpec) -> Key:
    """The key of the account, from the variable that it names or from the provider's own.

    Raises ConfigurationError when there is none; a server of one's own that speaks the provider's protocol needs none, unless a variable is named.
    """
    provider = provider_of(spec)
    variables = (account.api_key_env,) if account.api_key_env else provider.key_variables
    for variable in variables:
        value = os.environ.get(variable, "").strip()
        if value:
            keep_secret(value)
            return Key(_printable(variable, value), value)
    if account.api_key_env is None and provider.others_speak_it and spec.base_url is not None:
        return Key(variables[0], "")
    raise ConfigurationError(
        f"There is no key for {spec.provider}: the environment variable {variables[0]} is not set.",
        next_step=f"Set {variables[0]}, or name another variable in accounts.{spec.account_name}.api_key_env.",
    )


def _printable(variable: str, value: str) -> str:
    if not (value.isascii() and value.isprintable()):
        # The HTTP libraries would say so themselves, and show it.
        raise ConfigurationError(
            f"The environment variable {variable} holds no key: there are characters in it that no key has.",
            next_step=f"Set {variable} to the key alone.",
        )
    return variable
