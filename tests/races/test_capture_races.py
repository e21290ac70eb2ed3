"""Change capture: whatever the application did before, it can still do, and every change of a text reaches the queue."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import sql

from embed_pipeline import signals
from embed_pipeline.documents import capture, inbox
from embed_pipeline.errors import DocumentsTableError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, dual_write, verify
from tests.harness.articles import at, change, fill, serve, settle, stored, text_hash
from tests.harness.providers.loopback import waited
from tests.races.hands import queued, removed

Open = Callable[..., OpenIndex]

WANTS_THE_TABLE = """
SELECT count(*) FROM pg_locks WHERE relation = 'articles'::regclass AND mode = 'ShareRowExclusiveLock' AND NOT granted
"""


def test_every_kind_of_change_is_carried(app: psycopg.Connection, open_served: Open) -> None:
    index = open_served()
    app.execute("INSERT INTO articles (id, title, body) VALUES (100, 'new', 'one')")
    app.execute("UPDATE articles SET body = 'edited' WHERE id = 1")
    app.execute("DELETE FROM articles WHERE id = 2")
    app.execute("UPDATE articles SET id = 300 WHERE id = 3")
    with app.cursor() as cursor, cursor.copy("COPY articles (id, title, body) FROM STDIN") as copy:
        copy.write_row((400, "copied", "in"))
    app.execute(
        "INSERT INTO articles (id, title, body) VALUES (4, 't', 'upserted'), (500, 't', 'upserted') "
        "ON CONFLICT (id) DO UPDATE SET body = excluded.body"
    )
    app.execute(
        "MERGE INTO articles a USING (VALUES (5, 'merged'), (6, NULL), (600, 'merged')) AS w(id, body) ON a.id = w.id "
        "WHEN MATCHED AND w.body IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET body = w.body "
        "WHEN NOT MATCHED THEN INSERT (id, title, body) VALUES (w.id, 't', w.body)"
    )
    # Keys that swap in one statement are two changes, and no removal.
    app.execute("ALTER TABLE articles DROP CONSTRAINT articles_pkey, ADD PRIMARY KEY (id) DEFERRABLE")
    app.execute("UPDATE articles SET id = 15 - id WHERE id IN (7, 8)")
    assert set(queued(index)) == {"100", "1", "2", "3", "300", "400", "4", "500", "5", "6", "600", "7", "8"}
    assert removed(index) == {"2", "3", "6"}
    settle(index)
    found = stored(app, "v1")
    assert found["1"] == text_hash("title 1\n\nedited")
    assert found["400"] == text_hash("copied\n\nin")
    assert not {"2", "3"} & set(found)


def test_other_columns_are_none_of_our_business(app: psycopg.Connection, open_docs: Open) -> None:
    open_docs("v1")
    app.execute("UPDATE articles SET views = views + 1")
    app.execute("UPDATE articles SET body = body")
    assert app.execute("SELECT count(*) FROM embed_pipeline.inbox").fetchone() == (0,)


def test_trigger_fires_for_derived_column(app: psycopg.Connection, open_docs: Open) -> None:
    """The text is written by the application's own BEFORE trigger; the UPDATE names another column."""
    app.execute(
        "CREATE FUNCTION derive() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.body := 'seen ' || NEW.views || ' times'; RETURN NEW; END $$"
    )
    app.execute("CREATE TRIGGER derive BEFORE UPDATE ON articles FOR EACH ROW EXECUTE FUNCTION derive()")
    index = open_docs("v1")
    fill(index, "v1")
    app.execute("UPDATE articles SET views = 9 WHERE id = 7")
    settle(index)
    assert stored(app, "v1")["7"] == text_hash("title 7\n\nseen 9 times")


def test_truncate_takes_dead_letters_along(app: psycopg.Connection, open_served: Open) -> None:
    """A document that could have no vector has no row among the vectors: its dead letter must not outlive it."""
    index = open_served()
    app.execute("UPDATE articles SET title = '', body = '' WHERE id = 1")
    settle(index)
    assert app.execute("SELECT doc_id FROM embed_pipeline.dead_letters").fetchall() == [("1",)]
    app.execute("TRUNCATE articles")
    settle(index)
    assert app.execute("SELECT doc_id FROM embed_pipeline.dead_letters").fetchall() == []


def test_full_comparison_finds_dead_letters_of_documents_that_are_gone(app: psycopg.Connection, open_served: Open) -> None:
    index = open_served()
    app.execute("UPDATE articles SET title = '', body = '' WHERE id = 1")
    settle(index)
    app.execute("ALTER TABLE articles DISABLE TRIGGER USER")
    app.execute("DELETE FROM articles WHERE id = 1")
    assert verify.reconcile(index).queued == {"v1": 1}
    settle(index)
    assert app.execute("SELECT doc_id FROM embed_pipeline.dead_letters").fetchall() == []


def test_truncate_is_seen(app: psycopg.Connection, open_filled: Open) -> None:
    index = open_filled()
    app.execute("TRUNCATE articles")
    settle(index)
    assert stored(app, "v1") == {}


def test_replicated_changes_are_seen(app: psycopg.Connection, open_filled: Open) -> None:
    """Logical replication applies with session_replication_role = replica, which fires ordinary triggers not at all."""
    index = open_filled()
    app.execute("SET session_replication_role = replica")
    app.execute("UPDATE articles SET body = 'replicated' WHERE id = 1")
    app.execute("DELETE FROM articles WHERE id = 2")
    app.execute("SET session_replication_role = origin")
    settle(index)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nreplicated")
    assert "2" not in stored(app, "v1")


def test_role_without_rights_can_write(app: psycopg.Connection, open_filled: Open) -> None:
    index = open_filled()
    role = sql.Identifier(f"writer_{app.info.dbname}")
    app.execute(sql.SQL("CREATE ROLE {}").format(role))
    try:
        app.execute(sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON articles TO {}").format(role))
        app.execute(sql.SQL("SET ROLE {}").format(role))
        app.execute("INSERT INTO articles (id, title, body) VALUES (100, 'by', 'a plain role')")
        app.execute("UPDATE articles SET body = 'edited' WHERE id = 1")
        app.execute("DELETE FROM articles WHERE id = 2")
        app.execute("RESET ROLE")
        settle(index)
        app.execute(sql.SQL("SET ROLE {}").format(role))
        app.execute("TRUNCATE articles")
    finally:
        app.execute("RESET ROLE")
        app.execute(sql.SQL("DROP OWNED BY {}").format(role))
        app.execute(sql.SQL("DROP ROLE {}").format(role))


def test_repeatable_read_writer_older_than_the_registration(
    app: psycopg.Connection, second_app: psycopg.Connection, open_docs: Open
) -> None:
    """Its snapshot is from before v2, and the capture in its transaction knows no version; who distributes its change does."""
    serve(open_docs("v1"), "v1")
    second_app.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    second_app.execute("SELECT count(*) FROM articles")
    index = open_docs("v1", "v2")
    for key in index.spec.partition_keys():
        backfill.fill_partition(index, "v2", key)
    second_app.execute("UPDATE articles SET body = 'late' WHERE id = 1")
    second_app.commit()
    settle(index)
    assert stored(app, "v2")["1"] == text_hash("title 1\n\nlate")


@pytest.mark.parametrize("level", [psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE])
def test_strict_transactions_never_fail_because_of_us(
    app: psycopg.Connection,
    second_app: psycopg.Connection,
    open_docs: Open,
    level: psycopg.IsolationLevel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Workers distribute, claim and remove rows after the application's snapshot; if capture touched one of those, it would raise 40001."""
    monkeypatch.setattr(inbox, "FLOOR_SECONDS", 0.0)
    index = open_docs("v1")
    fill(index, "v1")
    app.execute("UPDATE articles SET body = 'first' WHERE id IN (1, 2)")
    second_app.isolation_level = level
    second_app.execute("SELECT count(*) FROM articles")
    dual_write.sync(index)
    hands = dual_write.distributor(index)
    with index.connection() as conn:
        for _ in range(3):
            hands.distribute(conn)
    second_app.execute("UPDATE articles SET body = 'second' WHERE id = 1")
    second_app.execute("DELETE FROM articles WHERE id = 2")
    second_app.commit()
    settle(index)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nsecond")
    assert "2" not in stored(app, "v1")


def test_we_are_no_partner_in_a_serializable_conflict(
    database_url: str, app: psycopg.Connection, second_app: psycopg.Connection, open_docs: Open
) -> None:
    """The database's default is serializable. One transaction has read what another one changed, and writes: that alone is allowed. With
    a serializable worker that has looked at the inbox it would be between two others, and fail."""
    name = sql.Identifier(app.info.dbname)
    app.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_isolation = serializable").format(name))
    index = open_docs("v1")
    fill(index, "v1")
    second_app.execute("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE")
    second_app.commit()
    second_app.execute("SELECT body FROM articles WHERE id = 2")
    with psycopg.connect(database_url, autocommit=True) as other:
        assert other.execute("SHOW transaction_isolation").fetchone() == ("serializable",)
        change(other, 2, "changed")
    assert dual_write.sync(index)[0].error == ""
    change(second_app, 1, "written")
    second_app.commit()
    settle(index)


def test_capture_reads_nothing_that_a_serializable_transaction_could_conflict_over(
    app: psycopg.Connection, second_app: psycopg.Connection, open_docs: Open
) -> None:
    """A predicate lock on a table of ours would make two writers of any documents partners. An insert takes none, whatever it is unique by."""
    app.execute("CREATE TABLE parts (id bigint, body text, PRIMARY KEY (id)) PARTITION BY RANGE (id)")
    app.execute("CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (1000)")
    fill(open_docs("v1"), "v1")
    open_docs("v1", name="more", documents={"table": "parts", "key": "id", "text": "body"})
    app.execute("CREATE TABLE later PARTITION OF parts FOR VALUES FROM (1000) TO (2000)")
    second_app.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    for statement in (
        "INSERT INTO articles (id, title, body) SELECT n, 'new', 'new' FROM generate_series(1001, 1010) AS n",
        "UPDATE articles SET body = 'edited' WHERE id = 1",
        "UPDATE articles SET id = id + 5000 WHERE id > 1005",
        "DELETE FROM articles WHERE id = 2",
        "INSERT INTO parts SELECT n, 'new' FROM generate_series(995, 1005) AS n",
        "UPDATE parts SET id = id + 500 WHERE id = 995",
        "UPDATE parts SET body = 'edited'; DELETE FROM parts WHERE id = 1001",
        "TRUNCATE articles; TRUNCATE parts",
    ):
        second_app.execute(statement)  # type: ignore[arg-type]
        locks = app.execute(
            "SELECT l.relation::regclass::text FROM pg_locks l JOIN pg_class c ON c.oid = l.relation "
            "WHERE l.mode = 'SIReadLock' AND c.relnamespace IN ('embed_pipeline'::regnamespace, 'pg_catalog'::regnamespace) "
            "AND l.pid = %s",
            (second_app.info.backend_pid,),
        ).fetchall()
        assert locks == [], statement
    second_app.commit()
    assert app.execute("SELECT count(DISTINCT index_name) FROM embed_pipeline.inbox").fetchone() == (2,)


def test_registration_of_an_index_waits_for_writers_in_flight(
    app: psycopg.Connection, second_app: psycopg.Connection, open_docs: Open
) -> None:
    """A writer that began before there were triggers commits a change that neither inbox nor backfill would see."""
    second_app.execute("UPDATE articles SET body = 'in flight' WHERE id = 1")
    with ThreadPoolExecutor(1) as pool:
        registering = pool.submit(open_docs, "v1")
        waited(lambda: app.execute(WANTS_THE_TABLE).fetchone() == (1,), "nobody asked for the table")
        assert not registering.done()
        second_app.commit()
        index = registering.result(timeout=30)
    fill(index, "v1")
    settle(index)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nin flight")


def test_registering_a_version_takes_no_lock_on_the_documents(
    app: psycopg.Connection, second_app: psycopg.Connection, open_docs: Open
) -> None:
    """Capture knows no versions. A writer in flight is neither waited for nor forgotten, and writers go on beside the transaction."""
    serve(open_docs("v1"), "v1")
    second_app.execute("UPDATE articles SET body = 'in flight' WHERE id = 1")
    held: list[tuple[str, ...]] = []

    def look() -> None:
        held.extend(
            app.execute("SELECT mode FROM pg_locks WHERE relation = 'articles'::regclass AND pid <> %s", [writer]).fetchall()
        )
        change(app, 2, "beside it")

    writer = second_app.info.backend_pid
    at("register.registering", look)
    index = open_docs("v1", "v2")
    assert held == []
    fill(index, "v2")
    second_app.commit()
    settle(index)
    assert stored(app, "v2")["1"] == text_hash("title 1\n\nin flight")


def test_backfill_refuses_while_capture_is_off(app: psycopg.Connection, open_docs: Open) -> None:
    index = open_docs("v1")
    app.execute("ALTER TABLE articles DISABLE TRIGGER embed_pipeline_docs_update")
    with pytest.raises(DocumentsTableError, match=r"embed_pipeline_docs_update.*gone or disabled"):
        backfill.fill_partition(index, "v1", "00")
    assert stored(app, "v1") == {}


def test_canary_sees_a_trigger_that_does_nothing(app: psycopg.Connection, open_docs: Open) -> None:
    """The trigger is there and enabled; only a change that really arrives proves that it works."""
    index = open_docs("v1")
    app.execute(
        "CREATE OR REPLACE FUNCTION embed_pipeline.capture_docs_update() RETURNS trigger LANGUAGE plpgsql "
        "AS $$ BEGIN RETURN NULL; END $$"
    )
    with pytest.raises(DocumentsTableError, match="did not reach the inbox"):
        backfill.fill_partition(index, "v1", "00")


def test_canary_tells_our_broken_trigger_from_the_applications_rules(app: psycopg.Connection, open_docs: Open) -> None:
    """An error of our own function is no rule of the application's: it must not pass for a live dual-write."""
    index = open_docs("v1")
    app.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'read only'; END $$; "
        "CREATE TRIGGER refuse BEFORE UPDATE ON articles FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    backfill.fill_partition(index, "v1", "00")
    app.execute("DROP TRIGGER refuse ON articles")
    app.execute(
        "CREATE OR REPLACE FUNCTION embed_pipeline.capture_docs_update() RETURNS trigger LANGUAGE plpgsql "
        "AS $$ BEGIN RAISE EXCEPTION 'broken'; END $$"
    )
    # The proof is made once for each handle.
    with pytest.raises(DocumentsTableError, match=r"its own trigger fails \(broken\)"):
        backfill.fill_partition(open_docs("v1"), "v1", "01")


def test_canary_tells_a_capture_that_failed(app: psycopg.Connection, open_docs: Open) -> None:
    """What goes wrong while ids are gathered becomes a doubt; the canary's goes away with it, and the backfill says what it was."""
    index = open_docs("v1")
    app.execute("ALTER TABLE articles RENAME COLUMN body TO words")
    with (
        index.connection() as conn,
        pytest.raises(DocumentsTableError, match=r"its own trigger fails \(column o\.body does not exist\)"),
    ):
        capture.prove_live(conn, index.source, "docs")


def test_full_comparison_repairs_what_no_trigger_saw(app: psycopg.Connection, open_served: Open) -> None:
    index = open_served()
    app.execute("ALTER TABLE articles DISABLE TRIGGER USER")
    app.execute("UPDATE articles SET body = 'unseen' WHERE id = 1")
    app.execute("DELETE FROM articles WHERE id = 2")
    app.execute("INSERT INTO articles (id, title, body) VALUES (100, 'unseen', 'too')")
    app.execute("ALTER TABLE articles ENABLE TRIGGER USER")
    coverage = verify.verify(index)["v1"]
    assert (coverage.stale, coverage.orphaned, coverage.missing) == (1, 1, 1)
    assert verify.reconcile(index).queued == {"v1": 3}
    settle(index)


def test_partitioned_table_with_direct_writes_and_attach(database_url: str, app: psycopg.Connection, open_docs: Open) -> None:
    app.execute("DROP TABLE articles")
    app.execute("CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text) PARTITION BY RANGE (id)")
    app.execute("CREATE TABLE low PARTITION OF articles FOR VALUES FROM (0) TO (50)")
    app.execute("CREATE TABLE high PARTITION OF articles FOR VALUES FROM (50) TO (100)")
    app.execute("INSERT INTO articles SELECT n, 'title ' || n, 'body ' || n FROM generate_series(1, 60) AS n")
    index = open_docs("v1")
    fill(index, "v1")
    app.execute("UPDATE low SET body = 'directly' WHERE id = 1")
    app.execute("INSERT INTO high VALUES (70, 'directly', 'inserted')")
    app.execute("DELETE FROM high WHERE id = 51")
    settle(index)
    app.execute("CREATE TABLE more (LIKE articles INCLUDING ALL)")
    app.execute("ALTER TABLE articles ATTACH PARTITION more FOR VALUES FROM (100) TO (200)")
    app.execute("INSERT INTO more VALUES (150, 'in a partition', 'that was attached later')")
    app.execute("TRUNCATE low")
    settle(index)
    assert stored(app, "v1")["150"] == text_hash("in a partition\n\nthat was attached later")


@pytest.mark.parametrize(
    ("columns", "key", "values"),
    [
        ("id uuid PRIMARY KEY", "id", "md5(n::text)::uuid"),
        ("id text PRIMARY KEY", "id", "'document ' || n"),
        ("id timestamptz PRIMARY KEY", "id", "'2026-01-01'::timestamptz + n * interval '1 hour'"),
        ("id numeric(9, 2) PRIMARY KEY", "id", "n / 4.0"),
        ("a integer NOT NULL, b text NOT NULL, PRIMARY KEY (a, b)", ["a", "b"], "n, 'part \"' || n % 3"),
    ],
)
def test_keys_of_any_type(app: psycopg.Connection, open_docs: Open, columns: str, key: object, values: str) -> None:
    app.execute("DROP TABLE articles")
    app.execute(f"CREATE TABLE articles ({columns}, title text)")
    app.execute(f"INSERT INTO articles SELECT {values}, 'title ' || n FROM generate_series(1, 40) AS n")
    index = open_docs("v1", documents={"table": "articles", "key": key, "text": "title"})
    app.execute("SET TimeZone = 'Asia/Kolkata'; SET DateStyle = 'German'")
    fill(index, "v1")
    app.execute("UPDATE articles SET title = 'edited' WHERE title = 'title 7'")
    app.execute("DELETE FROM articles WHERE title = 'title 8'")
    settle(index)
    assert len(stored(app, "v1")) == 39


def test_two_indexes_over_one_table(app: psycopg.Connection, open_docs: Open, database_url: str) -> None:
    first, second = open_docs("v1"), open_docs("v1", name="other")
    fill(first, "v1")
    fill(second, "v1")
    app.execute("UPDATE articles SET body = 'edited' WHERE id = 1")
    for index in (first, second):
        settle(index)


def test_two_processes_register_one_version(app: psycopg.Connection, open_docs: Open) -> None:
    """Both find it new; the second one comes to the lock when the first one is done, and takes the version as it is."""
    both: list[OpenIndex] = []

    def first() -> None:
        signals.forget_all()
        both.append(open_docs("v1"))

    signals.listen("register.cut", first)
    both.append(open_docs("v1"))
    assert app.execute("SELECT count(*) FROM embed_pipeline.events WHERE event = 'register'").fetchone() == (1,)
    for index in both:
        with index.connection() as conn:
            assert index.version(conn, "v1").state == "building"


def test_writers_are_let_through_while_registration_waits(
    app: psycopg.Connection, second_app: psycopg.Connection, open_docs: Open
) -> None:
    """Our lock request gives up after its timeout, so a writer queued behind it goes on although a long one still runs."""
    second_app.execute("UPDATE articles SET body = 'long' WHERE id = 1")
    thread = threading.Thread(target=open_docs, args=("v1",))
    thread.start()
    waited(lambda: app.execute(WANTS_THE_TABLE).fetchone() == (1,), "nobody asked for the table")
    app.execute("SET lock_timeout = '10s'")
    for n in range(10, 20):
        app.execute("UPDATE articles SET body = 'short' WHERE id = %s", (n,))
    second_app.commit()
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_signals_cost_nothing_and_are_forgotten() -> None:
    signals.listen("register.locked", lambda: None)
    signals.forget_all()
    signals.signal("register.locked")
