"""Catalog migration 0003, on a catalog in which versions are registered already."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from alembic import command
from alembic.config import Config

from embed_pipeline.catalog import schema

OLD_VECTORS = (
    'CREATE TABLE embed_pipeline.docs__{}__vectors (doc_id text COLLATE "C", chunk integer, embedding vector(3), '
    "PRIMARY KEY (doc_id, chunk))"
)
OLD_DOCUMENTS = (
    'CREATE TABLE embed_pipeline.docs__{}__documents (doc_id text COLLATE "C" PRIMARY KEY, source_hash bytea, chunks integer, '
    "embedded_at timestamptz DEFAULT now(), model_name text DEFAULT 'm', model_version text DEFAULT '1', fingerprint text DEFAULT repeat('f', 64))"
)


@pytest.fixture
def old(bare_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A catalog at revision 0002 with a live version v1, a retired one v0 whose tables are gone, and one vector."""
    with psycopg.connect(bare_database_url, autocommit=True) as conn:
        conn.execute("CREATE SCHEMA embed_pipeline")
        config = Config()
        config.set_main_option("script_location", str(Path(schema.__file__).with_name("migrations")))
        engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(bare_database_url))
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "0002")
        engine.dispose()
        conn.execute("INSERT INTO embed_pipeline.indexes VALUES ('docs', 'articles', '{id}', '{body}', 'pgvector')")
        for version, state in (("v0", "retired"), ("v1", "ready")):
            conn.execute(
                "INSERT INTO embed_pipeline.index_versions (index_name, version, state, fingerprint, model_name, model_version, dimensions, "
                "precision, distance, partitions, spec, dropped_at) VALUES ('docs', %s, %s, repeat('f', 64), 'm', '1', 3, 'vector', 'cosine', "
                "1, '{\"hnsw\": {\"ef_search\": 100}}', CASE %s WHEN 'retired' THEN now() END)",
                (version, state, state),
            )
        conn.execute(OLD_DOCUMENTS.format("v1"))  # type: ignore[arg-type]
        conn.execute(OLD_VECTORS.format("v1"))  # type: ignore[arg-type]
        conn.execute("INSERT INTO embed_pipeline.docs__v1__documents (doc_id, source_hash, chunks) VALUES ('1', sha256('x'), 1)")
        conn.execute("INSERT INTO embed_pipeline.docs__v1__vectors VALUES ('1', 0, '[1,2,3]')")
        yield conn


def test_live_versions_get_the_columns_and_stay_searchable(old: psycopg.Connection[Any], bare_database_url: str) -> None:
    schema.ensure(old, bare_database_url)
    assert old.execute("SELECT passage_start, passage_end FROM embed_pipeline.docs__v1__vectors").fetchall() == [(None, None)]
    assert old.execute("SELECT version, doc_id, chunk, passage_start FROM embed_pipeline.provenance").fetchall() == [
        ("v1", "1", 0, None)
    ]
    for exact in (True, False):
        rows = old.execute(
            "SELECT * FROM embed_pipeline.search('docs', 'v1', repeat('f', 64), '[1,2,3]', 5, %s)", (exact,)
        ).fetchall()
        assert rows == [("1", 0, pytest.approx(0, abs=1e-6), None, None)]


@pytest.mark.parametrize("restricted", [True, False])
def test_who_may_search_may_still(old: psycopg.Connection[Any], bare_database_url: str, restricted: bool) -> None:
    role = f"searcher_{old.info.dbname}"
    old.execute(f"CREATE ROLE {role}")  # type: ignore[arg-type]
    function = "embed_pipeline.search(text, text, text, vector, integer, boolean)"
    try:
        if restricted:
            old.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")  # type: ignore[arg-type]
            old.execute(f"GRANT EXECUTE ON FUNCTION {function} TO {role}")  # type: ignore[arg-type]
        schema.ensure(old, bare_database_url)
        asked = "SELECT has_function_privilege(%s, %s, 'EXECUTE'), has_function_privilege('public', %s, 'EXECUTE')"
        assert old.execute(asked, (role, function, function)).fetchone() == (True, not restricted)
    finally:
        old.execute(f"DROP OWNED BY {role}")  # type: ignore[arg-type]
        old.execute(f"DROP ROLE {role}")  # type: ignore[arg-type]


def test_a_long_search_is_waited_for_and_others_are_let_through(old: psycopg.Connection[Any], bare_database_url: str) -> None:
    """The migration asks for its lock briefly: a search that comes behind it waits for two seconds at most, and the end is success."""
    with psycopg.connect(bare_database_url) as long, psycopg.connect(bare_database_url, autocommit=True) as other:
        long.execute("SELECT count(*) FROM embed_pipeline.docs__v1__vectors")
        migrating = threading.Thread(target=schema.ensure, args=(old, bare_database_url))
        migrating.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock' AND locktype = 'relation'"
        while other.execute(waiting).fetchone() == (0,):
            assert migrating.is_alive()
        other.execute("SET statement_timeout = '10s'")
        assert other.execute("SELECT count(*) FROM embed_pipeline.docs__v1__vectors").fetchone() == (1,)
        assert migrating.is_alive()
        long.rollback()
        migrating.join(60)
        assert not migrating.is_alive()
    assert schema.current_revision(old) == schema.HEAD
