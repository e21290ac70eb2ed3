"""The table of articles with an index over it, and the loopback provider."""

from __future__ import annotations

from tests.harness.adopted import calls, open_adopting  # noqa: F401  (fixtures)
from tests.harness.articles import app, holdout, open_docs, reader_url, second_app  # noqa: F401  (fixtures)
from tests.harness.providers.loopback import provider, provider_process  # noqa: F401  (fixtures)
from tests.harness.scenes import (  # noqa: F401  (fixtures)
    begin,
    database_url,
    judged,
    open_filled,
    open_served,
    scene,
    scene_templates,
    unjudged,
)
