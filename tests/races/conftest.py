"""The table of articles with an index over it, in PostgreSQL and in Qdrant."""

from __future__ import annotations

from tests.harness.adopted import calls, open_adopting  # noqa: F401  (fixtures)
from tests.harness.articles import app, holdout, open_docs, second_app  # noqa: F401  (fixtures)
from tests.harness.copies import copied  # noqa: F401  (fixture)
from tests.harness.qdrant.conftest import loopback, shared_loopback  # noqa: F401  (fixtures)
from tests.harness.scenes import (  # noqa: F401  (fixtures)
    begin,
    database_url,
    judged,
    open_filled,
    open_served,
    scene,
    scene_templates,
)
from tests.harness.stores import open_stored, qdrant_at, store  # noqa: F401  (fixtures)
from tests.stores.qdrant.conftest import world  # noqa: F401  (fixture)
