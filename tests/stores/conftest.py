"""The table of articles with an index over it, in every store: the one for tests too."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import embed_pipeline.testing  # noqa: F401  (adds the kind `memory`)
from tests.harness.articles import app, holdout, open_docs, reader_url, second_app  # noqa: F401  (fixtures)
from tests.harness.copies import copied  # noqa: F401  (fixture)
from tests.harness.qdrant.conftest import loopback, shared_loopback  # noqa: F401  (fixtures)
from tests.harness.stores import QDRANTS, Declared, open_stored, qdrant_at, qdrant_store  # noqa: F401  (fixtures)


@pytest.fixture(params=["pgvector", "memory", *QDRANTS])
def store(request: pytest.FixtureRequest, qdrant_at: Callable[[str], Declared]) -> Declared:  # noqa: F811
    """Every store that there is."""
    return {"kind": request.param} if request.param in ("pgvector", "memory") else qdrant_at(request.param)
