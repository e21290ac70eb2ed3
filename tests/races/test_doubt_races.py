"""Doubts: what capture may have missed is noticed, every search looks its hits up until then, and a comparison that saw it takes it away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from embed_pipeline import signals
from embed_pipeline.documents import shape
from embed_pipeline.documents.shape import Doubt
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, verify
from tests.harness.articles import at, change, fill, settle, stored, text_hash
from tests.races.hands import distribute, queued, working

Open = Callable[..., OpenIndex]


def look(index: OpenIndex) -> list[Doubt]:
    with index.connection() as conn:
        return shape.look(conn, index.source, index.name)


def broken_capture(app: psycopg.Connection, kind: str, by: str = "(1 / 0)::text") -> None:
    """Let the gathering of one kind of statement fail, or do whatever `by` does."""
    row = app.execute("SELECT pg_get_functiondef(%s::regproc)", (f"embed_pipeline.capture_docs_{kind}",)).fetchone()
    assert row is not None
    broken = row[0].replace("array_agg(", f"array_agg({by} || ", 1)
    assert broken != row[0]
    app.execute(broken)


@contextmanager
def unseen(app: psycopg.Connection) -> Iterator[None]:
    """What is done meanwhile no trigger sees."""
    app.execute("ALTER TABLE articles DISABLE TRIGGER USER")
    yield
    app.execute("ALTER TABLE articles ENABLE TRIGGER USER")


@pytest.mark.parametrize(
    ("kind", "statement"),
    [
        ("insert", "INSERT INTO articles (id, title, body) VALUES (100, 'new', 'one')"),
        ("update", "UPDATE articles SET body = 'edited' WHERE id = 1"),
        ("delete", "DELETE FROM articles WHERE id = 1"),
    ],
)
def test_capture_error_becomes_a_doubt_and_never_reaches_the_application(
    app: psycopg.Connection, open_filled: Open, kind: str, statement: str
) -> None:
    index = open_filled()
    broken_capture(app, kind, by="(1 / 0)::text")
    app.execute(statement)
    found = app.execute("SELECT kind, sqlstate, reason FROM embed_pipeline.doubts WHERE kind = 'capture'").fetchall()
    assert found == [("capture", "22012", "division by zero")]
    assert app.execute("SELECT count(*) FROM embed_pipeline.inbox").fetchone() == (0,)
    # The comparison queues what was missed, makes the functions anew, and takes the doubt away.
    compared = verify.reconcile(index)
    assert compared.queued == {"v1": 1}
    assert look(index) == []
    settle(index)


def test_cancelling_passes_through_the_capture(app: psycopg.Connection, open_docs: Open) -> None:
    """A statement that its application cancels, or whose time is up, ends there too: nothing was changed, and nothing is doubted."""
    index = open_docs("v1")
    broken_capture(app, "update", by="pg_sleep(60)::text")
    app.execute("SET statement_timeout = '200ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        change(app, 1, "edited")
    app.execute("RESET statement_timeout")
    assert app.execute("SELECT body FROM articles WHERE id = 1").fetchone() == ("body 1",)
    assert app.execute("SELECT count(*) FROM embed_pipeline.doubts WHERE kind = 'capture'").fetchone() == (0,)
    assert app.execute("SELECT count(*) FROM embed_pipeline.inbox").fetchone() == (0,)
    index.close()


def test_capture_costs_no_subtransaction(app: psycopg.Connection, second_app: psycopg.Connection, open_docs: Open) -> None:
    """64 of them in a transaction make every snapshot of the server slower: ids are gathered inside of an exception block, and written
    outside."""
    open_docs("v1")
    for number in range(1, 61):
        second_app.execute("UPDATE articles SET body = 'edited' WHERE id = %s", (number,))
    row = app.execute(
        "SELECT s.subxact_count, s.subxact_overflowed FROM pg_stat_get_backend_idset() AS b, pg_stat_get_backend_subxact(b) AS s "
        "WHERE pg_stat_get_backend_pid(b) = %s",
        (second_app.info.backend_pid,),
    ).fetchone()
    assert row == (0, False)


@pytest.mark.parametrize("how", ["a trigger off and on", "columns swapped", "another type"])
def test_change_behind_the_back_of_capture_is_doubted(app: psycopg.Connection, open_filled: Open, how: str) -> None:
    """Before and after the table looks the same; the catalog's rows are others. Every search looks its hits up from the look on, and the
    full comparison finds what differs."""
    index = open_filled()
    assert look(index) == []
    if how == "a trigger off and on":
        with unseen(app):
            change(app, 1, "unseen")
            app.execute("DELETE FROM articles WHERE id = 2")
    elif how == "columns swapped":
        with app.transaction():
            app.execute(
                "ALTER TABLE articles RENAME COLUMN title TO other; ALTER TABLE articles RENAME COLUMN body TO title;"
                "ALTER TABLE articles RENAME COLUMN other TO body"
            )
    else:
        app.execute("ALTER TABLE articles ALTER COLUMN body TYPE text USING upper(body)")
    assert [doubt.kind for doubt in look(index)] == ["shape"]
    assert len(look(index)) == 1, "raised once, however often it is looked at"
    assert app.execute("SELECT embed_pipeline.doubtful('docs', 'v1')").fetchone() == (2,)
    assert verify.reconcile(index).queued == {"v1": 2 if how == "a trigger off and on" else 60}
    assert look(index) == []
    settle(index)


def test_orphan_is_found_beside_a_transaction_that_is_older_than_its_vector(
    app: psycopg.Connection, second_app: psycopg.Connection, open_docs: Open
) -> None:
    """One that has been open for hours, of whichever application: the comparison must not count on what it may not see yet."""
    index = open_docs("v1")
    second_app.execute("SELECT pg_current_xact_id()")
    fill(index, "v1")
    with unseen(app):
        app.execute("DELETE FROM articles WHERE id = 2")
    assert look(index) != []
    assert verify.reconcile(index).queued == {"v1": 1}
    assert look(index) == []
    settle(index)
    assert "2" not in stored(app, "v1")


@pytest.mark.parametrize("other", ["timeline = timeline - 1", "system = 'another cluster'"])
def test_restored_or_failed_over_database_is_doubted(app: psycopg.Connection, open_filled: Open, other: str) -> None:
    """Another timeline: what was written last may be lost on one side and not on the other. Another cluster: it was restored elsewhere."""
    index = open_filled()
    app.execute(f"UPDATE embed_pipeline.shapes SET {other}")
    assert [doubt.kind for doubt in look(index)] == ["timeline"]
    verify.reconcile(index)
    assert look(index) == []


def test_doubt_is_taken_away_only_by_a_comparison_that_saw_it(app: psycopg.Connection, open_filled: Open) -> None:
    """A capture fails while the comparison is at other slices: that one stays open, and so does its change."""
    index = open_filled()
    app.execute("INSERT INTO embed_pipeline.doubts (index_name, kind, reason) VALUES ('docs', 'capture', 'made by the test')")

    def fails_again() -> None:
        broken_capture(app, "update")
        change(app, 1, "missed")

    signals.listen("reconcile.compared", fails_again)
    verify.reconcile(index)
    signals.forget_all()
    assert [doubt.reason for doubt in look(index) if doubt.kind == "capture"] == ["division by zero"]
    verify.reconcile(index)
    assert look(index) == []
    settle(index)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nmissed")


def test_worker_that_holds_a_text_from_before_a_missed_change(app: psycopg.Connection, open_filled: Open) -> None:
    """Its document is pending, so the comparison takes the difference for explained; what it acknowledges then must not be the end of it."""
    index = open_filled()
    change(app, 1, "read")

    def missed() -> None:
        with unseen(app):
            change(app, 1, "missed")
        verify.reconcile(index)

    at("dual_write.embedded", missed)
    with working(index) as work:
        distribute(index)
        work.batch()
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nread")
    assert look(index) == []
    settle(index)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nmissed")


PARTITIONED = """
DROP TABLE articles;
CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text) PARTITION BY RANGE (id);
CREATE TABLE monday PARTITION OF articles FOR VALUES FROM (0) TO (100);
CREATE TABLE tuesday PARTITION OF articles FOR VALUES FROM (100) TO (200);
INSERT INTO articles SELECT n, 'title ' || n, 'body ' || n FROM generate_series(1, 20) AS n;
INSERT INTO articles SELECT n, 'title ' || n, 'body ' || n FROM generate_series(101, 110) AS n;
"""


@pytest.fixture
def rotating(app: psycopg.Connection, open_docs: Open) -> OpenIndex:
    """An index over a table with a partition for each day."""
    app.execute(PARTITIONED)
    index = open_docs("v1")
    fill(index, "v1")
    settle(index)
    return index


def test_rotation_of_partitions_alarms_nobody_and_is_followed(app: psycopg.Connection, rotating: OpenIndex) -> None:
    """A day is loaded and attached, another is detached and dropped: what came is queued, what went is removed, and no doubt is raised."""
    app.execute(
        "CREATE TABLE wednesday (LIKE articles INCLUDING ALL);"
        "INSERT INTO wednesday SELECT n, 'title ' || n, 'body ' || n FROM generate_series(201, 205) AS n;"
        "ALTER TABLE articles ATTACH PARTITION wednesday FOR VALUES FROM (200) TO (300);"
        "ALTER TABLE articles DETACH PARTITION monday; DROP TABLE monday"
    )
    assert look(rotating) == []
    settle(rotating)
    assert stored(app, "v1").keys() == {str(n) for n in (*range(101, 111), *range(201, 206))}
    assert look(rotating) == []


def test_exchanged_partition_is_followed(app: psycopg.Connection, rotating: OpenIndex) -> None:
    """DETACH, DROP, ATTACH between two looks, with rows under the same keys and other texts."""
    app.execute(
        "CREATE TABLE anew (LIKE articles INCLUDING ALL);"
        "INSERT INTO anew SELECT n, 'title ' || n, 'exchanged ' || n FROM generate_series(1, 10) AS n"
    )
    with app.transaction():
        app.execute(
            "ALTER TABLE articles DETACH PARTITION monday; DROP TABLE monday;"
            "ALTER TABLE articles ATTACH PARTITION anew FOR VALUES FROM (0) TO (100)"
        )
    assert look(rotating) == []
    settle(rotating)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nexchanged 1")
    assert "11" not in stored(app, "v1")


def test_truncate_of_a_partition_that_was_made_later(app: psycopg.Connection, rotating: OpenIndex) -> None:
    """By its own name, for which no trigger of the parent fires: the look has armed it."""
    app.execute("CREATE TABLE wednesday PARTITION OF articles FOR VALUES FROM (200) TO (300)")
    app.execute("INSERT INTO wednesday VALUES (201, 'title 201', 'body 201')")
    assert look(rotating) == []
    settle(rotating)
    assert "201" in stored(app, "v1")
    app.execute("TRUNCATE wednesday")
    settle(rotating)
    assert "201" not in stored(app, "v1")


def test_partition_that_is_detached_and_attached_again_between_two_looks(app: psycopg.Connection, rotating: OpenIndex) -> None:
    """The same table, but what was written to it meanwhile nobody saw."""
    app.execute(
        "ALTER TABLE articles DETACH PARTITION monday; UPDATE monday SET body = 'unseen' WHERE id = 1;"
        "ALTER TABLE articles ATTACH PARTITION monday FOR VALUES FROM (0) TO (100)"
    )
    assert [doubt.kind for doubt in look(rotating)] == ["shape"]
    verify.reconcile(rotating)
    settle(rotating)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nunseen")


def test_partition_with_a_trigger_off_and_on(app: psycopg.Connection, rotating: OpenIndex) -> None:
    """On one partition alone, with a change in between that nobody saw."""
    app.execute(
        "ALTER TABLE monday DISABLE TRIGGER embed_pipeline_docs_row; UPDATE articles SET body = 'unseen' WHERE id = 1;"
        "ALTER TABLE monday ENABLE ALWAYS TRIGGER embed_pipeline_docs_row"
    )
    assert [doubt.kind for doubt in look(rotating)] == ["shape"]
    verify.reconcile(rotating)
    settle(rotating)
    assert stored(app, "v1")["1"] == text_hash("title 1\n\nunseen")


def test_backfill_looks_at_the_table_first(app: psycopg.Connection, open_docs: Open) -> None:
    """What happened before it is a doubt by the time that it begins, so that a cutover after it asks for a comparison."""
    index = open_docs("v1")
    app.execute("ALTER TABLE articles DISABLE TRIGGER embed_pipeline_docs_update")
    change(app, 1, "unseen")
    app.execute("ALTER TABLE articles ENABLE TRIGGER embed_pipeline_docs_update")
    backfill.fill_partition(index, "v1", "00")
    assert [doubt.kind for doubt in look(index)] == ["shape"]
    assert queued(index) == []
