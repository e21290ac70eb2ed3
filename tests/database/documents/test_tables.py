"""Tables whose changes can all be seen, and those that are refused; and what becomes of one that turns into such a table later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from embed_pipeline.catalog import schema
from embed_pipeline.documents import shape, source
from embed_pipeline.errors import CatalogError, DocumentsTableError, EmbedPipelineError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import dual_write, verify
from embed_pipeline.migrate.opening import open_index
from embed_pipeline.postgres import failures
from embed_pipeline.report.status import status_of
from tests.harness.articles import declared, fill, settle, stored, text_hash

Open = Callable[..., OpenIndex]

COLUMNS = "id bigint PRIMARY KEY, title text, body text"
# How the table is made -> the words of the refusal.
REFUSED = {
    "CREATE VIEW articles AS SELECT 1::bigint AS id, ''::text AS title, ''::text AS body": "captured: it is a view",
    "CREATE MATERIALIZED VIEW articles AS SELECT 1::bigint AS id, ''::text AS title, ''::text AS body": "it is a materialized view",
    "CREATE FOREIGN DATA WRAPPER far; CREATE SERVER far FOREIGN DATA WRAPPER far; "
    "CREATE FOREIGN TABLE articles (id bigint NOT NULL, title text, body text) SERVER far": "it is a foreign table",
    f"CREATE UNLOGGED TABLE articles ({COLUMNS})": "public.articles is UNLOGGED: a crash of the server empties it, and no trigger",
    f"CREATE TABLE articles ({COLUMNS}) PARTITION BY RANGE (id); CREATE UNLOGGED TABLE low PARTITION OF articles DEFAULT": (
        "low is UNLOGGED: a crash of the server empties it, and no trigger"
    ),
    "CREATE FOREIGN DATA WRAPPER far; CREATE SERVER far FOREIGN DATA WRAPPER far; "
    "CREATE TABLE articles (id bigint NOT NULL, title text, body text) PARTITION BY RANGE (id); "
    "CREATE FOREIGN TABLE low PARTITION OF articles DEFAULT SERVER far": "The partition low of public.articles is a foreign table",
    f"CREATE TABLE articles ({COLUMNS}); CREATE TABLE child () INHERITS (articles)": (
        r"Tables inherit from public\.articles \((public\.)?child\): what is written to them passes its triggers, and no key is unique over them"
    ),
    "CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text GENERATED ALWAYS AS (upper(title)) VIRTUAL)": (
        r"The column 'body' of public\.articles is a virtual generated column, of which a trigger sees no value"
    ),
    "CREATE TABLE articles (id regclass PRIMARY KEY, title text, body text)": (
        r"The column 'id' of public\.articles is regclass: its text is the name of another object"
    ),
}


def test_tables_whose_changes_cannot_all_be_seen_are_refused(app: psycopg.Connection[Any]) -> None:
    app.execute("DROP TABLE articles")
    for made, said in REFUSED.items():
        if "VIRTUAL" in made and app.info.server_version < 180_000:
            continue
        with app.transaction(force_rollback=True):
            app.execute(made)  # type: ignore[arg-type]
            with pytest.raises(DocumentsTableError, match=said) as refused:
                source.inspect(app, declared("", Path("none"), "v1").source())
            assert refused.value.next_step


def test_table_under_a_parent_is_captured_through_it(app: psycopg.Connection[Any], open_docs: Open) -> None:
    """A statement on the parent fires none of the statement triggers of what hangs below."""
    for attach in (
        "PARTITION BY RANGE (id); ALTER TABLE parent ATTACH PARTITION articles DEFAULT",
        "; ALTER TABLE articles INHERIT parent",
    ):
        app.execute(f"CREATE TABLE parent (LIKE articles INCLUDING ALL) {attach}")  # type: ignore[arg-type]
        index = open_docs("v1")
        fill(index, "v1")
        through_the_parent(app, index)
        app.execute("DROP TABLE articles CASCADE; DROP SCHEMA embed_pipeline CASCADE; DROP TABLE IF EXISTS parent CASCADE")
        app.execute("CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text, views integer NOT NULL DEFAULT 0)")
        app.execute("INSERT INTO articles SELECT n, 'title ' || n, 'body ' || n FROM generate_series(1, 60) AS n")


def through_the_parent(app: psycopg.Connection[Any], index: OpenIndex) -> None:
    app.execute("UPDATE parent SET body = 'edited through the parent' WHERE id = 1")
    app.execute("DELETE FROM parent WHERE id = 2")
    app.execute("UPDATE articles SET body = 'edited directly' WHERE id = 3")
    settle(index)
    found = stored(app, "v1")
    assert found["1"] == text_hash("title 1\n\nedited through the parent")
    assert found["3"] == text_hash("title 3\n\nedited directly")
    assert "2" not in found
    # Once for each change: the row trigger alone sees it.
    app.execute("UPDATE articles SET body = 'again' WHERE id = 3")
    assert app.execute("SELECT count(*) FROM embed_pipeline.inbox").fetchone() == (1,)
    app.execute("TRUNCATE parent")
    settle(index)
    assert stored(app, "v1") == {}


def test_table_that_gets_a_parent_is_noticed_and_then_captured_through_it(
    app: psycopg.Connection[Any], open_docs: Open, open_filled: Open
) -> None:
    index = open_filled()
    app.execute("CREATE TABLE parent (LIKE articles INCLUDING ALL) PARTITION BY RANGE (id)")
    app.execute("ALTER TABLE parent ATTACH PARTITION articles DEFAULT")
    app.execute("UPDATE parent SET body = 'unseen' WHERE id = 1")
    assert status_of(index.spec).doubts[0].startswith("the documents table has changed since capture was armed: parent")
    again = open_docs("v1")
    compared = verify.reconcile(again)
    assert (compared.queued, len(compared.doubts)) == ({"v1": 1}, 1)
    assert dual_write.sync(again)[0].error == ""
    app.execute("UPDATE parent SET body = 'seen' WHERE id = 1; INSERT INTO parent (id, title, body) VALUES (900, 'new', 'too')")
    settle(again)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nseen")
    app.execute("ALTER TABLE parent DETACH PARTITION articles")
    assert status_of(index.spec).doubts[0].startswith("the documents table has changed since capture was armed: parent")
    again = open_docs("v1")
    verify.reconcile(again)
    app.execute("UPDATE articles SET body = 'alone again' WHERE id = 1; DELETE FROM articles WHERE id = 2")
    settle(again)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nalone again")
    assert status_of(index.spec).doubts == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ALTER TABLE articles SET UNLOGGED", "public.articles is UNLOGGED"),
        ("CREATE TABLE child () INHERITS (articles)", "Tables inherit from public.articles (public.child)"),
        ("ALTER TABLE articles RENAME COLUMN body TO content", "The documents table public.articles has no column 'body'"),
        ("ALTER TABLE articles RENAME TO posts", "The documents table public.articles does not exist"),
        ("ALTER TABLE articles DROP CONSTRAINT articles_pkey", "The documents table public.articles has no key"),
    ],
)
def test_table_that_becomes_unfit_is_said_everywhere(
    app: psycopg.Connection[Any], open_docs: Open, open_filled: Open, change: str, said: str
) -> None:
    """By who opens the index anew, by `status`, which shows the rest all the same, and as a doubt by who has it open."""
    index = open_filled()
    app.execute(change)  # type: ignore[arg-type]
    with pytest.raises(DocumentsTableError) as refused:
        open_docs("v1")
    assert refused.value.message.startswith(said)
    shown = status_of(index.spec)
    assert shown.doubts[0].startswith(said)
    assert (shown.next.command, shown.next.why) == (None, refused.value.next_step)
    assert [(each.state, each.stored) for each in shown.versions] == [("ready", 60)]
    if "DROP CONSTRAINT" not in change:  # that is what a copy of documents needs, and no change passes the triggers
        with index.connection() as conn:
            assert [doubt.kind for doubt in shape.look(conn, index.source, index.name)] == ["shape"]
    assert len(stored(app, "v1")) == 60


def test_tables_of_ours_that_somebody_dropped_fail_no_statement_of_the_application(
    app: psycopg.Connection[Any], open_docs: Open
) -> None:
    """In a session whose plans are made already, and in a new one. What it says everywhere else: no verb of ours works without them."""
    app.execute("CREATE TABLE parts (LIKE articles INCLUDING ALL) PARTITION BY RANGE (id)")
    index = open_docs("v1", documents={"table": "parts", "key": "id", "text": ["title", "body"]})
    app.execute("CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (100); CREATE TABLE high PARTITION OF parts DEFAULT")
    statements = (
        "INSERT INTO parts (id, title, body) SELECT n, 'a', 'b' FROM generate_series(90, 110) AS n",
        "INSERT INTO low (id, title, body) VALUES (1, 'a', 'b')",
        "UPDATE parts SET body = 'c'",
        "DELETE FROM low WHERE id = 1",
        "DELETE FROM parts WHERE id > 105",
        "TRUNCATE parts",
    )
    for table in ("none", "inbox", "doubts"):
        app.execute(f"DROP TABLE IF EXISTS embed_pipeline.{table} CASCADE")  # type: ignore[arg-type]
        with psycopg.connect(index.url, autocommit=True) as new:
            for conn in (app, new):
                for statement in statements:
                    conn.execute(statement)  # type: ignore[arg-type]
        if table == "inbox":
            row = app.execute("SELECT DISTINCT sqlstate FROM embed_pipeline.doubts WHERE kind = 'capture'").fetchall()
            assert row == [("42P01",)]
    with pytest.raises(CatalogError, match=r"embed_pipeline\.inbox is gone from this database"), failures.as_sentences():
        dual_write.sync(index)


@pytest.mark.parametrize("act", ["DROP TABLE embed_pipeline.schema_version", "DELETE FROM embed_pipeline.schema_version"])
def test_a_catalog_without_its_revision_is_not_made_again_over_what_is_there(
    app: psycopg.Connection[Any], open_docs: Open, act: str
) -> None:
    index = open_docs("v1")
    fill(index, "v1")
    app.execute(act)  # type: ignore[arg-type]
    with pytest.raises(CatalogError, match=r"embed_pipeline\.schema_version is gone from this database, or empty"):
        schema.ensure(app, index.url)
    assert len(stored(app, "v1")) == 60


def test_rules_are_the_applications_own(app: psycopg.Connection[Any], open_docs: Open) -> None:
    """What a rule makes of a statement is a statement, whose changes are seen. One that makes something else of an UPDATE does so with the
    canary too."""
    app.execute(
        "ALTER TABLE articles ADD deleted boolean DEFAULT false;"
        "CREATE RULE soft AS ON DELETE TO articles DO INSTEAD UPDATE articles SET body = NULL, deleted = true WHERE id = OLD.id"
    )
    index = open_docs("v1")
    fill(index, "v1")
    app.execute("DELETE FROM articles WHERE id = 1")
    settle(index)
    assert stored(app, "v1")["1"] == text_hash("title 1")
    app.execute("CREATE RULE never AS ON UPDATE TO articles DO INSTEAD NOTHING")
    assert not verify.reconcile(open_docs("v1")).rearmed


def test_published_tables(app: psycopg.Connection[Any], open_docs: Open) -> None:
    """A publication of all tables asks each for a replica identity, ours too; a table without one takes no UPDATE, with or without us.

    A table of an extension is like any other."""
    app.execute("CREATE PUBLICATION everything FOR ALL TABLES; ALTER EXTENSION vector ADD TABLE articles")
    index = open_docs("v1")
    fill(index, "v1")
    app.execute("UPDATE articles SET body = 'edited' WHERE id = 1; DELETE FROM articles WHERE id = 2")
    settle(index)
    app.execute("ALTER TABLE articles REPLICA IDENTITY NOTHING")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        app.execute("UPDATE articles SET body = 'refused' WHERE id = 1")
    app.execute("INSERT INTO articles (id, title, body) VALUES (100, 'new', 'one'); TRUNCATE articles")
    verify.reconcile(open_docs("v1"))
    settle(index)
    app.execute("ALTER EXTENSION vector DROP TABLE articles")


@pytest.fixture
def owner_url(database_url: str, app: psycopg.Connection[Any]) -> Iterator[str]:
    """An ordinary role that owns the documents and what is ours."""
    role = f"owner_{app.info.dbname}"
    name = sql.Identifier(role)
    app.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'owner'; ALTER TABLE articles OWNER TO {}").format(name, name))
    app.execute("DROP SCHEMA IF EXISTS embed_pipeline CASCADE")
    app.execute(sql.SQL("CREATE SCHEMA embed_pipeline AUTHORIZATION {}").format(name))
    app.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(sql.Identifier(app.info.dbname), name))
    # The extension's settings may be made by anybody once it is loaded.
    app.execute(sql.SQL("GRANT SET ON PARAMETER hnsw.ef_search, hnsw.iterative_scan TO {}").format(name))
    yield f"postgresql://{role}:owner@{database_url.rpartition('@')[2]}"
    app.execute(sql.SQL("DROP OWNED BY {} CASCADE; DROP ROLE {}").format(name, name))


def test_row_security_that_is_forced_later(owner_url: str, app: psycopg.Connection[Any], holdout: Path) -> None:
    """What a policy hides is not gone: nothing is removed, and every verb says why it does nothing."""
    spec = declared(owner_url, holdout, "v1")
    with closing(open_index(spec)) as index:
        fill(index, "v1")
        app.execute("ALTER TABLE articles ENABLE ROW LEVEL SECURITY")
        assert verify.reconcile(index).queued == {"v1": 0}, "an owner is not bound unless it is forced"
        app.execute("UPDATE articles SET body = 'edited' WHERE id = 1; DELETE FROM articles WHERE id = 2")
        app.execute("ALTER TABLE articles FORCE ROW LEVEL SECURITY; CREATE POLICY none ON articles USING (false)")
        with pytest.raises(EmbedPipelineError, match="row-level security"), failures.as_sentences():
            verify.verify(index)
        with pytest.raises(EmbedPipelineError, match="row-level security"), failures.as_sentences():
            verify.reconcile(index)
        (found,) = dual_write.sync(index)
        assert "row-level security" in found.error
        assert found.pending == 2
        assert len(stored(app, "v1")) == 60
    with pytest.raises(DocumentsTableError, match=r"Row security of public\.articles applies to the role owner_"):
        open_index(spec)
    shown = status_of(spec)
    assert shown.doubts[0].startswith("Row security of public.articles applies to the role owner_")
    assert shown.versions[0].stored == 60
    app.execute("ALTER TABLE articles NO FORCE ROW LEVEL SECURITY")
    with closing(open_index(spec)) as index:
        verify.reconcile(index)
        settle(index)
        assert len(stored(app, "v1")) == 59
