"""The table of articles with an index over it, in every store."""

from __future__ import annotations

from tests.harness.articles import app, holdout, open_docs, reader_url, second_app  # noqa: F401  (fixtures)
from tests.harness.copies import copied  # noqa: F401  (fixture)
from tests.harness.qdrant.conftest import loopback, shared_loopback  # noqa: F401  (fixtures)
from tests.harness.stores import open_stored, qdrant_at, qdrant_store, store  # noqa: F401  (fixtures)
