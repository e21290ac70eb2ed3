"""From a declared provider to an open embedder."""

from __future__ import annotations

from embed_pipeline.embedders.custom import load_custom
from embed_pipeline.embedders.metering import Meter, Unmetered
from embed_pipeline.embedders.onnx import OnnxEmbedder
from embed_pipeline.embedders.protocol import Embedder
from embed_pipeline.embedders.remote import RemoteEmbedder
from embed_pipeline.embedders.service import Service
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.spec import REMOTE, AccountSpec, VersionSpec


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
    if ":" in spec.provider:
        return load_custom(spec)
    raise ConfigurationError(
        f"There is no provider {spec.provider!r}.",
        next_step=f"Use {', '.join((*REMOTE, 'onnx'))}, or package.module:Class for an embedder of your own.",
    )


def open_service(spec: VersionSpec, account: AccountSpec) -> Service:
    """The endpoint of a provider that is asked over the network. Its library is imported here: each takes a second or two."""
    raise NotImplementedError
