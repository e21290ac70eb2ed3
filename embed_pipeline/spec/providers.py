"""Providers that are asked over the network: the name that a declaration gives, and the module that declares it as PROVIDER."""

from __future__ import annotations

PROVIDERS: dict[str, str] = {
    "openai": "embed_pipeline.embedders.providers.openai",
    "cohere": "embed_pipeline.embedders.providers.cohere",
    "voyage": "embed_pipeline.embedders.providers.voyage",
}
"""To add one: its module, and a line here (CONTRIBUTING.md)."""
