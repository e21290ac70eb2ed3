"""The loopback provider, for the embedders."""

from __future__ import annotations

from tests.harness.providers.loopback import provider, provider_process  # noqa: F401  (fixtures)
