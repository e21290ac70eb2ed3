"""The throttle as a backfill asks it: what it reads and how often, and what it tells the audit."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from embed_pipeline.errors import Stopped, StoreUnavailable
from embed_pipeline.migrate.open_index import OpenIndex
from embed_pipeline.migrate.throttle import QUIET_SECONDS, Throttle
from embed_pipeline.stores.protocol import StorePressure

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
