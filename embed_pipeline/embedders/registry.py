"""From a declared provider to an open embedder."""

from __future__ import annotations

from collections.abc import Callable

from embed_pipeline.embedders.custom import load_custom
from embed_pipeline.embedders.onnx import OnnxEmbedder
from embed_pipeline.embedders.protocol import Embedder
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.spec import VersionSpec

# A provider of this package has its name here; its module imports the provider's libraries only when it is opened.
PROVIDERS: dict[str, Callable[[VersionSpec], Embedder]] = {"onnx": OnnxEmbedder}


def open_embedder(spec: VersionSpec) -> Embedder:
    """The embedder that `spec` declares, open and ready. Close it after use.

    Raises ConfigurationError when the declaration cannot be carried out (no such provider, file, class or output).
    """
    if spec.provider in PROVIDERS:
        return PROVIDERS[spec.provider](spec)
    if ":" in spec.provider:
        return load_custom(spec)
    raise ConfigurationError(
        f"There is no provider {spec.provider!r}.",
        next_step=f"Use {', '.join(sorted(PROVIDERS))}, or package.module:Class for an embedder of your own.",
    )
