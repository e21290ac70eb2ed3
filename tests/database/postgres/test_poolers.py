"""A pooler between this package and the server: one by the transaction is refused and left as it was, one by the session works."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psycopg
import pytest

from embed_pipeline import Searcher
from embed_pipeline.errors import DatabaseUnavailable
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import dual_write
from embed_pipeline.migrate.opening import open_index
from embed_pipeline.postgres.connection import connect
from embed_pipeline.report.look import look
from tests.harness.articles import declared, fill, require_consistent
from tests.harness.postgres.pooler import PGBOUNCER, pgbouncer, stand_in

Open = Callable[..., OpenIndex]
Pooler = Callable[..., AbstractContextManager[str]]

INSTALLED = pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed; its stand-in is tried all the same")
POOLERS = pytest.mark.parametrize("pooler", [stand_in, pytest.param(pgbouncer, marks=INSTALLED)])
TEXT = "title 7\n\nbody 7"
REFUSED = "hands out another session for each transaction"


def state(app: psycopg.Connection) -> list[tuple[object, ...]]:
    names = (
        "default_transaction_read_only",
        "statement_timeout",
        "DateStyle",
        "TimeZone",
        "search_path",
        "maintenance_work_mem",
        "application_name",
    )
    return [app.execute("SELECT current_setting(%s)", (name,), prepare=False).fetchone() or () for name in names]


@POOLERS
@pytest.mark.parametrize("servers", [1, 3])
def test_by_the_transaction(
    app: psycopg.Connection, open_docs: Open, database_url: str, holdout: Path, pooler: Pooler, servers: int
) -> None:
    """Refused by everything that connects, in a sentence that says which URL is needed. The application, which shares the pooler, goes on
    as before: no setting, no lock, nothing prepared, nothing temporary, and no transaction that is left open."""
    open_docs("v1")
    with pooler(database_url, "transaction", servers) as url:
        with psycopg.connect(url, autocommit=True, prepare_threshold=None) as shared:
            before = state(shared)
        index = declared(url, holdout, "v1")
        for use in (
            lambda: connect(url),
            lambda: open_index(index),
            lambda: look(index).__enter__(),
            lambda: Searcher("docs", url).search(TEXT, version="v1"),
        ):
            with pytest.raises(DatabaseUnavailable, match=REFUSED) as refused:
                use()
            assert "or to a pooler in session mode" in str(refused.value)
        for _ in range(2 * servers):
            with psycopg.connect(url, autocommit=True, prepare_threshold=None) as shared:
                shared.execute("UPDATE articles SET views = views + 1 WHERE id = 1", prepare=False)
                assert state(shared) == before
                assert shared.execute("SELECT count(*) FROM pg_prepared_statements", prepare=False).fetchone() == (0,)
    kept = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    assert app.execute(kept).fetchone() == (0,)


def test_one_that_gives_back_late(app: psycopg.Connection, database_url: str) -> None:
    """A pooler of many threads answers its client first: whoever asks at once finds another session than the one that would have told."""
    with (
        stand_in(database_url, "transaction", 3, gives_back_after=0.015) as url,
        pytest.raises(DatabaseUnavailable, match=REFUSED),
    ):
        connect(url)


@POOLERS
def test_by_the_session(app: psycopg.Connection, database_url: str, holdout: Path, pooler: Pooler) -> None:
    """Everything works, with the settings that make texts stable, and the application finds its sessions clean."""
    with pooler(database_url, "session", 20) as url:
        with psycopg.connect(url, autocommit=True) as shared:
            before = state(shared)
        with connect(url, autocommit=True) as conn:
            assert conn.execute("SELECT current_setting('DateStyle'), current_setting('TimeZone')").fetchone() == (
                "ISO, YMD",
                "UTC",
            )
        index = open_index(declared(url, holdout, "v1", partitions=1))
        fill(index, "v1")
        app.execute("UPDATE articles SET body = 'edited' WHERE id = 1")
        assert [each.error for each in dual_write.sync(index)] == [""]
        require_consistent(index)
        with Searcher("docs", url, refresh_seconds=60) as searcher:
            hits = searcher.search(TEXT, 1, version="v1", where={"views": 0}, with_documents=True).hits
            assert hits[0].doc_id == "7"
        index.close()
        with psycopg.connect(url, autocommit=True) as shared:
            assert state(shared) == before


@INSTALLED
def test_a_pooler_that_refuses_what_is_asked_for(app: psycopg.Connection, database_url: str) -> None:
    """PgBouncer as it is installed takes no options."""
    for mode, servers in (("transaction", 1), ("session", 5)):
        with pgbouncer(database_url, mode, servers, ignore_options=False) as url:  # type: ignore[arg-type]
            if mode == "transaction":
                with pytest.raises(DatabaseUnavailable, match=REFUSED):
                    connect(url)
            else:
                with connect(url) as conn:
                    assert conn.execute("SHOW TimeZone").fetchone() == ("UTC",)


def test_a_pooler_without_a_second_session(database_url: str, app: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embed_pipeline.postgres.poolers.SECOND_SECONDS", 0.2)
    with (
        stand_in(database_url, "session", 1) as url,
        pytest.raises(DatabaseUnavailable, match="has given no second session within 0 s"),
    ):
        connect(url)


def test_a_direct_session_is_looked_at_in_one_round_trip(
    database_url: str, app: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What tells a pooler comes with what is asked anyway."""
    asked: list[object] = []
    execute = psycopg.Connection.execute
    monkeypatch.setattr(psycopg.Connection, "execute", lambda *given, **more: asked.append(given) or execute(*given, **more))
    connect(database_url).close()
    assert len(asked) == 1
