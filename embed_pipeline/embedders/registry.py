"""From a declared provider to an open embedder."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from embed_pipeline.embedders.batch import ONLINE, BatchService
from embed_pipeline.embedders.custom import load_custom, require_module
from embed_pipeline.embedders.metering import Meter, Unmetered
from embed_pipeline.embedders.protocol import Embedder
from embed_pipeline.embedders.provider import find_key, provider_of
from embed_pipeline.embedders.providers.onnx import OnnxEmbedder, identity_of_files
from embed_pipeline.embedders.providers.retired import RetiredEmbedder
from embed_pipeline.embedders.remote import RemoteEmbedder
from embed_pipeline.embedders.service import Service
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.extras import needed_for
from embed_pipeline.spec import PROVIDERS, AccountSpec, VersionSpec


def open_embedder(spec: VersionSpec, account: AccountSpec | None = None, meter: Meter | None = None) -> Embedder | RemoteEmbedder:
    """The embedder that `spec` declares, open and ready. Close it after use.

    `account` and `meter` are used by the providers that are asked over the network; absent: an account with its defaults, and
    no limits. Raises ConfigurationError when the declaration cannot be carried out (no such provider, file, class or output, no key).
    """
    if spec.is_remote:
        account = account or AccountSpec()
        return RemoteEmbedder(open_service(spec, account), spec, account, meter or Unmetered())
    if spec.provider == "onnx":
        return OnnxEmbedder(spec)
    if spec.is_retired:
        return RetiredEmbedder(spec)
    if ":" in spec.provider:
        return load_custom(spec)
    raise ConfigurationError(
        f"There is no provider {spec.provider!r}.",
        next_step=f"Use {', '.join((*PROVIDERS, 'onnx'))}, or package.module:Class for an embedder of your own.",
    )


def identity_of(spec: VersionSpec, account: AccountSpec | None = None) -> Mapping[str, str] | None:
    """What the embedder would say of itself, read without opening it: a search must not wait for a model that is not here.

    None where only the open one can tell. Raises ConfigurationError when it is clear that it cannot be opened (no such file or module, no key).
    """
    if spec.is_remote:
        find_key(spec, account or AccountSpec())
        return None
    if spec.provider == "onnx":
        return identity_of_files(spec)
    if spec.is_retired:
        return {}
    require_module(spec.provider)
    return None


def open_service(spec: VersionSpec, account: AccountSpec) -> Service:
    """The endpoint of a provider that is asked over the network, with its key.

    Its library is imported here and not before: each takes a second or two. Raises ConfigurationError when there is no key.
    """
    provider, key = provider_of(spec), find_key(spec, account)
    with needed_for(f"Provider {spec.provider}"):
        return provider.open(spec, account, key)


def open_batch_service(spec: VersionSpec, account: AccountSpec) -> BatchService:
    """The batch interface of the version's provider. Raises ConfigurationError when it has none for such a version."""
    batch = provider_of(spec).batch
    if batch is not None:
        module, _, name = batch.partition(":")
        opened: BatchService = getattr(import_module(module), name)(spec, account, find_key(spec, account))
        return opened
    raise ConfigurationError(f"The library of {spec.provider} has no batch interface.", next_step=ONLINE)
