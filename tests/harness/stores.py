"""The stores that the conformance suite runs against, each in the form in which a user declares it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient

from embed_pipeline.index.handle import OpenIndex
from tests.harness.qdrant.conftest import NO_SERVER, REAL_KEY, REAL_URL
from tests.harness.qdrant.loopback import Loopback
from tests.harness.qdrant.strict import CLOUD

Declared = dict[str, Any]

LAYOUTS = ("collections", "named_vectors")
REAL = pytest.mark.skipif(REAL_URL not in os.environ, reason=NO_SERVER)
# One of them is enough for every day, beside the races in local mode; the others are for the soak. `cloud`: as strict as a new collection
# in Qdrant Cloud is.
QDRANTS: list[Any] = [
    "loopback-named_vectors-cloud",
    pytest.param("loopback-collections-cloud", marks=pytest.mark.soak),
    pytest.param("loopback-named_vectors", marks=pytest.mark.soak),
    pytest.param("local-collections", marks=pytest.mark.soak),
    pytest.param("local-named_vectors", marks=pytest.mark.soak),
    pytest.param("loopback-collections", marks=pytest.mark.soak),
    *(pytest.param(f"real-{layout}", marks=REAL) for layout in LAYOUTS),
]


@pytest.fixture
def qdrant_at(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Declared]]:
    """The declaration of a store, from `place-layout`, or `place-layout-cloud`; what it made on a shared server is removed at the end."""
    made: list[tuple[str, str]] = []

    def declare(name: str) -> Declared:
        place, layout, *strict = name.split("-")
        collection = f"test_{uuid.uuid4().hex[:12]}"
        declared: Declared = {"kind": "qdrant", "layout": layout, "collection": collection}
        if place == "local":
            return declared | {"path": str(tmp_path / "qdrant")}
        if place == "loopback":
            server: Loopback = request.getfixturevalue("shared_loopback")
            server.clear()
            if strict:
                server.strict(**CLOUD)
            made.append((server.url, collection))
            return declared | {"url": server.url}
        made.append((os.environ[REAL_URL], collection))
        return declared | {"url": os.environ[REAL_URL], "api_key_env": REAL_KEY}

    yield declare
    for url, prefix in made:
        client = QdrantClient(url=url, api_key=os.environ.get(REAL_KEY), check_compatibility=False)
        for found in client.get_collections().collections:
            if found.name.startswith(prefix):
                with suppress(Exception):
                    client.delete_collection(found.name)
        client.close()


@pytest.fixture(params=QDRANTS)
def qdrant_store(request: pytest.FixtureRequest, qdrant_at: Callable[[str], Declared]) -> Declared:
    """Every form of Qdrant."""
    return qdrant_at(request.param)


@pytest.fixture(params=["pgvector", *QDRANTS])
def store(request: pytest.FixtureRequest, qdrant_at: Callable[[str], Declared]) -> Declared:
    """Every store that there is."""
    return {"kind": "pgvector"} if request.param == "pgvector" else qdrant_at(request.param)


@pytest.fixture
def open_stored(open_docs: Callable[..., OpenIndex], store: Declared) -> Callable[..., OpenIndex]:
    """Opens index `docs` in the store of this test."""

    def opened(*names: str, **overrides: Any) -> OpenIndex:
        return open_docs(*names, **({"store": store} | overrides))

    return opened
