"""Search beside a changing table: what is gone is in no answer, what is there is missing from none, and no search waits for the application."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.abc import Query

from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import dual_write
from embed_pipeline.postgres.queries import Cursor
from tests.harness.articles import DOCUMENTS, at, counted, fill, settle, stored
from tests.harness.fakes import asked_texts
from tests.harness.postgres.seen import wait_until
from tests.races.hands import distribute, queued, removed, working

Open = Callable[..., OpenIndex]
ALL = {str(number) for number in range(1, DOCUMENTS + 1)}


def search(index: OpenIndex, text: str = "title 1\n\nbody 1", k: int = DOCUMENTS, *, exact: bool = False) -> list[str]:
    """What the store answers, nearest first."""
    with index.connection() as conn:
        version = index.version(conn, "v1")
        query = index.embedder_of(version).embed_query(text)
        return [hit.doc_id for hit in index.store(version).search(conn, query, k, exact=exact)]


def search_in_sql(index: OpenIndex, text: str = "title 1\n\nbody 1", k: int = DOCUMENTS) -> list[str]:
    """The same by the function for SQL."""
    with index.connection() as conn:
        version = index.version(conn, "v1")
        query = index.embedder_of(version).embed_query(text)
        rows = conn.execute(
            "SELECT doc_id FROM embed_pipeline.search('docs', 'v1', %s, %s::public.vector, %s)",
            (version.fingerprint, str([float(each) for each in query]), k),
        )
        return [doc_id for (doc_id,) in rows]


SEARCHES = pytest.mark.parametrize("ask", [search, search_in_sql])
Ask = Callable[..., list[str]]


@pytest.fixture
def index(open_docs: Open) -> OpenIndex:
    """v1, filled."""
    index = open_docs("v1")
    fill(index, "v1")
    return index


@SEARCHES
def test_deleted_document_is_in_no_answer(
    app: psycopg.Connection, second_app: psycopg.Connection, index: OpenIndex, ask: Ask
) -> None:
    """From its commit on, whoever has its removal in hand: the application, the inbox, a distributor, a worker, and the table of vectors."""
    second_app.execute("DELETE FROM articles WHERE id = 1")
    assert ask(index, k=5)[0] == "1"
    second_app.commit()
    moments: list[str] = []

    def hidden(moment: str) -> None:
        moments.append(moment)
        answer = ask(index, k=5)
        assert len(answer) == 5
        assert "1" not in answer, moment

    hidden("inbox")
    for moment in ("inbox.distributing", "inbox.announced", "dual_write.claimed", "dual_write.read", "settle.locked"):
        at(moment, lambda moment=moment: hidden(moment))  # type: ignore[misc]
    settle(index)
    hidden("done")
    assert len(moments) == 7


@SEARCHES
def test_removal_that_is_worked_off_between_two_looks(app: psycopg.Connection, index: OpenIndex, ask: Ask) -> None:
    """A hit was doubted in the snapshot that it was found in, and is worked off before it is looked up."""
    app.execute("DELETE FROM articles WHERE id = 1")
    distribute(index)
    at("search.found", lambda: settle(index))
    assert "1" not in ask(index, k=5)
    assert "1" not in ask(index, k=5)


def test_one_statement_for_a_search(app: psycopg.Connection, index: OpenIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a second one for hits that are doubted. What was not enough while many are gone is asked for at once the next time."""
    search(index, k=3)
    statements: list[object] = []
    execute = Cursor.execute

    def counted_execute(self: Cursor, query: Query, *given: Any, **options: Any) -> Cursor:
        statements.append(query)
        return execute(self, query, *given, **options)

    with index.connection() as conn:
        version = index.version(conn, "v1")
        store, query = index.store(version), index.embedder_of(version).embed_query("title 1\n\nbody 1")
        monkeypatch.setattr(Cursor, "execute", counted_execute)

        def asked() -> int:
            statements.clear()
            assert len(store.search(conn, query, 3)) == 3
            return len(statements)

        assert asked() == 1
        nearest = [hit.doc_id for hit in store.search(conn, query, 2)]
        app.execute("DELETE FROM articles WHERE id = ANY (%s::bigint[])", (nearest,))
        assert (asked(), asked()) == (4, 2)
        settle(index)
        asked()
        assert asked() == 1


@SEARCHES
def test_capture_that_failed_on_a_delete(app: psycopg.Connection, index: OpenIndex, ask: Ask) -> None:
    """No removal is announced; the doubt that the failure left makes every search look at all of its hits."""
    break_capture(app, "delete")
    app.execute("DELETE FROM articles WHERE id IN (1, 2, 3)")
    assert app.execute("SELECT count(*) FROM embed_pipeline.inbox").fetchone() == (0,)
    assert set(ask(index)) == ALL - {"1", "2", "3"}
    assert len(ask(index, k=7)) == 7


def break_capture(app: psycopg.Connection, kind: str) -> None:
    """Make the gathering of one kind of statement fail, as by a column that is gone."""
    row = app.execute("SELECT pg_get_functiondef(%s::regproc)", (f"embed_pipeline.capture_docs_{kind}",)).fetchone()
    assert row is not None
    broken = row[0].replace("array_agg(", "array_agg((1 / 0)::text || ", 1)
    assert broken != row[0]
    app.execute(broken)


@SEARCHES
def test_delete_and_insert_of_the_same_in_one_transaction(
    app: psycopg.Connection, open_docs: Open, tmp_path: Path, ask: Ask
) -> None:
    """Nothing disappears from an answer, whoever has the removal in hand, and no text is embedded again."""
    calls = tmp_path / "calls"
    index = open_docs(versions={"v1": counted(calls)})
    fill(index, "v1")
    asked = len(asked_texts(calls))
    with app.transaction():
        app.execute("CREATE TEMPORARY TABLE kept AS SELECT * FROM articles")
        app.execute("DELETE FROM articles")
        app.execute("INSERT INTO articles SELECT * FROM kept")
    complete_at_every_moment(index, ask)
    assert queued(index) == []
    assert len([text for text in asked_texts(calls)[asked:] if text != "title 1 body 1"]) == 0


@SEARCHES
def test_truncate_and_reload(app: psycopg.Connection, open_docs: Open, tmp_path: Path, ask: Ask) -> None:
    calls = tmp_path / "calls"
    index = open_docs(versions={"v1": counted(calls)})
    fill(index, "v1")
    asked = len(asked_texts(calls))
    with app.transaction():
        app.execute("CREATE TEMPORARY TABLE kept AS SELECT * FROM articles")
        app.execute("TRUNCATE articles")
        app.execute("INSERT INTO articles SELECT * FROM kept")
    complete_at_every_moment(index, ask)
    assert len([text for text in asked_texts(calls)[asked:] if text != "title 1 body 1"]) == 0


def complete_at_every_moment(index: OpenIndex, ask: Ask) -> None:
    """Work everything off, and search at each moment of it: all documents are found."""
    found: list[tuple[str, set[str]]] = [("before", set(ask(index)))]
    moments = ("inbox.announced", "inbox.known", "dual_write.claimed", "dual_write.read", "settle.locked")
    for moment in moments:
        at(moment, lambda moment=moment: found.append((moment, set(ask(index)))))  # type: ignore[misc]
    settle(index)
    found.append(("after", set(ask(index))))
    assert [moment for moment, answer in found if answer != ALL] == []
    assert len(found) > 5


@SEARCHES
def test_removals_that_were_deleted_and_came_back_with_another_text(app: psycopg.Connection, index: OpenIndex, ask: Ask) -> None:
    """A document that is pending as removed and is there again is found by its old vector until it is embedded."""
    app.execute("DELETE FROM articles WHERE id = 1")
    app.execute("INSERT INTO articles (id, title, body) VALUES (1, 'title 1', 'reborn')")
    distribute(index)
    assert removed(index) == {"1"}
    assert set(ask(index)) == ALL


@pytest.mark.parametrize("statement", ["TRUNCATE articles", "ALTER TABLE articles ADD COLUMN more text"])
@pytest.mark.parametrize("waiting", ["nothing", "removals", "a truncate"])
@SEARCHES
def test_search_beside_an_open_truncate_or_alter(
    app: psycopg.Connection, second_app: psycopg.Connection, index: OpenIndex, ask: Ask, statement: str, waiting: str
) -> None:
    """The application has its table for itself. A search waits for no longer than its own lock_timeout, and what it cannot look up is
    hidden where it is announced as removed."""
    if waiting == "removals":
        app.execute("DELETE FROM articles WHERE id = 1")
        distribute(index)
    if waiting == "a truncate":
        app.execute("TRUNCATE articles")
        app.execute("INSERT INTO articles (id, title, body) VALUES (7, 'title 7', 'body 7')")
    second_app.execute(statement)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask, index)
        try:
            answer = asking.result(timeout=20)
        except TimeoutError:
            second_app.rollback()
            raise
    assert not second_app.closed
    assert second_app.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS, "it waited for the application to end"
    expected = {"nothing": ALL, "removals": ALL - {"1"}, "a truncate": set()}
    assert set(answer) == expected[waiting]


@SEARCHES
def test_documents_table_that_is_gone_under_another_name(app: psycopg.Connection, index: OpenIndex, ask: Ask) -> None:
    """Nothing can be looked up: what is announced as removed is hidden, everything else is found, and no search fails."""
    app.execute("DELETE FROM articles WHERE id = 1")
    distribute(index)
    app.execute("ALTER TABLE articles RENAME TO elsewhere")
    assert set(ask(index)) == ALL - {"1"}
    app.execute("INSERT INTO embed_pipeline.doubts (index_name, kind, reason) VALUES ('docs', 'shape', 'made by the test')")
    assert set(ask(index)) == ALL - {"1"}
    app.execute("ALTER TABLE elsewhere RENAME TO articles")


def test_search_that_began_before_a_reload_was_committed(
    app: psycopg.Connection, second_app: psycopg.Connection, index: OpenIndex
) -> None:
    """It looks its hits up with a snapshot of its own: one of the time when it began would see an empty table, in which nothing is there."""
    second_app.execute("CREATE TEMPORARY TABLE kept AS SELECT * FROM articles")
    app.execute("DELETE FROM articles WHERE id = 60")
    second_app.execute("TRUNCATE articles")
    second_app.execute("INSERT INTO articles SELECT * FROM kept")
    at("search.found", second_app.commit)
    assert len(search(index, k=10)) == 10


def test_lookup_of_gone_documents_is_volatile(app: psycopg.Connection, second_app: psycopg.Connection, index: OpenIndex) -> None:
    """One statement in SQL that began before the reload was committed, and waits for it: 10 of 10 with a snapshot of the function's own,
    none with the statement's."""
    with index.connection() as conn:
        version = index.version(conn, "v1")
        query = str([float(each) for each in index.embedder_of(version).embed_query("title 1")])
    app.execute("TRUNCATE embed_pipeline.doubts")
    app.execute("INSERT INTO embed_pipeline.doubts (index_name, kind, reason) VALUES ('docs', 'capture', 'made by the test')")
    second_app.execute("CREATE TEMPORARY TABLE kept AS SELECT * FROM articles")
    second_app.execute("TRUNCATE articles")
    second_app.execute("INSERT INTO articles SELECT * FROM kept")
    app.execute("SELECT pg_advisory_lock(11)")
    statement = (
        "WITH held AS MATERIALIZED (SELECT pg_advisory_lock_shared(11)) SELECT count(*) FROM held, "
        "LATERAL embed_pipeline.search('docs', 'v1', %s, %s::public.vector, 10)"
    )

    def ask() -> tuple[int, ...] | None:
        with psycopg.connect(index.url, autocommit=True) as conn:
            return conn.execute(statement, (version.fingerprint, query)).fetchone()

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        while app.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 11 AND NOT granted"
        ).fetchone() == (0,):
            assert not asking.done(), asking.result()
        second_app.commit()
        app.execute("SELECT pg_advisory_unlock(11)")
        assert asking.result(timeout=30) == (10,)


@SEARCHES
def test_many_removals_that_are_worked_off_under_an_old_snapshot(
    app: psycopg.Connection, second_app: psycopg.Connection, index: OpenIndex, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VACUUM cannot take their entries away: a search begins above them, where whatever is still to be looked at begins."""
    monkeypatch.setattr("embed_pipeline.documents.inbox.FLOOR_SECONDS", 0.0)
    second_app.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    second_app.execute("SELECT count(*) FROM embed_pipeline.pending")
    app.execute("DELETE FROM articles WHERE id > 10")
    settle(index)
    hands = dual_write.distributor(index)
    last = app.execute("SELECT last_value FROM embed_pipeline.change_seq").fetchone()
    with index.connection() as conn:

        def floor_is_there() -> bool:
            # Any transaction of the server that is under way holds the floors back for a moment.
            hands.distribute(conn)
            return conn.execute("SELECT removal_floor FROM embed_pipeline.indexes").fetchone() == last

        wait_until(floor_is_there, "the floor stands above what was worked off")
    app.execute("DELETE FROM articles WHERE id = 1")
    assert set(ask(index)) == {str(number) for number in range(2, 11)}
    distribute(index)
    assert set(ask(index)) == {str(number) for number in range(2, 11)}


def test_searches_and_deletes_beside_each_other(app: psycopg.Connection, index: OpenIndex) -> None:
    """Documents go one by one while others search: no answer that began after a delete was committed holds that document."""
    gone: set[str] = set()
    stop = threading.Event()
    wrong: list[tuple[str, set[str]]] = []

    def ask_on() -> None:
        while not stop.is_set():
            before = set(gone)
            found = before & set(search(index, k=20))
            if found:
                wrong.append(("found", found))

    with ThreadPoolExecutor(2) as pool:
        asking = pool.submit(ask_on)
        with working(index) as work:
            for number in range(1, 31):
                app.execute("DELETE FROM articles WHERE id = %s", (number,))
                gone.add(str(number))
                if number % 3 == 0:
                    distribute(index)
                if number % 5 == 0:
                    work.batch()
        stop.set()
        asking.result(timeout=60)
    assert wrong == []
    settle(index)
    assert stored(app, "v1").keys() == ALL - gone
