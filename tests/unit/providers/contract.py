"""The services that the contract suite is run against: each protocol on the loopback provider, or the real service.

A real service is asked only by `make live`, which sets EMBED_PIPELINE_LIVE: it costs money, though less than a cent.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.metering import Meter
from embed_pipeline.spec import AccountSpec, VersionSpec
from tests.harness.providers.keys import VARIABLES
from tests.harness.providers.loopback import Provider

LIVE = "EMBED_PIPELINE_LIVE"
DIMENSIONS = 256
# Models that shorten their vectors, and are cheap.
MODELS = {"openai": "text-embedding-3-small", "cohere": "embed-v4.0", "voyage": "voyage-3.5"}
# A model whose limit for one text is small enough to be exceeded without ceremony, where there is one.
NARROW = {"cohere": {"model_name": "embed-english-v3.0", "dimensions": 1024}}


@dataclass(frozen=True)
class Subject:
    """One service under test; `loopback` is None when it is the real one."""

    name: str
    loopback: Provider | None

    def spec(self, **fields: Any) -> VersionSpec:
        base = {"provider": self.name, "model_name": MODELS[self.name], "dimensions": DIMENSIONS}
        if self.loopback is not None:
            base["base_url"] = self.loopback.base_url(self.name)
        return VersionSpec.model_validate(base | fields)

    def open(self, meter: Meter | None = None, **fields: Any) -> VersionEmbedder:
        return VersionEmbedder.open(self.spec(**fields), account=AccountSpec(max_tries=3), meter=meter)


def why_not_live(name: str) -> str | None:
    """Why the real service cannot be asked, in words; None when it can."""
    if os.environ.get(LIVE) != "1":
        return "the real service is asked by: make live"
    if not os.environ.get(VARIABLES[name]):
        return f"no key for {name}: set {VARIABLES[name]} and run: make live"
    return None
