"""The throttle as a backfill asks it: what it reads and how often, and what it tells the audit."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from embed_pipeline.errors import Stopped, StoreUnavailable
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, dual_write
from embed_pipeline.stores.protocol import StorePressure
from embed_pipeline.throttle import pressure
from embed_pipeline.throttle.loop import QUIET_SECONDS, Throttle
from embed_pipeline.throttle.pressure import Behind
from tests.harness.articles import change, serve
from tests.harness.postgres.seen import wait_until

Open = Callable[..., OpenIndex]


def test_a_store_that_does_not_answer_is_unknown_and_asked_again(app: psycopg.Connection, open_docs: Open) -> None:
    """Unknown means wait, and it ends no backfill; the store is asked no more often than the server."""
    index = open_docs("v1", throttle={"check_seconds": 0.1})
    asked: list[str] = []

    def pressure() -> StorePressure:
        asked.append("")
        if len(asked) == 1:
            raise StoreUnavailable("connection refused.")
        return StorePressure()

    throttle = Throttle(index.spec.throttle, "docs", "v1", (), pressure)
    assert (throttle.look(app).answer, throttle.look(app).reason) == ("wait", "store: unknown: connection refused.")
    assert len(asked) == 1
    throttle.wait_until_allowed(app)
    assert len(asked) == 2


def test_a_stop_of_the_store_says_what_to_do(app: psycopg.Connection, open_docs: Open) -> None:
    index = open_docs("v1")
    throttle = Throttle(index.spec.throttle, "docs", "v1", (), lambda: StorePressure("stop", "its disk is full"))
    with pytest.raises(
        Stopped, match=r"store: its disk is full\. .*Relieve the store, then run: embed-pipeline backfill docs v1"
    ):
        throttle.wait_until_allowed(app)


def events(app: psycopg.Connection) -> list[tuple[str, str]]:
    rows = app.execute("SELECT from_state, to_state FROM embed_pipeline.events WHERE event = 'throttle' ORDER BY id").fetchall()
    return [(before, after) for before, after in rows]


def test_a_stuttering_throttle_does_not_fill_the_audit(app: psycopg.Connection, open_docs: Open) -> None:
    """The audit is append-only. Changes are told at once, and the same one again only after a while."""
    index = open_docs("v1", throttle={"max_write_seconds": 0.001})
    throttle = Throttle(index.spec.throttle, "docs", "v1", ())
    for _ in range(20):
        throttle.wrote(1000.0)
        assert throttle.look(app).answer == "wait"
        assert throttle.look(app).answer == "wait"
        throttle.wrote(0.0)
        assert throttle.look(app).answer == "go"
    assert events(app) == [("go", "wait"), ("wait", "go")]
    assert QUIET_SECONDS >= 10
    row = app.execute("SELECT answer, seen_at > since - interval '1 s' FROM embed_pipeline.throttle").fetchone()
    assert row == ("go", True)


def test_an_audit_that_cannot_be_written_stops_nothing(app: psycopg.Connection, open_docs: Open) -> None:
    index = open_docs("v1")
    app.execute("DROP VIEW embed_pipeline.throttle")
    app.execute("DROP TABLE embed_pipeline.throttle_states")
    assert Throttle(index.spec.throttle, "docs", "v1", ()).look(app).answer == "go"


def test_a_lost_connection_is_no_reason_to_wait(app: psycopg.Connection, open_docs: Open, database_url: str) -> None:
    """Waiting for a control row over a dead connection would never end."""
    index = open_docs("v1")
    with psycopg.connect(database_url, autocommit=True) as dying:
        app.execute("SELECT pg_terminate_backend(%s)", (dying.info.backend_pid,))
        with pytest.raises(psycopg.OperationalError):
            Throttle(index.spec.throttle, "docs", "v1", ()).look(dying)


def test_the_server_is_read_seldom_and_the_control_row_every_time(app: psycopg.Connection, open_docs: Open) -> None:
    index = open_docs("v1", throttle={"max_active_backends": 1000, "check_seconds": 4, "stale_after_seconds": 60})
    throttle = Throttle(index.spec.throttle, "docs", "v1", ())
    assert throttle.look(app).answer == "go"
    app.execute("ALTER TABLE embed_pipeline.control RENAME TO gone")
    assert throttle.look(app).reason == "the control row could not be read"
    app.execute("ALTER TABLE embed_pipeline.gone RENAME TO control")
    first = throttle._reading
    assert throttle.look(app).answer == "go"
    assert throttle._reading is first


def made_before(app: psycopg.Connection, seconds: float) -> None:
    """What waits was changed so long ago, whether a version was told of it or not."""
    app.execute("UPDATE embed_pipeline.inbox SET at = clock_timestamp() - make_interval(secs => %s)", (seconds,))
    app.execute("UPDATE embed_pipeline.pending SET since = clock_timestamp() - make_interval(secs => %s)", (seconds,))


def test_a_backfill_waits_while_what_serves_is_behind(app: psycopg.Connection, open_served: Open) -> None:
    """Counted from the change itself: in the inbox and in the queue alike, and until it is acknowledged."""
    index = open_served("v1", "v2", throttle={"check_seconds": 0.1})
    change(app, 50, "changed")
    made_before(app, 31)
    reason = r"queue age: v1, which serves, has changes that wait for 3\d\.\d s \(limit 30\.0 s\); run: embed-pipeline sync docs --watch"
    heard: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        filling = pool.submit(
            backfill.fill_partition,
            index,
            "v2",
            "01",
            lambda progress: heard.append(progress.waiting) if progress.waiting else None,
        )
        wait_until(lambda: bool(heard), "the backfill waits")
        assert re.fullmatch(reason, heard[0]), heard[0]
        with index.connection() as conn:
            dual_write.distributor(index).distribute(conn)
        looked = len(heard)
        wait_until(lambda: len(heard) > looked + 2, "it goes on waiting when the change is handed over")
        made_before(app, 20)
        looked = len(heard)
        wait_until(lambda: len(heard) > looked + 2, "below the limit is not enough")
        assert "goes on below 15.0 s" in heard[-1]
        assert not filling.done()
        settle_queue(index)
        assert filling.result(60).documents > 0
    assert events(app) == [("go", "wait"), ("wait", "go")]


def settle_queue(index: OpenIndex) -> None:
    assert [each.error for each in dual_write.sync(index)] == ["", ""]


def test_whose_queue_is_looked_at(app: psycopg.Connection, open_docs: Open) -> None:
    index = open_docs("v1", "v2")
    rules = index.spec.throttle

    def behind(name: str) -> Behind | None:
        with index.connection() as conn:
            return pressure.read(conn, rules, (), None, ("docs", name)).behind

    change(app, 1, "changed")
    made_before(app, 100)
    assert behind("v2") is None, "nothing serves yet"
    serve(index, "v1")
    assert behind("v2") is None, "nothing waits"
    change(app, 1, "changed again")
    made_before(app, 100)
    found = behind("v2")
    assert found is not None
    assert (found.index, found.version) == ("docs", "v1")
    assert found.seconds == pytest.approx(100, abs=30)
    assert behind("v1") is None, "the version that serves is filled again without waiting for itself"
    with index.connection() as conn:
        dual_write.distributor(index).distribute(conn)
        app.execute("DELETE FROM embed_pipeline.pending WHERE version = 'v1'")
    assert behind("v2") is None, "what v2 has to do itself holds nobody up"
    with index.connection() as conn:
        off = index.spec.throttle.model_copy(update={"max_queue_age_seconds": None})
        assert pressure.read(conn, off, (), None, ("docs", "v2")).behind is None


def test_a_queue_that_cannot_be_read_is_unknown(app: psycopg.Connection, open_docs: Open) -> None:
    index = open_docs("v1")
    app.execute("ALTER TABLE embed_pipeline.pending RENAME TO gone")
    said = Throttle(index.spec.throttle, "docs", "v1", ()).look(app)
    assert (said.answer, said.signal) == ("wait", "unknown")
    assert said.reason.startswith("unknown: the queue of what serves cannot be read: relation")
