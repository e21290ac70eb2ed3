"""Change capture for versions whose vectors are not in this database: the queue alone has to carry everything."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from embed_pipeline.catalog import schema
from embed_pipeline.documents import capture
from embed_pipeline.documents.capture import CapturedVersion
from embed_pipeline.documents.source import Source, inspect
from embed_pipeline.errors import DocumentsTableError
from embed_pipeline.spec import DocumentsSpec

ELSEWHERE = CapturedVersion("far", payload=True)
TEXT_ONLY = CapturedVersion("plain")


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


def install(conn: psycopg.Connection, *versions: CapturedVersion) -> Source:
    declared = DocumentsSpec(table="articles", key="id", text=["title", "body"], payload="tag", payload_object="extra")  # type: ignore[arg-type]
    source = inspect(conn, declared)
    with conn.transaction():
        capture.lock(conn, source)
        capture.install(conn, source, "docs", versions)
    return source


def queued(conn: psycopg.Connection, version: str = "far") -> list[str]:
    """Ids queued for the version since the last look, each as often as it was queued."""
    rows = conn.execute("DELETE FROM embed_pipeline.change_queue WHERE version = %s RETURNING doc_id", (version,)).fetchall()
    return sorted(doc_id for (doc_id,) in rows)


def test_truncate_queues_what_is_about_to_go(articles: psycopg.Connection) -> None:
    """Afterwards nothing in this database remembers which documents there were."""
    install(articles, ELSEWHERE)
    articles.execute("TRUNCATE articles")
    assert queued(articles) == sorted(str(n) for n in range(1, 61))


def test_truncate_of_a_partition_queues_its_documents_alone(partitioned: psycopg.Connection) -> None:
    install(partitioned, ELSEWHERE)
    partitioned.execute("TRUNCATE low")
    assert queued(partitioned) == ["48", "49"]


def test_truncate_of_all_partitions_reaches_one_that_was_attached_later(partitioned: psycopg.Connection) -> None:
    """It has no such trigger of its own, so the others answer for it."""
    install(partitioned, ELSEWHERE)
    partitioned.execute("CREATE TABLE more (LIKE articles INCLUDING ALL)")
    partitioned.execute("ALTER TABLE articles ATTACH PARTITION more FOR VALUES FROM (100) TO (200)")
    partitioned.execute("INSERT INTO articles (id, title) VALUES (150, 'attached later')")
    assert queued(partitioned) == ["150"]
    partitioned.execute("TRUNCATE articles")
    assert set(queued(partitioned)) == {"150", "48", "49", "50", "51"}


def test_truncate_after_the_last_such_version_is_gone_queues_nothing(articles: psycopg.Connection) -> None:
    """The trigger may stay behind; what it calls has nothing to do."""
    install(articles, ELSEWHERE)
    install(articles)
    articles.execute("TRUNCATE articles")
    assert articles.execute("SELECT count(*) FROM embed_pipeline.change_queue").fetchone() == (0,)


def test_deletes_and_new_keys_are_carried_by_the_queue(articles: psycopg.Connection) -> None:
    install(articles, ELSEWHERE, TEXT_ONLY)
    articles.execute("DELETE FROM articles WHERE id = 1")
    articles.execute("UPDATE articles SET id = 100 WHERE id = 2")
    for version in ("far", "plain"):
        assert queued(articles, version) == ["1", "100", "2"]


@pytest.mark.parametrize("table", ["articles", "partitioned"])
def test_changed_payload_is_a_change(request: pytest.FixtureRequest, table: str) -> None:
    """Filters would find the document by what it no longer is. A version that carries no payload has nothing to do."""
    conn: psycopg.Connection = request.getfixturevalue(table)
    install(conn, ELSEWHERE, TEXT_ONLY)
    conn.execute("UPDATE articles SET tag = 'new' WHERE id = 49")
    conn.execute("""UPDATE articles SET extra = '{"lang": "de"}' WHERE id = 50""")
    assert queued(conn) == ["49", "50"]
    assert queued(conn, "plain") == []
    conn.execute("UPDATE articles SET tag = 'new', body = 'edited' WHERE id = 51")
    assert (queued(conn), queued(conn, "plain")) == (["51"], ["51"])
    conn.execute("UPDATE articles SET tag = tag, extra = extra")
    assert (queued(conn), queued(conn, "plain")) == ([], [])


def test_replicated_change_of_the_payload_is_a_change(articles: psycopg.Connection) -> None:
    install(articles, ELSEWHERE, TEXT_ONLY)
    articles.execute("SET session_replication_role = replica")
    articles.execute("UPDATE articles SET tag = 'new' WHERE id = 7")
    articles.execute("SET session_replication_role = origin")
    assert (queued(articles), queued(articles, "plain")) == (["7"], [])


def test_backfill_is_refused_without_the_trigger_before_truncate(articles: psycopg.Connection) -> None:
    source = install(articles, ELSEWHERE)
    assert capture.disarmed(articles, source, "docs", [ELSEWHERE]) == []
    capture.prove_live(articles, source, "docs", ELSEWHERE)
    articles.execute("DROP TRIGGER embed_pipeline_docs_before_truncate ON articles")
    assert capture.disarmed(articles, source, "docs", [ELSEWHERE]) == ["articles.embed_pipeline_docs_before_truncate"]
    with pytest.raises(DocumentsTableError, match="embed_pipeline_docs_before_truncate are gone or disabled"):
        capture.prove_live(articles, source, "docs", ELSEWHERE)


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
