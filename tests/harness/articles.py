"""An application's table of articles, and an index over it with models that need no download."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import conninfo, sql

from embed_pipeline import signals
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import ann_index, backfill, cutover, dual_write, gate, verify
from embed_pipeline.migrate.opening import open_index
from embed_pipeline.spec import IndexSpec
from tests.harness.postgres.other import ACCEPTED

DOCUMENTS = 60
QUERIES = 30


def declared(url: str, holdout: Path, *names: str, **overrides: Any) -> IndexSpec:
    """The declaration of index `docs` with these versions; each name is a space of its own."""
    versions = {
        name: {
            "provider": "tests.harness.fakes:HashEmbedder",
            "model_name": f"model-{name}",
            "dimensions": 16,
            "options": {"salt": name},
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
    }
    return IndexSpec.model_validate(ACCEPTED | declaration | overrides)


def counted(calls: Path, **more: Any) -> dict[str, Any]:
    """A version whose model writes every text that it is asked for into `calls` (tests/harness/fakes.py: asked_texts)."""
    return {
        "provider": "tests.harness.fakes:HashEmbedder",
        "model_name": "m",
        "dimensions": 16,
        "options": {"calls_file": str(calls)},
    } | more


@pytest.fixture
def holdout(tmp_path: Path) -> Path:
    """Known-item queries: the query is the document's own text, so exact search always finds it."""
    return write_holdout(tmp_path / "holdout.jsonl")


def write_holdout(path: Path) -> Path:
    """The queries of `holdout` in this file."""
    rows = [{"query_id": str(n), "query": f"title {n}\n\nbody {n}", "doc_id": str(n), "grade": 1} for n in range(1, QUERIES + 1)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.fixture
def app(database_url: str) -> Iterator[psycopg.Connection]:
    """The application's own connection, with its table of articles."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        if conn.execute("SELECT to_regclass('articles')").fetchone() == (None,):
            make_articles(conn)
        yield conn


def make_articles(conn: psycopg.Connection) -> None:
    """The table, and what is in it."""
    conn.execute("CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text, views integer NOT NULL DEFAULT 0)")
    conn.execute(
        "INSERT INTO articles (id, title, body) SELECT n, 'title ' || n, 'body ' || n FROM generate_series(1, %s) AS n",
        (DOCUMENTS,),
    )


@pytest.fixture
def second_app(database_url: str, app: psycopg.Connection) -> Iterator[psycopg.Connection]:
    """Another connection of the application, not in autocommit."""
    with psycopg.connect(database_url) as conn:
        yield conn
        conn.rollback()


@pytest.fixture
def reader_url(database_url: str, app: psycopg.Connection) -> Iterator[Callable[[], str]]:
    """Makes a role that may search and nothing else, once the schema is there, and gives the URL to connect as it."""
    name = f"reader_{app.info.dbname}"
    role = sql.Identifier(name)

    def make() -> str:
        app.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'reader'").format(role))
        app.execute(sql.SQL("GRANT USAGE ON SCHEMA embed_pipeline TO {}").format(role))
        app.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA embed_pipeline TO {}").format(role))
        return conninfo.make_conninfo(database_url, user=name, password="reader")

    yield make
    if app.execute("SELECT FROM pg_roles WHERE rolname = %s", (name,)).fetchone() is not None:
        app.execute(sql.SQL("DROP OWNED BY {}").format(role))
        app.execute(sql.SQL("DROP ROLE {}").format(role))


@pytest.fixture
def open_docs(database_url: str, app: psycopg.Connection, holdout: Path) -> Iterator[Callable[..., OpenIndex]]:
    """Opens index `docs` with the named versions; closes what it opened."""
    opened: list[OpenIndex] = []

    def open_with(*names: str, **overrides: Any) -> OpenIndex:
        index = open_index(declared(database_url, holdout, *names, **overrides))
        opened.append(index)
        return index

    yield open_with
    for index in opened:
        index.close()


def change(app: psycopg.Connection, doc_id: int, text: str) -> None:
    """Give the document another body."""
    app.execute("UPDATE articles SET body = %s WHERE id = %s", (text, doc_id))


def at(moment: str, action: Callable[[], object]) -> None:
    """Run `action` the first time that `moment` is reached."""
    done = threading.Event()

    def once() -> None:
        if not done.is_set():
            done.set()
            action()

    signals.listen(moment, once)


def fill(index: OpenIndex, name: str) -> None:
    """Backfill every partition and build the ANN index."""
    for key in index.spec.partition_keys():
        backfill.fill_partition(index, name, key)
    ann_index.build(index, name)


def serve(index: OpenIndex, name: str) -> None:
    """Take a version through to serving."""
    fill(index, name)
    gate.run(index, name)
    cutover.cutover(index, name)


def leave_behind(app: psycopg.Connection, version: str) -> None:
    """Say what a searcher on a machine without the model of `version` says."""
    app.execute(
        "SELECT embed_pipeline.note_searcher('docs', gen_random_uuid(), 'web-7:4242', ARRAY[]::text[], "
        "jsonb_build_object(fingerprint, 'The file /srv/m.onnx does not exist.')) FROM embed_pipeline.index_versions WHERE version = %s",
        (version,),
    )


def settle(index: OpenIndex) -> None:
    """Dual-write until the queue is empty, and require that every vector agrees with its document."""
    for result in dual_write.sync(index):
        assert result.error == ""
        assert result.pending == 0
    require_consistent(index)


def require_consistent(index: OpenIndex) -> None:
    for name, coverage in verify.verify(index).items():
        assert (coverage.differences, coverage.pending) == (0, 0), (name, coverage)


def stored(app: psycopg.Connection, version: str) -> dict[str, str]:
    """doc_id -> source_hash of every stored document of a version, read straight from its tables."""
    rows = app.execute(
        "SELECT doc_id, source_hash FROM embed_pipeline.provenance WHERE index = 'docs' AND version = %s", (version,)
    )
    return dict(rows.fetchall())


def text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
