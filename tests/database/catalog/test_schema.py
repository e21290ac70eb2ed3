"""schema.sql, which a database gets on first use, is what the migrations make."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import conninfo, sql

from embed_pipeline.catalog import schema
from embed_pipeline.postgres.connection import connect
from tests.conftest import bare, database

OURS = "n.nspname = 'embed_pipeline'"
# A fact is a line of text. Names of objects stand in it, their numbers do not.
FACTS = {
    "schema": "SELECT format('%s %s', n.nspname, n.nspacl) FROM pg_namespace n WHERE {ours}",
    "relations": """
        SELECT format('%s %s %s %s %s %s', c.relname, c.relkind, c.relpersistence, c.reloptions, c.relacl, c.relreplident)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {ours}""",
    "columns": """
        SELECT format('%s.%s %s %s not null %s default %s identity %s generated %s collation %s storage %s %s', c.relname, a.attname,
                      a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid), a.attidentity,
                      a.attgenerated, a.attcollation::regcollation, a.attstorage, a.attacl)
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE {ours} AND a.attnum > 0 AND NOT a.attisdropped""",
    "constraints": """
        SELECT format('%s %s %s', k.conrelid::regclass, k.conname, pg_get_constraintdef(k.oid))
        FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace WHERE {ours}""",
    "indexes": """
        SELECT format('%s %s', pg_get_indexdef(i.indexrelid), i.indisvalid)
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {ours}""",
    "sequences": """
        SELECT format('%s %s', c.relname, row(s.seqtypid::regtype, s.seqstart, s.seqincrement, s.seqmax, s.seqmin, s.seqcache, s.seqcycle))
        FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {ours}""",
    "functions": """
        SELECT format('%s %s', pg_get_functiondef(f.oid), f.proacl)
        FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace WHERE {ours}""",
    "triggers": """
        SELECT format('%s %s', pg_get_triggerdef(t.oid), t.tgenabled)
        FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {ours} AND NOT t.tgisinternal""",
    "views": """
        SELECT format('%s %s', c.relname, pg_get_viewdef(c.oid))
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {ours} AND c.relkind = 'v'""",
}


def facts(conn: psycopg.Connection[Any]) -> dict[str, list[str]]:
    conn.execute("SET search_path = pg_catalog")
    found = {}
    for kind, query in FACTS.items():
        found[kind] = sorted(fact for (fact,) in conn.execute(query.format(ours=OURS)))  # type: ignore[arg-type]
    conn.execute("RESET search_path")
    return found


def test_the_migrations_make_the_schema_of_a_new_database(
    conn: psycopg.Connection[Any], database_url: str, bare_database_url: str
) -> None:
    schema.ensure(conn, database_url)
    with connect(bare_database_url, autocommit=True) as migrated:
        migrated.execute("CREATE SCHEMA embed_pipeline")
        schema.migrate(bare_database_url)
        assert schema.current_revision(migrated) == schema.HEAD == schema.current_revision(conn)
        expected, found = facts(conn), facts(migrated)
    assert all(expected.values()), "every kind of fact is there to be compared"
    assert found == expected


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("schema", "GRANT USAGE ON SCHEMA embed_pipeline TO PUBLIC"),
        ("relations", "ALTER TABLE embed_pipeline.pending SET (fillfactor = 100)"),
        ("columns", "ALTER TABLE embed_pipeline.pending ALTER COLUMN attempts SET DEFAULT 1"),
        ("constraints", "ALTER TABLE embed_pipeline.control ADD CHECK (reason <> '?')"),
        ("indexes", "DROP INDEX embed_pipeline.inbox_removals"),
        ("sequences", "ALTER SEQUENCE embed_pipeline.change_seq CACHE 2"),
        ("functions", "REVOKE EXECUTE ON FUNCTION embed_pipeline.doubtful(text, text) FROM PUBLIC"),
        ("triggers", "ALTER TABLE embed_pipeline.audit_events DISABLE TRIGGER append_only"),
        (
            "views",
            "CREATE OR REPLACE VIEW embed_pipeline.throttle AS SELECT * FROM embed_pipeline.throttle_states WHERE answer <> 'go'",
        ),
    ],
)
def test_a_difference_of_each_kind_is_seen(conn: psycopg.Connection[Any], database_url: str, kind: str, change: str) -> None:
    """A comparison that sees nothing would let every migration pass."""
    schema.ensure(conn, database_url)
    before = facts(conn)
    conn.execute(change)  # type: ignore[arg-type]
    assert facts(conn)[kind] != before[kind]


def test_two_databases_are_migrated_at_the_same_time_in_one_process(
    server_url: Callable[[str], str], postgres_admin: psycopg.Connection[Any], bare_database_url: str
) -> None:
    """Alembic keeps one context for the whole process: each of two threads ran into the other's database, or failed."""
    with database(server_url, postgres_admin, bare()) as second, ThreadPoolExecutor(2) as pool:
        for url in (bare_database_url, second):
            with connect(url, autocommit=True) as conn:
                conn.execute("CREATE SCHEMA embed_pipeline")
        list(pool.map(schema.migrate, [bare_database_url, second]))
        for url in (bare_database_url, second):
            with connect(url) as conn:
                assert schema.current_revision(conn) == schema.HEAD


def test_a_role_that_is_no_superuser_makes_it(database_url: str) -> None:
    """In a session in which nothing has used a vector yet, so that the server does not know the extension's settings."""
    with psycopg.connect(database_url, autocommit=True) as admin:
        name = f"migrator_{admin.info.dbname}"
        role = sql.Identifier(name)
        admin.execute("CREATE EXTENSION IF NOT EXISTS vector; DROP SCHEMA IF EXISTS embed_pipeline CASCADE")
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'migrator'").format(role))
        try:
            admin.execute(sql.SQL("CREATE SCHEMA embed_pipeline AUTHORIZATION {}").format(role))
            url = conninfo.make_conninfo(database_url, user=name, password="migrator")
            with connect(url, autocommit=True) as conn:
                schema.ensure(conn, url)
                assert schema.current_revision(conn) == schema.HEAD
        finally:
            admin.execute(sql.SQL("DROP OWNED BY {}").format(role))
            admin.execute(sql.SQL("DROP ROLE {}").format(role))
