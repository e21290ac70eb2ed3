"""Names: the application's, whatever they hold; an extension's, wherever it is; and ours, which nobody can put another object in front of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from pydantic import ValidationError

from embed_pipeline import Searcher
from embed_pipeline.errors import DocumentsTableError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import cutover, gate, loading, retire, verify
from tests.harness.articles import fill, require_consistent, serve, settle
from tests.harness.postgres.as_built import make_extensions

Open = Callable[..., OpenIndex]

# 63 bytes, which is the most that PostgreSQL keeps of a name.
LONG = "ünïcødé " * 4 + "%s {} %(x)s{}%%"


def hits(index: OpenIndex, text: str, k: int = 3, **options: Any) -> list[str]:
    with Searcher(index.name, index.url) as searcher:
        return [hit.doc_id for hit in searcher.search(text, k, **options).hits]


@pytest.mark.parametrize(
    ("table", "key", "text", "other"),
    [
        ("50%off {x}", ["key%s"], "discount %", "%(views)s"),
        ("we\"ird '$capture$", ["id {0}", "%"], LONG, "{} %%"),
        (LONG, ["select"], "$1 -- ", "a b"),
    ],
)
def test_names_of_the_application(
    app: psycopg.Connection, open_docs: Open, table: str, key: list[str], text: str, other: str
) -> None:
    """A per cent sign begins a parameter, a brace a part of a statement, a quote ends a name, and a dollar a function's body."""
    names = {"table": sql.Identifier(table), "text": sql.Identifier(text), "other": sql.Identifier(other)}
    names["key"] = sql.SQL(", ").join(sql.Identifier(name) for name in key)
    columns = sql.SQL(", ").join(sql.SQL("{} integer NOT NULL").format(sql.Identifier(name)) for name in key)
    values = sql.SQL(", ").join([sql.SQL("n")] * len(key))

    def run(statement: str) -> None:
        app.execute(sql.SQL(statement).format(columns=columns, values=values, first=sql.Identifier(key[0]), **names))

    run("CREATE TABLE {table} ({columns}, {text} text, {other} integer, PRIMARY KEY ({key}))")
    run("INSERT INTO {table} SELECT {values}, 'title ' || n || E'\\n\\nbody ' || n, n FROM generate_series(1, 30) AS n")
    index = open_docs("v1", documents={"table": table, "key": key, "text": text})
    fill(index, "v1")
    run("UPDATE {table} SET {text} = 'edited' WHERE {first} = 7")
    run("DELETE FROM {table} WHERE {first} = 8")
    settle(index)
    wanted = "7" if len(key) == 1 else '["7", "7"]'
    assert hits(index, "edited", version="v1", where={other: 7}) == [wanted]
    verify.reconcile(index)
    require_consistent(index)
    run("TRUNCATE {table}")
    assert hits(index, "edited", version="v1") == []


def test_a_name_with_a_dot_cannot_be_declared(app: psycopg.Connection, open_docs: Open) -> None:
    app.execute('CREATE TABLE "a.b" (id integer PRIMARY KEY, body text)')
    with pytest.raises(DocumentsTableError, match="name with a dot"):
        open_docs("v1", documents={"table": "public.a.b", "key": "id", "text": "body"})


def test_extensions_may_be_anywhere_and_move(app: psycopg.Connection, open_docs: Open, holdout: Path) -> None:
    """pgvector and the key's own types, in schemas that no search_path leads to; the searcher was opened before they moved."""
    if missing := make_extensions(app, "citext", "ltree"):
        pytest.skip(f"this server has no {', '.join(missing)}")
    app.execute(
        "CREATE SCHEMA first; CREATE SCHEMA later; ALTER EXTENSION citext SET SCHEMA first; ALTER EXTENSION ltree SET SCHEMA first"
    )
    app.execute("ALTER EXTENSION vector SET SCHEMA first")
    app.execute(
        "CREATE TABLE pages (path first.ltree, lang first.citext, n integer, body text, PRIMARY KEY (path, n, lang)); "
        "INSERT INTO pages SELECT ('top.p' || n)::first.ltree, 'En', n, 'title ' || n || E'\\n\\nbody ' || n FROM generate_series(1, 40) AS n"
    )
    known = [{"query": f"title {n}\n\nbody {n}", "doc_id": f'["top.p{n}", "{n}", "En"]'} for n in (7, 9)]
    holdout.write_text("\n".join(map(json.dumps, known)))
    index = open_docs("v1", documents={"table": "pages", "key": ["path", "n", "lang"], "text": "body"})
    serve(index, "v1")
    call = (
        "SELECT doc_id FROM embed_pipeline.search('docs', 'v1', (SELECT fingerprint FROM embed_pipeline.serving), "
        "(SELECT embedding FROM embed_pipeline.docs__v1 WHERE doc_id LIKE '%top.p7\"%'), 3)"
    )
    with Searcher("docs", index.url) as searcher:
        for schema in ("first", "later"):
            if schema == "later":
                for extension in ("vector", "citext", "ltree"):
                    app.execute(sql.SQL("ALTER EXTENSION {} SET SCHEMA later").format(sql.Identifier(extension)))
            seventh = '["top.p7", "7", "En"]'
            assert searcher.search("title 7\n\nbody 7", 3).hits[0].doc_id == seventh
            assert app.execute(call).fetchall()[0] == (seventh,)
    # The types of the key are part of how documents are looked up: opened again, they are found where they are.
    index = open_docs("v1", documents={"table": "pages", "key": ["path", "n", "lang"], "text": "body"})
    app.execute("UPDATE pages SET body = 'edited' WHERE n = 7; DELETE FROM pages WHERE n = 8")
    settle(index)
    assert hits(index, "edited", 1) == [seventh]
    verify.reconcile(index)
    require_consistent(index)


# What PostgreSQL would rather take than its own: in a schema before pg_catalog, or with arguments that fit better.
PLANTED = """
    CREATE SCHEMA planted;
    CREATE FUNCTION planted.caught() RETURNS void LANGUAGE plpgsql AS $f$ BEGIN RAISE EXCEPTION 'planted' USING ERRCODE = 'ZZ001'; END $f$;
    CREATE FUNCTION planted.format(text, text) RETURNS text LANGUAGE sql AS $f$ SELECT planted.caught()::text $f$;
    CREATE FUNCTION planted.format(text, text, text) RETURNS text LANGUAGE sql AS $f$ SELECT planted.caught()::text $f$;
    CREATE FUNCTION planted.concat_ws(text, text, text) RETURNS text LANGUAGE sql AS $f$ SELECT planted.caught()::text $f$;
    CREATE FUNCTION planted.concat(bigint) RETURNS text LANGUAGE sql AS $f$ SELECT planted.caught()::text $f$;
    CREATE FUNCTION planted.convert_to(text, text) RETURNS bytea LANGUAGE sql AS $f$ SELECT planted.caught()::text::bytea $f$;
    CREATE FUNCTION planted.nextval(text) RETURNS bigint LANGUAGE sql AS $f$ SELECT planted.caught()::text::bigint $f$;
    CREATE FUNCTION planted.to_regclass(text) RETURNS regclass LANGUAGE sql AS $f$ SELECT planted.caught()::text::regclass $f$;
    CREATE FUNCTION planted.now() RETURNS timestamptz LANGUAGE sql AS $f$ SELECT planted.caught()::text::timestamptz $f$;
    CREATE FUNCTION planted.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $f$ SELECT planted.caught()::text::timestamptz $f$;
    CREATE FUNCTION planted.current_setting(text) RETURNS text LANGUAGE sql AS $f$ SELECT planted.caught()::text $f$;
    CREATE FUNCTION planted.cardinality(text[]) RETURNS integer LANGUAGE sql AS $f$ SELECT planted.caught()::text::integer $f$;
    CREATE FUNCTION planted.unnest(text[]) RETURNS SETOF text LANGUAGE sql AS $f$ SELECT planted.caught()::text $f$;
    CREATE FUNCTION planted.sha256(bytea) RETURNS bytea LANGUAGE sql AS $f$ SELECT planted.caught()::text::bytea $f$;
    CREATE FUNCTION planted.length(text) RETURNS integer LANGUAGE sql AS $f$ SELECT planted.caught()::text::integer $f$;
    CREATE FUNCTION planted.coarse(text, text) RETURNS boolean LANGUAGE sql AS $f$ SELECT planted.caught()::text::boolean $f$;
    CREATE OPERATOR planted.= (LEFTARG = text, RIGHTARG = text, FUNCTION = planted.coarse);
    CREATE OPERATOR planted.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = planted.coarse);
    CREATE FUNCTION planted.far(public.vector, public.vector) RETURNS double precision LANGUAGE sql
        AS $f$ SELECT planted.caught()::text::double precision $f$;
    CREATE OPERATOR planted.<=> (LEFTARG = public.vector, RIGHTARG = public.vector, FUNCTION = planted.far);
"""


def test_nobody_can_put_a_name_before_ours(app: psycopg.Connection, open_docs: Open) -> None:
    """A schema that the database, and so each of our sessions and each of a reader's, would look into before pg_catalog."""
    app.execute(PLANTED)
    path = sql.SQL("SET search_path = planted, pg_catalog, public")
    app.execute(sql.SQL("ALTER DATABASE {} {}").format(sql.Identifier(app.info.dbname), path))
    with psycopg.connect(app.info.dsn, password=app.info.password, autocommit=True) as planted:
        with pytest.raises(psycopg.Error, match="planted"):
            planted.execute("SELECT now()")
        index = open_docs("v1")
        serve(index, "v1")
        # The application's own statements run our triggers, and a person's at a prompt the catalog's.
        app.execute("UPDATE articles SET body = 'edited' WHERE id = 7; DELETE FROM articles WHERE id > 50")
        planted.execute("UPDATE public.articles SET title = 'other' WHERE id OPERATOR(pg_catalog.=) 9; TRUNCATE public.articles")
        app.execute(
            "INSERT INTO articles (id, title, body) SELECT n, 'title ' || n, 'body ' || n FROM generate_series(1, 60) AS n"
        )
        settle(index)
        planted.execute("SELECT * FROM embed_pipeline.serving, embed_pipeline.queue")
        planted.execute("SELECT embed_pipeline.pause('docs'), embed_pipeline.resume('docs')")
        search = (
            "SELECT doc_id FROM embed_pipeline.search('docs', 'v1', (SELECT fingerprint FROM embed_pipeline.serving), "
            "(SELECT embedding FROM embed_pipeline.docs__v1 LIMIT 1), 3)"
        )
        assert len(planted.execute(search).fetchall()) == 3
        app.execute("DELETE FROM articles WHERE id = 1")
        assert len(planted.execute(search).fetchall()) == 3
        with pytest.raises(psycopg.errors.CheckViolation, match="immutable"):
            planted.execute("UPDATE embed_pipeline.index_versions SET spec = '{}'")
    index = open_docs("v1", "v2")
    fill(index, "v2")
    app.execute("INSERT INTO articles (id, title, body) VALUES (1, 'title 1', 'body 1') ON CONFLICT DO NOTHING")
    gate.run(index, "v2")
    cutover.cutover(index, "v2")
    assert hits(index, "title 7\n\nbody 7", where={"views": 0})[0] == "7"
    verify.reconcile(index)
    retire.retire(index, "v1", "v1")


def test_triggers_of_the_application_find_its_names(app: psycopg.Connection, open_docs: Open, tmp_path: Any) -> None:
    """They run in our session when we write a document: the canary of a backfill, and `load`."""
    app.execute("""
        CREATE TABLE log (what text);
        CREATE FUNCTION logged() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN INSERT INTO log VALUES (TG_OP); RETURN NEW; END $f$;
        CREATE TRIGGER logged BEFORE INSERT OR UPDATE ON articles FOR EACH ROW EXECUTE FUNCTION logged()""")
    index = open_docs("v1")
    app.execute(
        "CREATE OR REPLACE FUNCTION embed_pipeline.capture_docs_update() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
    )
    with index.connection() as conn, pytest.raises(DocumentsTableError, match="did not reach the inbox"):
        index.prove_capture(conn)
    own = open_docs("v1", name="own", documents=None)
    app.execute("CREATE TRIGGER logged BEFORE INSERT OR UPDATE ON own FOR EACH ROW EXECUTE FUNCTION logged()")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "a", "text": "a text"}')
    assert loading.load(own, rows, full=True).inserted == 1
    assert app.execute("SELECT what FROM log").fetchall() == [("INSERT",)]


def test_names_of_indexes_and_versions_never_meet(app: psycopg.Connection, open_docs: Open) -> None:
    """`a__b` of version `c` and `a` of version `b__c` would be one table; `docs` and `docs_before` are not alike."""
    for wrong in ("a__b", "a_", "_a", "a" * 25):
        with pytest.raises(ValidationError, match="name"):
            open_docs("v1", name=wrong)
        with pytest.raises(ValidationError):
            open_docs(wrong)
    named = {
        name: open_docs("v1", "v1_pkey", name=name) for name in ("docs", "docs_insert", "docs_before", "docs_v1", "truncate")
    }
    for index in named.values():
        fill(index, "v1")
    app.execute("UPDATE articles SET body = 'edited' WHERE id = 7; TRUNCATE articles")
    waiting = app.execute("SELECT index_name, count(*) FROM embed_pipeline.inbox GROUP BY 1").fetchall()
    assert dict(waiting) == dict.fromkeys(named, 2)
    with named["docs"].connection() as conn:
        for name in ("a__b", "a_"):
            with pytest.raises(psycopg.errors.CheckViolation):
                conn.execute(
                    "INSERT INTO embed_pipeline.indexes VALUES (%s, 't', '{id}', '{text}', '{\"kind\": \"pgvector\"}')", (name,)
                )
