"""Change capture for versions whose vectors are not in this database: the inbox alone has to carry everything, the payload too."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from embed_pipeline.catalog import schema
from embed_pipeline.documents import capture
from embed_pipeline.documents.inbox import Distributor
from embed_pipeline.documents.source import Source, inspect
from embed_pipeline.errors import DocumentsTableError
from embed_pipeline.spec import DocumentsSpec
from tests.database.migrate.test_declared_store import insert_version


@pytest.fixture
def articles(app: psycopg.Connection, database_url: str) -> psycopg.Connection:
    """The application's connection; its articles carry tags and an object, and the catalog is there."""
    schema.ensure(app, database_url)
    app.execute("ALTER TABLE articles ADD COLUMN tag text, ADD COLUMN extra jsonb NOT NULL DEFAULT '{}'")
    return app


@pytest.fixture
def partitioned(app: psycopg.Connection, database_url: str) -> psycopg.Connection:
    """The articles in two partitions."""
    schema.ensure(app, database_url)
    app.execute("DROP TABLE articles")
    app.execute(
        "CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text, tag text, extra jsonb) PARTITION BY RANGE (id)"
    )
    app.execute("CREATE TABLE low PARTITION OF articles FOR VALUES FROM (0) TO (50)")
    app.execute("CREATE TABLE high PARTITION OF articles FOR VALUES FROM (50) TO (100)")
    app.execute("INSERT INTO articles SELECT n, 'title ' || n, 'body ' || n FROM generate_series(48, 51) AS n")
    return app


def install(conn: psycopg.Connection, *, payload: bool = True) -> Source:
    declared = DocumentsSpec(table="articles", key="id", text=["title", "body"], payload="tag", payload_object="extra")  # type: ignore[arg-type]
    source = inspect(conn, declared)
    with conn.transaction():
        capture.lock(conn, source)
        capture.install(conn, source, "docs", payload=payload)
    return source


def left(conn: psycopg.Connection, *, removed: bool = False) -> list[str]:
    """Ids of documents that have changed, or are gone, since the last look, each as often as it was left in the inbox."""
    rows = conn.execute("DELETE FROM embed_pipeline.inbox WHERE removed = %s RETURNING doc_ids", (removed,)).fetchall()
    return sorted(doc_id for (doc_ids,) in rows for doc_id in doc_ids)


def expanded(conn: psycopg.Connection, source: Source, *stored: list[str]) -> dict[str, bool]:
    """What is pending for a version of which this is stored, once everything is distributed: id -> whether it was announced as removed."""
    conn.execute(
        "INSERT INTO embed_pipeline.indexes (index_name, documents_table, key_columns, text_columns, store) "
        """VALUES ('docs', 'articles', '{id}', '{title,body}', '{"kind": "qdrant"}')"""
    )
    insert_version(conn, "docs", "far")

    def portions(conn: psycopg.Connection, version: str) -> Iterator[list[str]]:
        return iter(stored)

    Distributor("docs", source, lambda conn: ["far"], portions).distribute(conn)
    return dict(conn.execute("SELECT doc_id, removed FROM embed_pipeline.pending WHERE version = 'far'").fetchall())


def test_truncate_announces_what_the_store_holds(articles: psycopg.Connection) -> None:
    """Nothing in this database remembers which documents there were; what was loaded again is there."""
    source = install(articles)
    articles.execute("BEGIN; TRUNCATE articles; INSERT INTO articles (id, title) VALUES (2, 'again'); COMMIT")
    assert expanded(articles, source, ["1", "2"], ["3"]) == {"1": True, "2": False, "3": True}


def test_truncate_of_a_partition_announces_its_documents_alone(partitioned: psycopg.Connection) -> None:
    source = install(partitioned)
    partitioned.execute("TRUNCATE low")
    assert expanded(partitioned, source, ["48", "49", "50", "51"]) == {"48": True, "49": True}


def test_truncate_of_all_partitions_reaches_one_that_was_attached_later(partitioned: psycopg.Connection) -> None:
    """It has no such trigger of its own, and the table's own says enough: whatever is no longer there."""
    source = install(partitioned)
    partitioned.execute("CREATE TABLE more (LIKE articles INCLUDING ALL)")
    partitioned.execute("ALTER TABLE articles ATTACH PARTITION more FOR VALUES FROM (100) TO (200)")
    partitioned.execute("INSERT INTO articles (id, title) VALUES (150, 'attached later')")
    # By the table's trigger for statements and by its own for rows, until it is armed as the others are.
    assert set(left(partitioned)) == {"150"}
    partitioned.execute("TRUNCATE articles")
    assert expanded(partitioned, source, ["48", "150"]) == {"48": True, "150": True}


def test_deletes_and_new_keys_are_carried_by_the_inbox(articles: psycopg.Connection) -> None:
    install(articles)
    articles.execute("DELETE FROM articles WHERE id = 1")
    articles.execute("UPDATE articles SET id = 100 WHERE id = 2")
    assert (left(articles, removed=True), left(articles)) == (["1", "2"], ["100"])


@pytest.mark.parametrize("table", ["articles", "partitioned"])
@pytest.mark.parametrize("payload", [True, False])
def test_changed_payload_is_a_change(request: pytest.FixtureRequest, table: str, payload: bool) -> None:
    """Filters would find the document by what it no longer is. Where no store carries a payload, nothing has to be done."""
    conn: psycopg.Connection = request.getfixturevalue(table)
    install(conn, payload=payload)
    conn.execute("UPDATE articles SET tag = 'new' WHERE id = 49")
    conn.execute("""UPDATE articles SET extra = '{"lang": "de"}' WHERE id = 50""")
    assert left(conn) == (["49", "50"] if payload else [])
    conn.execute("UPDATE articles SET tag = 'new', body = 'edited' WHERE id = 51")
    assert left(conn) == ["51"]
    conn.execute("UPDATE articles SET tag = tag, extra = extra")
    assert left(conn) == []


def test_replicated_change_of_the_payload_is_a_change(articles: psycopg.Connection) -> None:
    install(articles)
    articles.execute("SET session_replication_role = replica")
    articles.execute("UPDATE articles SET tag = 'new' WHERE id = 7")
    articles.execute("SET session_replication_role = origin")
    assert left(articles) == ["7"]


def test_backfill_is_refused_without_the_trigger_for_truncate(articles: psycopg.Connection) -> None:
    source = install(articles)
    assert capture.disarmed(articles, source, "docs") == []
    capture.prove_live(articles, source, "docs")
    articles.execute("DROP TRIGGER embed_pipeline_docs_truncate ON articles")
    assert capture.disarmed(articles, source, "docs") == ["articles.embed_pipeline_docs_truncate"]
    with pytest.raises(DocumentsTableError, match="embed_pipeline_docs_truncate are gone or disabled"):
        capture.prove_live(articles, source, "docs")


def test_payload_is_the_object_and_over_it_the_columns(articles: psycopg.Connection) -> None:
    source = install(articles)
    articles.execute("""UPDATE articles SET tag = 'a', extra = '{"tag": "hidden", "lang": "de"}' WHERE id = 1""")
    articles.execute("UPDATE articles SET extra = '[1, 2]' WHERE id = 2")
    parts = source.parts()
    query = sql.SQL("SELECT {payload} FROM {documents} AS d WHERE id <= 2 ORDER BY id").format(**parts)
    assert [payload for (payload,) in articles.execute(query)] == [{"tag": "a", "lang": "de"}, {"tag": None}]


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"payload": ["missing"]}, "has no column 'missing' for the payload"),
        ({"payload_object": "tag"}, "takes a jsonb column"),
    ],
)
def test_payload_that_cannot_be_read_is_refused(articles: psycopg.Connection, declared: dict[str, object], words: str) -> None:
    wanted = DocumentsSpec.model_validate({"table": "articles", "key": "id", "text": "body"} | declared)
    with pytest.raises(DocumentsTableError, match=words):
        inspect(articles, wanted)
