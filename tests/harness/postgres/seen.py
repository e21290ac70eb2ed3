"""What these tests look at: the state of the server, and whether the vectors agree with their documents."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg

from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import dual_write
from tests.harness.articles import text_hash

DEADLINE_SECONDS = 30.0


def wait_until(look: Callable[[], bool], what: str) -> None:
    """Return when `look` is true; fail after the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not look():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_SECONDS:.0f} s"
        time.sleep(0.01)


def any_row(conn: psycopg.Connection, query: str) -> bool:
    return conn.execute(query).fetchone() is not None  # type: ignore[arg-type]


def waits(conn: psycopg.Connection, begins: str, seconds: float) -> bool:
    """Whether a statement that begins so has been running for longer than `seconds`."""
    query = "SELECT FROM pg_stat_activity WHERE state = 'active' AND query ILIKE %s AND query_start < clock_timestamp() - %s * interval '1s'"
    return conn.execute(query, (f"{begins}%", seconds)).fetchone() is not None


def nothing_waits(conn: psycopg.Connection) -> bool:
    """Whether every change has been handed over and acknowledged by every version."""
    found = conn.execute("SELECT (SELECT count(*) FROM embed_pipeline.inbox) + (SELECT count(*) FROM embed_pipeline.pending)")
    return found.fetchone() == (0,)


def cut(url: str, condition: str = "true") -> int:
    """End the sessions of the package (or those of them for which `condition` holds); returns how many."""
    with psycopg.connect(url, autocommit=True) as admin:
        ended = admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "  # type: ignore[arg-type]
            f"WHERE application_name = 'embed-pipeline' AND datname = current_database() AND ({condition})"
        ).fetchall()
    return len(ended)


def require_all_true(url: str, index: OpenIndex, *versions: str) -> None:
    """Drain the queue, then let the oracle compare every document with every vector."""
    with psycopg.connect(url, autocommit=True) as app:
        # What a broken session had claimed comes back when its lease runs out; nobody waits for that here.
        app.execute("UPDATE embed_pipeline.pending SET claim = NULL")
        app.execute("DELETE FROM embed_pipeline.claims")
        for result in dual_write.sync(index):
            assert (result.error, result.pending) == ("", 0)
        for version in versions:
            assert oracle(app, version) == []


def oracle(app: psycopg.Connection, version: str) -> list[str]:
    """What is wrong with a version, by the documents and the vectors alone, recomputed here."""
    documents = {
        str(key): text_hash("\n\n".join(part for part in (title, body) if part))
        for key, title, body in app.execute("SELECT id, title, body FROM articles")
    }
    query = f"SELECT doc_id, chunks, encode(source_hash, 'hex'), chunk FROM embed_pipeline.docs__{version}"
    rows = app.execute(query).fetchall()  # type: ignore[arg-type]
    found = {doc_id: digest for doc_id, _, digest, _ in rows}
    problems = [f"{doc_id} is half a document" for doc_id, chunks, _, chunk in rows if (chunks, chunk) != (1, 0)]
    problems += [f"{doc_id} has more than its one vector" for doc_id in found if len([r for r in rows if r[0] == doc_id]) > 1]
    problems += [f"{doc_id} is missing" for doc_id in documents.keys() - found.keys()]
    problems += [f"{doc_id} is an orphan" for doc_id in found.keys() - documents.keys()]
    return problems + [f"{doc_id} is stale" for doc_id in documents.keys() & found.keys() if documents[doc_id] != found[doc_id]]
