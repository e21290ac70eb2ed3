"""Connections that go, and processes that fork: an application that searches sees neither."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import sql

from embed_pipeline import Searcher
from embed_pipeline.errors import DatabaseUnavailable
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import dual_write, verify
from tests.harness.articles import change, fill, serve
from tests.harness.forked import forked, said
from tests.harness.postgres.seen import wait_until

Open = Callable[..., OpenIndex]


def text(number: int) -> str:
    return f"title {number}\n\nbody {number}"


def nearest(searcher: Searcher, number: int, **options: Any) -> str:
    return searcher.search(text(number), 1, **options).hits[0].doc_id


@pytest.fixture
def index(open_docs: Open) -> OpenIndex:
    index = open_docs("v1")
    serve(index, "v1")
    return index


def ours(app: psycopg.Connection) -> list[int]:
    rows = app.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY pid"
    )
    return [pid for (pid,) in rows]


def test_connections_that_the_server_closes(app: psycopg.Connection, index: OpenIndex) -> None:
    """Closed for idling, or by an administrator, all of the pool at once: each search is answered, and pays for one embedding."""
    app.execute(sql.SQL("ALTER DATABASE {} SET idle_session_timeout = '300ms'").format(sql.Identifier(app.info.dbname)))
    together = threading.Barrier(3)

    def plainly(conn: psycopg.Connection) -> None:
        # A session whose last word was a pipeline idles on.
        together.wait()
        conn.execute("SELECT 1")

    with Searcher("docs", index.url, refresh_seconds=60, max_connections=3) as searcher:
        for number in (3, 4, 5):
            with ThreadPoolExecutor(3) as pool:
                assert set(pool.map(lambda n: nearest(searcher, n), [number] * 6)) == {str(number)}
                list(pool.map(lambda _: searcher._sessions.run(plainly), range(3)))
            wait_until(lambda: not set(served(searcher)) & set(ours(app)), "its sessions have idled away")
        app.execute(sql.SQL("ALTER DATABASE {} RESET idle_session_timeout").format(sql.Identifier(app.info.dbname)))
        assert nearest(searcher, 5) == "5"
        searcher._forget()
        app.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s) AS pid", (served(searcher),))
        assert nearest(searcher, 6, where={"views": 0}, with_documents=True) == "6"
    # What other verbs hold open goes the same way.
    app.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s) AS pid", (ours(app),))
    change(app, 1, "edited")
    assert [each.error for each in dual_write.sync(index)] == [""]
    assert verify.verify(index)["v1"].differences == 0


def test_a_connection_that_is_left_in_the_middle_of_a_pipeline(index: OpenIndex) -> None:
    """Where the server goes while the client leaves one, what is raised is no word of the server's, and the connection not yet closed."""
    tried: list[int] = []

    def work(conn: psycopg.Connection) -> int:
        tried.append(conn.info.backend_pid)
        if len(tried) == 1:
            conn.pgconn.enter_pipeline_mode()
            conn.pgconn.send_query_params(b"SELECT 1", None)
            conn.pgconn.exit_pipeline_mode()
        return conn.info.backend_pid

    with Searcher("docs", index.url, max_connections=1) as searcher:
        assert searcher._sessions.run(work) == tried[1] != tried[0]


def served(searcher: Searcher) -> list[int]:
    pool = searcher._sessions._pool
    return [] if pool is None else [conn.info.backend_pid for conn in pool._pool]


def test_a_closed_searcher_says_so(index: OpenIndex) -> None:
    searcher = Searcher("docs", index.url)
    searcher.close()
    with pytest.raises(DatabaseUnavailable, match="This searcher is closed"):
        searcher.search("anything")


def test_processes_forked_from_one_that_has_searched(app: psycopg.Connection, index: OpenIndex) -> None:
    """Parent and two children search at the same time, each for documents of its own: every answer is to the own question. The
    children end first, and the parent's sessions are still there."""
    with Searcher("docs", index.url, refresh_seconds=60, query_cache=10) as searcher:
        assert nearest(searcher, 1) == "1"
        with index.connection() as conn:
            fingerprint = index.version(conn, "v1").fingerprint
        before, model = served(searcher), searcher._resolve(None).embedder

        def many(first: int) -> list[int]:
            return [number for number in range(first, first + 20) if nearest(searcher, number) != str(number)]

        def of_the_child(first: int) -> list[object]:
            wrong = many(first)
            with index.connection() as own:
                mine = own.info.backend_pid
                same = searcher._resolve(None).embedder is model
                return [wrong, served(searcher), mine, same, index.embedder_of(index.version(own, "v1")).fingerprint]

        with forked(lambda: of_the_child(1)) as one, forked(lambda: of_the_child(21)) as other:
            assert many(41) == []
            told = [said(one), said(other)]
        for wrong, sessions, session, same, found in told:
            assert (wrong, same, found) == ([], False, fingerprint)
            assert not {*sessions, session} & set(before)
        assert set(before) <= set(ours(app))
        assert nearest(searcher, 7) == "7"


def test_a_process_forked_while_other_threads_hold_every_lock(index: OpenIndex) -> None:
    """The threads do not exist in the child, and what they held would stay so."""
    with Searcher("docs", index.url, query_cache=10) as searcher:
        nearest(searcher, 1)
        held = [searcher._lock, searcher._sessions._lock, searcher._cache._lock, index._lock]
        for lock in held:
            lock.acquire()
        try:
            with forked(lambda: [nearest(searcher, 5), len(dual_write.sync(index)), searcher.close()]) as child:
                assert said(child) == ["5", 1, None]
        finally:
            for lock in held:
                lock.release()
        assert nearest(searcher, 6) == "6"


def test_a_forked_process_hears_of_flips(open_served: Open) -> None:
    index = open_served("v1", "v2")
    fill(index, "v2")
    with Searcher("docs", index.url, refresh_seconds=600) as searcher:
        nearest(searcher, 1)
        reads, writes = os.pipe()

        def child() -> list[str]:
            first = searcher.search(text(1), 1).version
            os.write(writes, b"x")
            wait_until(lambda: searcher.search(text(1), 1).version == "v2", "the flip is heard of")
            return [first, searcher.search(text(1), 1).version]

        with forked(child) as told:
            os.read(reads, 1)
            serve(index, "v2")
            assert said(told) == ["v1", "v2"]
