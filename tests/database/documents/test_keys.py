"""Keys and text columns of every type that people have: captured, read, compared and found again by the same text, or refused in words."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import psycopg
import pytest
from psycopg import sql

from embed_pipeline.errors import DocumentsTableError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, dual_write, verify
from embed_pipeline.migrate.opening import open_index
from embed_pipeline.spec import IndexSpec
from tests.harness.articles import require_consistent
from tests.harness.postgres.as_built import make_extensions, make_loose_collation

Opened = Callable[..., OpenIndex]

# Name of a kind -> (type, the n-th key, as the application writes it).
KEYS = {
    "smallint": ("smallint", "n"),
    "numeric": ("numeric", "CASE WHEN n % 2 = 0 THEN n ELSE n + 0.50 END"),
    "double": ("double precision", "CASE n WHEN 1 THEN 'NaN' WHEN 2 THEN '-0' WHEN 3 THEN 'Infinity' ELSE n / 3.0::float8 END"),
    "real": ("real", "n / 3.0::float4"),
    "money": ("money", "(1000 * n)::money"),
    "char": ("char(12)", "'a ' || n"),
    "varchar": ("varchar(20)", "'ä \"' || n"),
    "name": ("name", "('n' || n)::name"),
    "one_byte": ('"char"', 'chr(64 + n)::"char"'),
    "oid": ("oid", "n::oid"),
    "date": ("date", "'2026-01-31'::date + n"),
    "timestamptz": ("timestamptz", "'2026-01-01 00:00:00.000001+02'::timestamptz + n * interval '1 hour'"),
    "interval": ("interval", "n * interval '1 day 2 hours'"),
    "inet": ("inet", "('10.0.0.' || n || '/24')::inet"),
    "bytea": ("bytea", "decode(lpad(to_hex(n), 4, '0'), 'hex')"),
    "bits": ("bit varying(8)", "n::bit(5)::varbit"),
    "array": ("text[]", "ARRAY['a \"b\"', NULL, n::text]"),
    "range": ("int4range", "int4range(n, n + 2)"),
    "composite": ("pair", "ROW(n, 'x, \"' || n)::pair"),
    "domain": ("slug", "('doc-' || n)::slug"),
    "enum": ("kind", "('k ' || n)::kind"),
    "other_schema": ("app.kind", "('k ' || n)::text::app.kind"),
    "citext": ("citext", "('Doc ' || n)::citext"),
    "ltree": ("ltree", "('top.doc' || n)::ltree"),
    "own_collation": ('text COLLATE "POSIX"', "'Doc ' || n"),
    "jsonb": ("jsonb", "jsonb_build_object('n', n, 'a', 'é')"),
    "hstore": ("hstore", "hstore(ARRAY['n', 'a \"'], ARRAY[n::text, NULL])"),
}
EXTENSIONS = ("citext", "ltree", "hstore")
DOCUMENTS = 12


def declared(url: str, name: str, **documents: Any) -> IndexSpec:
    version = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "m", "dimensions": 8}
    documents = {"table": f"of_{name}", "key": "id", "text": "body"} | documents
    return IndexSpec.model_validate(
        {"name": name, "database_url": url, "partitions": 2, "versions": {"v1": version}, "documents": documents}
    )


def fill(index: OpenIndex) -> None:
    for key in index.spec.partition_keys():
        backfill.fill_partition(index, "v1", key)


@pytest.fixture
def app(database_url: str) -> Any:
    """The application, whose session writes dates, floats and bytes in another way than ours."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        labels = ", ".join(f"'k {n}'" for n in range(DOCUMENTS, 0, -1))
        conn.execute(
            "CREATE SCHEMA app; "
            f"CREATE TYPE kind AS ENUM ({labels}); CREATE TYPE app.kind AS ENUM ({labels}); "  # type: ignore[arg-type]
            "CREATE TYPE pair AS (a integer, b text); CREATE DOMAIN slug AS text CHECK (value ~ '^[a-z0-9-]+$')"
        )
        conn.execute(
            "SET TimeZone = 'Asia/Kolkata'; SET DateStyle = 'German'; SET IntervalStyle = 'iso_8601'; SET bytea_output = 'escape'; "
            "SET extra_float_digits = -10"
        )
        yield conn


def create(app: psycopg.Connection[Any], table: str, columns: str, key: str) -> None:
    """A column was dropped before the key, and the text stands before it."""
    query = "CREATE TABLE {} (gone integer, body text, {}, PRIMARY KEY ({})); ALTER TABLE {} DROP COLUMN gone"
    name = sql.Identifier(table)
    app.execute(sql.SQL(query).format(name, sql.SQL(columns), sql.SQL(key), name))


def live(app: psycopg.Connection[Any], index: OpenIndex, names: str, values: str) -> None:
    """Change, removal, a new row and a TRUNCATE: none fails, and each is carried."""
    table = index.source.identifier
    insert = sql.SQL("INSERT INTO {} ({}, body) SELECT {}, 'body ' || n FROM generate_series({}, {}) AS n")
    app.execute(insert.format(table, sql.SQL(names), sql.SQL(values), 1, DOCUMENTS - 1))
    synced(index, written=DOCUMENTS - 1)
    app.execute(sql.SQL("UPDATE {} SET body = 'edited' WHERE body = 'body 3'").format(table))
    app.execute(sql.SQL("DELETE FROM {} WHERE body = 'body 4'").format(table))
    app.execute(insert.format(table, sql.SQL(names), sql.SQL(values), DOCUMENTS, DOCUMENTS))
    synced(index, written=2)
    require_consistent(index)
    assert verify.reconcile(index).queued == {"v1": 0}
    app.execute(sql.SQL("TRUNCATE {}").format(table))
    synced(index, written=0)
    require_consistent(index)
    assert app.execute("SELECT * FROM embed_pipeline.doubts").fetchall() == []


def test_one_key_of_every_type(database_url: str, app: psycopg.Connection[Any]) -> None:
    missing = make_extensions(app, *EXTENSIONS)
    kinds = {name: kind for name, kind in KEYS.items() if kind[0] not in missing}
    names = [f"of_{name}" for name in kinds]
    create(app, "articles", ", ".join(f"of_{name} {type_}" for name, (type_, _) in kinds.items()), ", ".join(names))
    with closing(open_index(declared(database_url, "docs", table="articles", key=names))) as index:
        fill(index)
        live(app, index, ", ".join(names), ", ".join(value for _, value in kinds.values()))


@pytest.mark.soak
@pytest.mark.parametrize("name", KEYS)
def test_key_of_each_type(database_url: str, app: psycopg.Connection[Any], name: str) -> None:
    type_, value = KEYS[name]
    if type_ in make_extensions(app, *EXTENSIONS):
        pytest.skip(f"this server has no {type_}")
    create(app, "articles", f"id {type_}", "id")
    with closing(open_index(declared(database_url, "docs", table="articles"))) as index:
        fill(index)
        live(app, index, "id", value)


def synced(index: OpenIndex, *, written: int) -> None:
    (found,) = dual_write.sync(index)
    assert (found.error, found.pending, found.written) == ("", 0, written)


def test_texts_of_every_type(database_url: str, app: psycopg.Connection[Any]) -> None:
    """What a text column is made of decides nothing: it is captured by the text that it has for us, whatever the writer's session says."""
    app.execute(
        "CREATE TABLE articles (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text DEFAULT 'by default', "
        "made text GENERATED ALWAYS AS (upper(body)) STORED, object jsonb, plain json, raw bytea, at timestamptz, "
        "size double precision, label kind, words text[], note varchar(20), price money)"
    )
    names = ["body", "made", "object", "plain", "raw", "at", "size", "label", "words", "note", "price"]
    with closing(open_index(declared(database_url, "docs", table="articles", text=names))) as index:
        fill(index)
        app.execute(
            """INSERT INTO articles (object, plain, raw, at, size, label, words, note, price)
            SELECT jsonb_build_object('n', n), json_build_object('n', n), 'x', '2026-01-01', n / 3.0, 'k 1', ARRAY['a', NULL], 'n', 1
            FROM generate_series(1, 5) AS n"""
        )
        app.execute("INSERT INTO articles DEFAULT VALUES")
        synced(index, written=6)
        require_consistent(index)
        edits = ("body = 'one'", """object = '{"n": 9}'""", "plain = '{}'", "raw = 'y'", "at = now()", "price = 2")
        for edit in edits:
            app.execute(f"UPDATE articles SET {edit} WHERE id = 1")  # type: ignore[arg-type]
            synced(index, written=1)
        require_consistent(index)
        assert verify.reconcile(index).queued == {"v1": 0}


def test_texts_out_of_line(database_url: str, app: psycopg.Connection[Any]) -> None:
    """A long text that a statement leaves as it is, is no change of it; and a change in the middle of it is one."""
    app.execute("CREATE TABLE articles (id bigint PRIMARY KEY, views integer DEFAULT 0, body text)")
    app.execute("ALTER TABLE articles ALTER COLUMN body SET STORAGE EXTERNAL")
    app.execute("INSERT INTO articles SELECT n, 0, repeat('0123456789', 5000) || n FROM generate_series(1, 3) AS n")
    with closing(open_index(declared(database_url, "docs", table="articles"))) as index:
        fill(index)
        app.execute("UPDATE articles SET views = views + 1")
        synced(index, written=0)
        assert app.execute("SELECT count(*) FROM embed_pipeline.inbox").fetchone() == (0,)
        app.execute("UPDATE articles SET body = overlay(body PLACING 'x' FROM 25000) WHERE id = 2")
        synced(index, written=1)
        require_consistent(index)


def test_texts_whose_cast_is_not_their_output(database_url: str, app: psycopg.Connection[Any]) -> None:
    """XML keeps the declaration that it came with only when it is cast; of hstore there is no cast, and of char(n) one without blanks."""
    app.execute("CREATE TABLE articles (id bigint PRIMARY KEY, page text, words text, code char(8), open boolean, host inet)")
    if not make_extensions(app, "hstore"):
        app.execute("ALTER TABLE articles ALTER COLUMN words TYPE hstore USING NULL")
    with suppress(psycopg.errors.FeatureNotSupported):  # This server was built without XML.
        app.execute("SELECT '<p>1</p>'::xml; ALTER TABLE articles ALTER COLUMN page TYPE xml USING page::xml")
    names = ["page", "words", "code", "open", "host"]
    with closing(open_index(declared(database_url, "docs", table="articles", text=names))) as index:
        fill(index)
        app.execute(
            """INSERT INTO articles SELECT n, '<?xml version="1.0" encoding="UTF-8"?><p>1</p>', 'n=>1', 'a', true, '10.0.0.1'
            FROM generate_series(1, 3) AS n"""
        )
        synced(index, written=3)
        require_consistent(index)
        page = """page = '<?xml version="1.0" encoding="{}"?><p>{}</p>'"""
        edits = (page.format("UTF-8", 2), page.format("utf8", 2), "words = 'b=>NULL'", "code = 'b'", "open = false")
        for edit in (*edits, "host = '10.0.0.2'"):
            app.execute(f"UPDATE articles SET {edit} WHERE id = 1")  # type: ignore[arg-type]
            synced(index, written=1)
        require_consistent(index)
        assert verify.reconcile(index).queued == {"v1": 0}


def test_collations_under_which_other_texts_are_equal(database_url: str, app: psycopg.Connection[Any]) -> None:
    """'Doc' = 'doc' for the application; for us they are two texts, and a change from one to the other is one."""
    make_loose_collation(app)
    app.execute(
        "CREATE TABLE articles (a text COLLATE loose, b varchar(20) COLLATE loose, title text COLLATE loose, body text COLLATE loose, "
        "PRIMARY KEY (a, b))"
    )
    app.execute("CREATE TABLE single (id text COLLATE loose PRIMARY KEY, body text COLLATE loose)")
    app.execute('CREATE TABLE apart (id text COLLATE loose NOT NULL, body text); CREATE UNIQUE INDEX ON apart (id COLLATE "C")')
    with pytest.raises(DocumentsTableError, match="has no key"):
        open_index(declared(database_url, "docs", table="apart"))
    app.execute("CREATE DOMAIN loosely AS text COLLATE loose; CREATE TABLE named (id loosely PRIMARY KEY, body text)")
    for table, key, text in (
        ("articles", ["a", "b"], ["title", "body"]),
        ("single", ["id"], ["body"]),
        ("named", ["id"], ["body"]),
    ):
        with closing(open_index(declared(database_url, table, table=table, key=key, text=text))) as index:
            fill(index)
            names = [*key, *text]
            values = ", ".join([f"'Doc é' || n || '{name}'" for name in names])
            app.execute(f"INSERT INTO {table} ({', '.join(names)}) SELECT {values} FROM generate_series(1, 40) AS n")  # type: ignore[arg-type]
            synced(index, written=40)
            app.execute(f"UPDATE {table} SET body = upper(body)")  # type: ignore[arg-type]
            synced(index, written=40)
            app.execute(f"UPDATE {table} SET {key[0]} = upper({key[0]})")  # type: ignore[arg-type]
            synced(index, written=40)
            require_consistent(index)
            app.execute(f"DELETE FROM {table} WHERE {key[0]} IN (SELECT lower({key[0]}) FROM {table} LIMIT 5)")  # type: ignore[arg-type]
            synced(index, written=0)
            require_consistent(index)
            assert verify.reconcile(index).queued == {"v1": 0}
