"""Two that lock some of the same documents: in one order, and where they meet all the same, the one that PostgreSQL ends does it again."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import pytest

from embed_pipeline.documents import queue
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.postgres.session import Line
from tests.harness.postgres.seen import wait_until

Open = Callable[..., OpenIndex]

LOCKED = "SELECT doc_id FROM embed_pipeline.pending WHERE doc_id = %s AND version = 'v1' FOR UPDATE"


def until_blocked(conn: psycopg.Connection, pid: int) -> None:
    wait_until(
        lambda: conn.execute("SELECT cardinality(pg_blocking_pids(%s)) > 0", (pid,)).fetchone() == (True,),
        "one that waits for a lock",
    )


def announced(index: OpenIndex) -> None:
    """Documents that have waited in the opposite of their order."""
    with index.connection() as conn:
        for doc_id in ("3", "2", "1"):
            queue.enqueue(conn, "docs", "v1", [doc_id])


@pytest.mark.parametrize("retired", [False, True])
def test_several_documents_are_locked_in_their_order(app: psycopg.Connection, open_docs: Open, retired: bool) -> None:
    """While another one has the first of them, who frees a claim or forgets a version holds none of the others, whatever order they waited in."""
    index = open_docs("v1")
    announced(index)
    with index.connection() as conn:
        claimed = queue.claim(conn, "docs", "v1", limit=10).id

        def several() -> None:
            if retired:
                queue.forget_version(conn, "docs", "v1")
            else:
                queue.free(conn, "docs", "v1", claimed, 0)

        worker = threading.Thread(target=several)
        with app.transaction():
            app.execute(LOCKED, ("1",))
            worker.start()
            until_blocked(app, conn.info.backend_pid)
            assert app.execute(LOCKED + " SKIP LOCKED", ("3",)).fetchall() == [("3",)]
        worker.join()


def test_who_loses_a_deadlock_does_it_again(app: psycopg.Connection, second_app: psycopg.Connection, open_docs: Open) -> None:
    index = open_docs("v1")
    announced(index)
    tries: list[int] = []
    with Line(index) as line:

        def both(conn: psycopg.Connection) -> None:
            tries.append(conn.info.backend_pid)
            with conn.transaction():
                # The other one waits for longer than anybody's deadlock_timeout: this one is ended.
                conn.execute("SET LOCAL deadlock_timeout = '10ms'")
                conn.execute(LOCKED, ("2",))
                if len(tries) == 1:
                    waiting.start()
                    until_blocked(app, second_app.info.backend_pid)
                conn.execute(LOCKED, ("1",))

        def opposite() -> None:
            with second_app.transaction():
                second_app.execute("SET LOCAL deadlock_timeout = '10min'")
                second_app.execute(LOCKED, ("1",))
                second_app.execute(LOCKED, ("2",))

        waiting = threading.Thread(target=opposite)
        line.repeat(both)
        waiting.join()
    assert len(tries) == 2
