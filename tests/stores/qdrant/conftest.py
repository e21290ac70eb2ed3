"""The world of the tests of adoption."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from embed_pipeline.stores.qdrant import adopting as store_adopting
from tests.harness.qdrant.loopback import Loopback
from tests.stores.qdrant.world import World


@pytest.fixture
def world(
    request: pytest.FixtureRequest,
    shared_loopback: Loopback,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    """Parametrize with (vector, layout); else the unnamed vector and `collections`. Pages are small, so that there are several."""
    monkeypatch.setattr(store_adopting, "MOST_POINTS", 16)
    vector, layout = getattr(request, "param", ("", "collections"))
    made = World(shared_loopback, database_url, tmp_path, vector=vector, layout=layout)
    yield made
    made.close()
