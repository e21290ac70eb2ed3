"""The roles of docs/how-to/least-privilege.md on a server: none of them a superuser, and none more than it is meant to be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from embed_pipeline import Searcher
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import cutover, dual_write, gate, retire, verify
from embed_pipeline.migrate.opening import open_index
from tests.harness.articles import declared, fill, serve, settle

PASSWORD = "of a test"
NAMES = ("owner", "migrator", "reader", "writer", "nobody")


@dataclass
class Roles:
    """A database that an administrator has prepared as the page says. Every role has a name of this database's own."""

    admin: psycopg.Connection
    holdout: Path
    opened: list[OpenIndex]

    def name(self, role: str) -> str:
        return f"{role}_{self.admin.info.dbname}"

    def sql(self, statement: str, **names: sql.Composable) -> psycopg.Cursor[Any]:
        """As the administrator; {reader} and so on are the roles."""
        return self.admin.execute(self.composed(statement, **names))

    def composed(self, statement: str, **names: sql.Composable) -> sql.Composed:
        roles = {role: sql.Identifier(self.name(role)) for role in NAMES}
        return sql.SQL(statement).format(**roles, **names)

    def url(self, role: str) -> str:
        info = self.admin.info
        return f"postgresql://{self.name(role)}:{PASSWORD.replace(' ', '%20')}@{info.host}:{info.port}/{info.dbname}"

    def connect(self, role: str) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url(role), autocommit=True)

    def index(self, *names: str, **overrides: Any) -> OpenIndex:
        index = open_index(declared(self.url("migrator"), self.holdout, *names, **overrides))
        self.opened.append(index)
        return index


@pytest.fixture
def roles(bare_database_url: str, holdout: Path) -> Iterator[Roles]:
    with psycopg.connect(bare_database_url, autocommit=True) as admin:
        made = Roles(admin, holdout, [])
        for role in NAMES:
            made.sql(f"CREATE ROLE {{{role}}} LOGIN NOSUPERUSER PASSWORD '{PASSWORD}'")
        made.sql("""
            CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text, views integer NOT NULL DEFAULT 0);
            INSERT INTO articles (id, title, body) SELECT n, 'title ' || n, 'body ' || n FROM generate_series(1, 60) AS n;
            ALTER TABLE articles OWNER TO {owner};
            GRANT {owner} TO {migrator};
            CREATE SCHEMA embed_pipeline AUTHORIZATION {migrator};
            GRANT USAGE ON SCHEMA embed_pipeline TO {reader}, {nobody};
            ALTER DEFAULT PRIVILEGES FOR ROLE {migrator} IN SCHEMA embed_pipeline GRANT SELECT ON TABLES TO {reader};
            GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON articles TO {writer}""")
        try:
            yield made
        finally:
            for index in made.opened:
                index.close()
            made.sql("DROP SCHEMA embed_pipeline CASCADE")
            for role in NAMES:
                made.sql(f"REASSIGN OWNED BY {{{role}}} TO CURRENT_USER; DROP OWNED BY {{{role}}}")
            for role in reversed(NAMES):
                made.sql(f"DROP ROLE {{{role}}}")


def found(roles: Roles, role: str, version: str, text: str = "title 7\n\nbody 7") -> list[str]:
    with Searcher("docs", roles.url(role)) as searcher:
        return [hit.doc_id for hit in searcher.search(text, 3, version=version).hits]


def test_the_whole_road_without_superuser_rights(roles: Roles) -> None:
    """Nor with pgvector preloaded: until it is, its settings are unknown, and only a superuser may give an unknown one to a function."""
    index = roles.index("v1")
    serve(index, "v1")
    assert found(roles, "reader", "v1")[0] == "7"
    with roles.connect("writer") as writer:
        writer.execute("UPDATE articles SET body = 'edited' WHERE id = 7")
        writer.execute("DELETE FROM articles WHERE id = 58")
    settle(index)
    assert found(roles, "reader", "v1", "title 7\n\nedited")[0] == "7"
    index = roles.index("v1", "v2")
    fill(index, "v2")
    gate.run(index, "v2")
    cutover.cutover(index, "v2")
    cutover.rollback(index)
    cutover.cutover(index, "v2", again=True)
    with roles.connect("writer") as writer:
        writer.execute("TRUNCATE articles")
        assert found(roles, "reader", "v2") == []
    dual_write.sync(index)
    assert verify.verify(index)["v2"].differences == 0
    retire.retire(index, "v1", "v1")


def test_sql_search_where_pgvector_is_not_loaded_yet(roles: Roles) -> None:
    """The vector comes out of a table: no function of pgvector has run in the session before. The caller's own settings come back."""
    serve(roles.index("v1"), "v1")
    roles.sql(
        "CREATE TABLE queries AS SELECT embedding FROM embed_pipeline.docs__v1 WHERE doc_id = '7'; GRANT SELECT ON queries TO {reader}"
    )
    call = (
        "SELECT doc_id FROM embed_pipeline.search('docs', 'v1', (SELECT fingerprint FROM embed_pipeline.serving), "
        "(SELECT embedding FROM queries), 3)"
    )
    with roles.connect("reader") as reader:
        reader.execute("SET hnsw.ef_search = 77")
        assert reader.execute(call).fetchall()[0] == ("7",)
        assert reader.execute("SHOW hnsw.ef_search").fetchone() == ("77",)
        with reader.transaction():
            reader.execute("SET LOCAL hnsw.iterative_scan = relaxed_order")
            reader.execute(call)
            assert reader.execute("SHOW hnsw.iterative_scan").fetchone() == ("relaxed_order",)
        assert reader.execute("SHOW hnsw.iterative_scan").fetchone() == ("off",)


# Functions that a role may run which may use the schema and nothing else, each with the reason. Every other one is refused to it.
FOR_EVERYBODY = {
    "note_read": "says that a version is read, so that retire refuses: a row in ten seconds at most",
    "note_searcher": "says which versions a process can embed queries for: one row of its own, a thousand of a role at most",
    "gone": "asks gone_docs",
    "gone_docs": "of ids that the caller names, which are no documents",
    "present_docs": "the ids of all documents, where there are no more than 10,000: of a corpus that was emptied just now",
}
# And of these those that a role with SELECT on our tables may run besides. They run with the caller's own rights.
FOR_READERS = {
    "search": "reads the version's table with the caller's rights",
    "search_refined": "reads the tables of both versions with the caller's rights",
    "doubtful": "reads what is announced with the caller's rights",
}


def test_every_function_is_refused_or_meant_for_the_caller(roles: Roles) -> None:
    """As trigger functions too, which is how a reader once became the migrator."""
    roles.index("v1")
    ours = roles.sql(
        "SELECT p.proname, p.oid::regprocedure::text, p.prorettype = 'trigger'::regtype, "
        "ARRAY(SELECT format('%s::%s', CASE t.type WHEN 'integer'::regtype THEN '1' ELSE 'NULL' END, t.type::regtype) "
        "FROM unnest(p.proargtypes) AS t(type)) "
        "FROM pg_proc p WHERE p.pronamespace = 'embed_pipeline'::regnamespace ORDER BY 1"
    ).fetchall()
    assert {"search", "capture_docs_insert", "capture_docs_row", "admit", "abort", "check_pointer_move"} <= {
        name for name, *_ in ours
    }
    for role, meant in (("nobody", FOR_EVERYBODY), ("reader", FOR_EVERYBODY | FOR_READERS), ("writer", {})):
        ran = set()
        with roles.connect(role) as conn:
            conn.execute("CREATE TEMPORARY TABLE mine (id bigint, title text, body text)")
            for name, signature, is_trigger, arguments in ours:
                try:
                    if is_trigger:
                        conn.execute(f"CREATE TRIGGER t AFTER TRUNCATE ON mine EXECUTE FUNCTION {signature}")  # type: ignore[arg-type]
                    else:
                        conn.execute(f"SELECT embed_pipeline.{name}({', '.join(arguments)})")  # type: ignore[arg-type]
                except psycopg.errors.InsufficientPrivilege:
                    continue
                except psycopg.Error:
                    pass  # It was begun, and what it makes of NULLs is no matter here.
                ran.add(name)
        assert ran == set(meant), role


# A type whose casts are functions of its owner's, which note as whom they run.
EVIL = """
    CREATE TYPE evil AS (text text);
    CREATE FUNCTION run(evil) RETURNS text LANGUAGE sql AS $f$ INSERT INTO public.ran VALUES (current_user); SELECT 'ran' $f$;
    CREATE CAST (evil AS text) WITH FUNCTION run(evil);
    CREATE FUNCTION run_again(evil) RETURNS bigint LANGUAGE sql AS $f$ SELECT length(public.run($1)) $f$;
    CREATE CAST (evil AS bigint) WITH FUNCTION run_again(evil) AS IMPLICIT;
"""


def test_no_code_of_a_tables_owner_runs_with_our_rights(roles: Roles) -> None:
    """A partition is detached and given away with its triggers; then the owner of the documents themselves turns columns into a type with
    casts of its own, and the table into a view. What the writer's statements and a search run as the migrator is none of it."""
    roles.sql("CREATE TABLE ran (who text); GRANT INSERT ON ran TO PUBLIC")
    roles.sql("ALTER TABLE articles RENAME TO kept; GRANT CREATE ON SCHEMA public TO {owner}, {nobody}")
    roles.sql("""
        CREATE TABLE articles (id bigint, title text, body text, CONSTRAINT key PRIMARY KEY (id)) PARTITION BY RANGE (id);
        CREATE TABLE low PARTITION OF articles FOR VALUES FROM (0) TO (100);
        CREATE TABLE high PARTITION OF articles DEFAULT;
        INSERT INTO articles SELECT id, title, body FROM kept;
        ALTER TABLE articles OWNER TO {owner}; ALTER TABLE low OWNER TO {owner}; ALTER TABLE high OWNER TO {owner}""")
    serve(roles.index("v1"), "v1")

    roles.sql("ALTER TABLE articles DETACH PARTITION high; ALTER TABLE high OWNER TO {nobody}")
    waiting = "SELECT count(*) FROM embed_pipeline.inbox"
    before = roles.sql(waiting).fetchone()
    with roles.connect("nobody") as nobody:
        nobody.execute("INSERT INTO high VALUES (1, '', ''); UPDATE high SET body = 'x'; DELETE FROM high; TRUNCATE high")
        assert roles.sql(waiting).fetchone() == before, "its changes are none of the documents"
        nobody.execute(f"SET search_path = public; {EVIL}")  # type: ignore[arg-type]
        nobody.execute("ALTER TABLE high DROP COLUMN id, ADD COLUMN id evil; INSERT INTO high (id) VALUES (ROW('')::evil)")
        nobody.execute("DROP TABLE high; DROP TYPE evil CASCADE")

    with roles.connect("owner") as owner:
        owner.execute(f"SET search_path = public; {EVIL}")  # type: ignore[arg-type]
        owner.execute("ALTER TABLE articles ALTER COLUMN body TYPE evil USING ROW('')::evil")
        owner.execute("UPDATE articles SET body = ROW('other')::evil WHERE id = 7")
        owner.execute("ALTER TABLE articles DROP CONSTRAINT key; ALTER TABLE articles RENAME COLUMN id TO was")
        owner.execute("ALTER TABLE articles ADD COLUMN id evil; UPDATE articles SET id = ROW('8')::evil WHERE was = 8")
        gone = "SELECT embed_pipeline.gone_docs(ARRAY['7']), embed_pipeline.present_docs(100)"
        assert roles.sql(gone).fetchone() == (None, None), "it is not the column that was registered"
        owner.execute(
            "DROP TABLE articles; CREATE VIEW articles AS SELECT run(ROW('')::evil) AS id, ''::text AS title, ''::text AS body"
        )
        assert roles.sql(gone).fetchone() == (None, None), "nor the table"
        owner.execute("SELECT id FROM articles")
    assert roles.sql("SELECT DISTINCT who FROM ran").fetchall() == [(roles.name("owner"),)], (
        "when the owner asked for it, and never else"
    )


def test_a_cast_of_the_key_that_its_owner_makes_is_not_used_for_a_search(roles: Roles) -> None:
    roles.sql("""
        CREATE TYPE name_of AS ENUM ('1', '2', '7', '9'); ALTER TYPE name_of OWNER TO {owner}; CREATE TABLE ran (who text);
        DELETE FROM articles WHERE id NOT IN (1, 2, 7, 9);
        ALTER TABLE articles ALTER COLUMN id TYPE name_of USING id::text::name_of;
        GRANT CREATE ON SCHEMA public TO {owner}; GRANT INSERT ON ran TO PUBLIC""")
    index = roles.index("v1")
    fill(index, "v1")
    gone = "SELECT embed_pipeline.gone_docs(ARRAY['7', '9', '8']), embed_pipeline.present_docs(100)"
    roles.sql("DELETE FROM articles WHERE id = '9'")
    assert roles.sql("SELECT embed_pipeline.gone_docs(ARRAY['7', '9'])").fetchone() == (["9"],)
    with roles.connect("owner") as owner:
        owner.execute(
            "CREATE FUNCTION public.read(text) RETURNS name_of LANGUAGE sql AS $$ INSERT INTO ran VALUES (current_user); SELECT '7'::name_of $$"
        )
        owner.execute("CREATE CAST (text AS name_of) WITH FUNCTION public.read(text)")
    assert roles.sql(gone).fetchone() == (None, None)
    assert roles.sql("SELECT * FROM ran").fetchall() == []


def test_the_check_of_a_domain_runs_with_the_writers_rights_only(roles: Roles) -> None:
    roles.sql("""
        CREATE TABLE seen (who text); GRANT INSERT ON seen TO PUBLIC;
        CREATE FUNCTION noted(value text) RETURNS boolean LANGUAGE sql AS $$ INSERT INTO public.seen VALUES (current_user); SELECT true $$;
        CREATE DOMAIN slug AS text CHECK (public.noted(value));
        ALTER TABLE articles ALTER COLUMN id TYPE slug USING id::text;
        TRUNCATE seen""")
    index = roles.index("v1")
    serve(index, "v1")
    with roles.connect("writer") as writer:
        writer.execute("DELETE FROM articles WHERE id = '3'")
        assert found(roles, "reader", "v1")[0] == "7"
        writer.execute("INSERT INTO articles VALUES ('new', 'a', 'b')")
    settle(index)
    assert roles.sql("SELECT DISTINCT who FROM seen").fetchall() == [(roles.name("writer"),)]
