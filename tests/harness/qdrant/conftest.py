"""The stores a test of Qdrant runs against: local mode in memory and in a folder, the loopback server, a real server.

A real server is taken from QDRANT_URL (and QDRANT_API_KEY); its collections are this suite's own, and removed again.
"""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from tests.harness.qdrant.loopback import Loopback

REAL_URL = "QDRANT_URL"
REAL_KEY = "QDRANT_API_KEY"
NO_SERVER = f"no real Qdrant server: set {REAL_URL} (and {REAL_KEY}) to run this on one"
KINDS = ("memory", "folder", "loopback", "real")


@dataclass
class Target:
    """One store. `name` makes names of collections and aliases that are this test's own, removed at its end."""

    kind: str
    client: QdrantClient
    url: str | None = None
    path: Path | None = None
    api_key: str | None = None
    names: list[str] = field(default_factory=list)

    def name(self, stem: str = "docs") -> str:
        self.names.append(f"test_{uuid.uuid4().hex[:12]}_{stem}")
        return self.names[-1]

    def forget(self) -> None:
        pointing = {alias.alias_name for alias in self.client.get_aliases().aliases}
        for name in self.names:
            if name in pointing:
                gone = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=name))
                self.client.update_collection_aliases([gone])
            self.client.delete_collection(name)


@pytest.fixture(scope="session")
def shared_loopback() -> Iterator[Loopback]:
    """One loopback server for the tests of a worker that break nothing."""
    with Loopback() as server:
        yield server


@pytest.fixture
def loopback(tmp_path: Path) -> Iterator[Callable[..., Loopback]]:
    """Makes loopback servers of this test's own, which it may break: `loopback(folder=True)` keeps its data over a kill."""
    servers: list[Loopback] = []

    def started(folder: bool = False, **options: Any) -> Loopback:
        place = tmp_path / f"loopback-{len(servers)}" if folder else None
        servers.append(Loopback(place, **options))
        return servers[-1].start()

    yield started
    for server in servers:
        server.stop()


@pytest.fixture
def open_target(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Target]:
    """Opens a target by its kind; `real` skips the test when there is none."""

    def opened(kind: str) -> Target:
        if kind == "memory":
            return Target(kind, QdrantClient(":memory:"))
        if kind == "folder":
            return Target(kind, QdrantClient(path=str(tmp_path / "local")), path=tmp_path / "local")
        if kind == "loopback":
            server: Loopback = request.getfixturevalue("shared_loopback")
            server.clear()
            return Target(kind, server.client(), server.url)
        if REAL_URL not in os.environ:
            pytest.skip(NO_SERVER)
        url, key = os.environ[REAL_URL], os.environ.get(REAL_KEY)
        return Target(kind, QdrantClient(url=url, api_key=key, timeout=60), url, api_key=key)

    return opened


@pytest.fixture(params=KINDS)
def qdrant(request: pytest.FixtureRequest, open_target: Callable[[str], Target]) -> Iterator[Target]:
    """Every kind of Qdrant that the client can speak to."""
    with warnings.catch_warnings():
        # Local mode says that payload indexes and search parameters do nothing there.
        warnings.simplefilter("ignore", UserWarning)
        target = open_target(request.param)
        yield target
        target.forget()
        target.client.close()
