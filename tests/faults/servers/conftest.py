"""A PostgreSQL server of these tests' own, which they may kill, fill and restart. One for each worker, made when first needed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate.opening import open_index
from embed_pipeline.postgres import embedded, processes
from embed_pipeline.spec import IndexSpec
from tests.harness.fakes import asked_texts
from tests.harness.postgres.proxy import Proxy
from tests.harness.postgres.small_disk import Room, mounted

DOCUMENTS = 200
BATCH = 10
# Killed processes lose nothing of what the operating system holds; nothing here has to survive a crash of the machine.
SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_connections": "40", "shared_buffers": "32MB"}


class Fragile:
    """A server that tests break on purpose."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.server = embedded.ensure_running(home, settings=SETTINGS)

    def start(self) -> None:
        self.server = embedded.ensure_running(self.home, settings=SETTINGS)

    def kill(self, number: int = signal.SIGQUIT) -> None:
        """End the server: SIGQUIT is an immediate shutdown, SIGKILL leaves its backends behind. It is down when this returns."""
        postmaster = processes.read_postmaster(self.server.data_dir)
        assert postmaster is not None
        os.kill(postmaster.pid, number)
        while processes.alive(postmaster):
            pass

    def restart(self, number: int = signal.SIGQUIT) -> threading.Thread:
        """Kill it now, and bring it up beside the caller's work."""
        self.kill(number)
        thread = threading.Thread(target=self.start)
        thread.start()
        return thread


@pytest.fixture(scope="session")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fragile]:
    home = Path(tempfile.mkdtemp(prefix="embed-pipeline-fragile-"))
    yield Fragile(home)
    embedded.stop(home)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def fragile_url(fragile: Fragile) -> Iterator[str]:
    """A database of this test's own on the fragile server."""
    fragile.start()
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(fragile.server.url("postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    url = fragile.server.url(name)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("CREATE EXTENSION vector")
        conn.execute("CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text)")
        conn.execute("INSERT INTO articles SELECT n, 'title ' || n, 'body ' || n FROM generate_series(1, %s) AS n", (DOCUMENTS,))
    yield url
    fragile.start()
    with psycopg.connect(fragile.server.url("postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def proxy(fragile_url: str) -> Iterator[Proxy]:
    made = Proxy(fragile_url)
    yield made
    made.close()


class Calls:
    """What the models were asked for, by any process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def file(self, version: str) -> Path:
        return self._folder / f"calls-{version}"

    def paid(self, version: str) -> list[str]:
        return asked_texts(self.file(version))

    def twice(self, version: str) -> list[str]:
        """Texts that were paid for more than once."""
        seen = self.paid(version)
        return sorted({text for text in seen if seen.count(text) > 1})


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    return Calls(tmp_path)


Open = Callable[..., OpenIndex]


@pytest.fixture
def open_fragile(fragile_url: str, tmp_path: Path, calls: Calls) -> Iterator[Open]:
    """Opens index `docs` over the fragile server (or another way to it: `url`) with the named versions."""
    opened: list[OpenIndex] = []
    holdout = tmp_path / "holdout.jsonl"
    rows = [{"query": f"title {n}\n\nbody {n}", "doc_id": str(n)} for n in range(1, 25)]
    holdout.write_text("\n".join(json.dumps(row) for row in rows))

    def open_with(*names: str, url: str = fragile_url, dimensions: int = 16, **overrides: Any) -> OpenIndex:
        versions = {
            name: {
                "provider": "tests.harness.fakes:HashEmbedder",
                "model_name": f"model-{name}",
                "dimensions": dimensions,
                "batch_size": BATCH,
                "options": {"salt": name, "calls_file": str(calls.file(name))},
            }
            for name in names
        }
        declaration: dict[str, Any] = {
            "name": "docs",
            "database_url": url,
            "documents": {"table": "articles", "key": "id", "text": ["title", "body"]},
            "partitions": 2,
            "versions": versions,
            "holdout": {"path": str(holdout)},
            "gate": {"min_queries": 2, "margin": 0.2},
            "retire": {"soak_seconds": 0, "unread_seconds": 0},
            "backfill": {"write_batch": BATCH},
        }
        index = open_index(IndexSpec.model_validate(declaration | overrides))
        opened.append(index)
        return index

    yield open_with
    for index in opened:
        index.close()


@pytest.fixture
def room(fragile: Fragile) -> Iterator[Room]:
    """A small real file system, known to the server as the tablespace `tiny`. `room(n)` leaves n MB free on it, whatever it holds."""
    with (
        mounted(fragile.server.data_dir) as (tablespace, leave),
        psycopg.connect(fragile.server.url("postgres"), autocommit=True) as admin,
    ):
        admin.execute(sql.SQL("CREATE TABLESPACE tiny LOCATION {}").format(sql.Literal(str(tablespace))))
        yield leave
        for (name,) in admin.execute("SELECT datname FROM pg_database WHERE datname LIKE 'test_%'").fetchall():
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        admin.execute("DROP TABLESPACE tiny")
