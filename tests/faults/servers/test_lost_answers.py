"""The connection breaks between a commit and its answer: nobody knows whether it happened, and every step must be right either way."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import pytest

from embed_pipeline.catalog import serving
from embed_pipeline.errors import CutoverRefused, RetireRefused
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, cutover, dual_write, gate, retire
from tests.faults.servers.conftest import DOCUMENTS, Calls, Open
from tests.harness.articles import fill, serve
from tests.harness.postgres.proxy import Fate, Proxy
from tests.harness.postgres.seen import any_row, require_all_true, wait_until

OPEN_TRANSACTIONS = "SELECT FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
BOTH: tuple[Fate, ...] = ("swallow", "lose")


@pytest.mark.parametrize("fate", BOTH)
def test_insert_of_a_backfill(fragile_url: str, proxy: Proxy, open_fragile: Open, calls: Calls, fate: Fate) -> None:
    """Written again, harmless when it was there, counted right, and paid for once."""
    index = open_fragile("v1", url=proxy.url)
    proxy.arm(fate, b"COPY")
    written = [backfill.fill_partition(index, "v1", key).written for key in ("00", "01")]
    assert proxy.struck.wait(10)
    assert sum(written) == DOCUMENTS
    assert calls.twice("v1") == []
    require_all_true(fragile_url, index, "v1")


@pytest.mark.parametrize("fate", BOTH)
def test_replace_of_a_dual_write(fragile_url: str, proxy: Proxy, open_fragile: Open, calls: Calls, fate: Fate) -> None:
    index = open_fragile("v1", url=proxy.url)
    fill(index, "v1")
    with psycopg.connect(fragile_url, autocommit=True) as app:
        app.execute("UPDATE articles SET body = 'edited ' || id WHERE id <= 20")
    proxy.arm(fate, b'INSERT INTO "embed_pipeline"."docs__v1"')
    (result,) = dual_write.sync(index)
    assert proxy.struck.wait(10)
    assert (result.error, result.pending, result.written) == ("", 0, 20)
    assert calls.twice("v1") == []
    require_all_true(fragile_url, index, "v1")


@pytest.fixture
def judged(proxy: Proxy, open_fragile: Open) -> OpenIndex:
    """v1 serves, and v2 has passed its gate. From here on everything goes through the proxy."""
    serve(open_fragile("v1"), "v1")
    index = open_fragile("v1", "v2")
    fill(index, "v2")
    gate.run(index, "v2")
    return open_fragile("v1", "v2", url=proxy.url)


def pointer(url: str) -> serving.Pointer:
    with psycopg.connect(url, autocommit=True) as conn:
        return serving.read(conn, "docs")


def events(url: str, event: str, version: str) -> int:
    with psycopg.connect(url, autocommit=True) as conn:
        query = "SELECT count(*) FROM embed_pipeline.audit_events WHERE event = %s AND version = %s"
        row = conn.execute(query, (event, version)).fetchone()
    return 0 if row is None else int(row[0])


def test_flip_whose_answer_is_lost_has_happened(fragile_url: str, proxy: Proxy, judged: OpenIndex) -> None:
    proxy.arm("swallow", b"UPDATE embed_pipeline.serving_pointer")
    moved = cutover.cutover(judged, "v2")
    assert proxy.struck.wait(10)
    assert (moved.version, pointer(fragile_url).version, pointer(fragile_url).generation) == ("v2", "v2", moved.generation)
    assert events(fragile_url, "cutover", "v2") == 1


def test_flip_that_did_not_arrive_moved_nothing(fragile_url: str, proxy: Proxy, judged: OpenIndex) -> None:
    proxy.arm("lose", b"UPDATE embed_pipeline.serving_pointer")
    with pytest.raises(CutoverRefused, match=r"nothing was moved"):
        cutover.cutover(judged, "v2")
    assert pointer(fragile_url).version == "v1"
    session_is_gone(fragile_url)
    assert cutover.cutover(judged, "v2").version == "v2"
    assert events(fragile_url, "cutover", "v2") == 1


def session_is_gone(fragile_url: str) -> None:
    """The server takes a moment to notice that its client is lost; until then that session holds the mover's lock."""
    with psycopg.connect(fragile_url, autocommit=True) as watcher:
        held = "SELECT FROM pg_locks WHERE locktype = 'advisory'"
        wait_until(lambda: not any_row(watcher, held), "the server ends the broken session")


def test_flip_whose_commit_is_still_under_way_is_waited_for(fragile_url: str, proxy: Proxy, judged: OpenIndex) -> None:
    """Looking at once would find the old generation, say that nothing was moved, and be wrong a moment later."""
    proxy.arm("delay", b"UPDATE embed_pipeline.serving_pointer")

    def let_it_commit() -> None:
        with psycopg.connect(fragile_url, autocommit=True) as watcher:
            waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%serving_pointer%FOR UPDATE%'"
            wait_until(lambda: any_row(watcher, waiting), "somebody waits for the commit")
        proxy.release()

    releasing = threading.Thread(target=let_it_commit)
    releasing.start()
    assert cutover.cutover(judged, "v2").version == "v2"
    releasing.join()
    assert pointer(fragile_url).version == "v2"
    assert events(fragile_url, "cutover", "v2") == 1


DETACHED, DROPPED = b"CREATE OR REPLACE VIEW embed_pipeline.provenance", b"DROP TABLE IF EXISTS"


@pytest.mark.parametrize(("step", "fate"), [(DETACHED, "swallow"), (DROPPED, "swallow"), (DROPPED, "lose")])
def test_retire_is_finished_by_the_same_command(
    fragile_url: str, proxy: Proxy, judged: OpenIndex, fate: Fate, step: bytes
) -> None:
    cutover.cutover(judged, "v2")
    proxy.arm(fate, step)
    with pytest.raises(psycopg.OperationalError):
        retire.retire(judged, "v1", "v1")
    assert proxy.struck.wait(10)
    session_is_gone(fragile_url)
    if (fate, step) == ("swallow", DROPPED):
        with pytest.raises(RetireRefused, match="is retired already"):
            retire.retire(judged, "v1", "v1")
    else:
        retire.retire(judged, "v1", "v1")
    with psycopg.connect(fragile_url, autocommit=True) as app:
        assert app.execute("SELECT to_regclass('embed_pipeline.docs__v1')").fetchone() == (None,)
        app.execute("UPDATE articles SET body = 'still writable' WHERE id = 1")
    assert (events(fragile_url, "retire", "v1"), events(fragile_url, "dropped", "v1")) == (1, 1)
    require_all_true(fragile_url, judged, "v2")


@pytest.mark.parametrize("fate", BOTH)
def test_a_registration_whose_answer_is_lost_is_finished(fragile_url: str, proxy: Proxy, open_fragile: Open, fate: Fate) -> None:
    serve(open_fragile("v1"), "v1")
    proxy.arm(fate, b"INSERT INTO embed_pipeline.index_versions")
    index = open_fragile("v1", "v2", url=proxy.url)
    assert proxy.struck.wait(10)
    with psycopg.connect(fragile_url, autocommit=True) as app:
        app.execute("UPDATE articles SET body = 'in between' WHERE id = 1")
    fill(index, "v2")
    assert events(fragile_url, "register", "v2") == 1
    require_all_true(fragile_url, index, "v1", "v2")


def test_the_proxy_does_what_it_says(fragile_url: str, proxy: Proxy) -> None:
    """A proxy that loses nothing would let every test here pass."""
    commits: dict[Fate, Callable[[], object]] = {"swallow": lambda: None, "lose": lambda: None, "delay": proxy.release}
    with psycopg.connect(fragile_url, autocommit=True) as watcher:
        for value, (fate, afterwards) in enumerate(commits.items()):
            proxy.struck.clear()
            proxy.arm(fate, b"INSERT INTO articles")
            with pytest.raises(psycopg.OperationalError), psycopg.connect(proxy.url) as conn:
                conn.execute("INSERT INTO articles (id) VALUES (%s)", (1000 + value,))
            assert proxy.struck.wait(10)
            stored = f"SELECT FROM articles WHERE id = {1000 + value}"
            if fate == "delay":
                assert not any_row(watcher, stored)
                afterwards()
            if fate == "lose":
                wait_until(lambda: not any_row(watcher, OPEN_TRANSACTIONS), "the server gives it up")
                assert not any_row(watcher, stored)
            else:
                wait_until(lambda stored=stored: any_row(watcher, stored), "the commit arrives")  # type: ignore[misc]
