"""PostgreSQL goes away under an application that searches. A restart is waited for; a server that stays away is said in a sentence."""

from __future__ import annotations

import re
import signal as os_signals
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from embed_pipeline import Searcher
from embed_pipeline.errors import DatabaseUnavailable
from embed_pipeline.postgres import sessions
from tests.faults.servers.conftest import Fragile, Open
from tests.harness.articles import serve
from tests.harness.postgres.seen import wait_until

THREADS = 3
SAID = re.compile(
    r"PostgreSQL (at postgresql://\S+ is not available|has given no connection for 1 s): [^\n]+\. (Start the server[^\n]+)$"
)


@pytest.mark.parametrize("number", [os_signals.SIGINT, os_signals.SIGQUIT, os_signals.SIGKILL])
def test_searches_during_a_restart(
    fragile: Fragile, fragile_url: str, open_fragile: Open, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended in an orderly way, at once, or killed with its sessions left behind. Whoever searches meanwhile waits and is answered."""
    serve(open_fragile("v1"), "v1")
    stop, answered = threading.Event(), [0] * THREADS
    wrong: list[str] = []

    def search(thread: int, searcher: Searcher) -> None:
        n = 0
        while not stop.is_set():
            n = n % 40 + 1
            try:
                hits = searcher.search(f"title {n}\n\nbody {n}", 1, where={"id": n}, with_documents=True).hits
            except Exception as problem:
                wrong.append(f"{type(problem).__name__}: {problem}")
            else:
                answered[thread] += 1
                if [hit.doc_id for hit in hits] != [str(n)]:
                    wrong.append(f"{hits} for {n}")

    monkeypatch.setattr(sessions, "WAIT_SECONDS", 300.0)
    with Searcher("docs", fragile_url, refresh_seconds=60, max_connections=2) as searcher:
        threads = [threading.Thread(target=search, args=(thread, searcher)) for thread in range(THREADS)]
        for each in threads:
            each.start()
        try:
            for _ in range(2):
                before = list(answered)
                while not all(now > then for now, then in zip(answered, before, strict=True)) and not wrong:
                    stop.wait(0.01)
                fragile.restart(number).join()
            before = list(answered)
            while not all(now > then for now, then in zip(answered, before, strict=True)) and not wrong:
                stop.wait(0.01)
        finally:
            stop.set()
            for each in threads:
                each.join()
    assert wrong == []


def test_a_server_that_stays_away(
    fragile: Fragile, fragile_url: str, open_fragile: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each search says so in one sentence, and the first one after it came back is answered."""
    serve(open_fragile("v1"), "v1")
    monkeypatch.setattr(sessions, "WAIT_SECONDS", 1.0)
    with (
        Searcher("docs", fragile_url, refresh_seconds=60, max_connections=2) as searcher,
        Searcher("docs", fragile_url) as unused,
    ):
        assert searcher.search("title 7\n\nbody 7", 1).hits[0].doc_id == "7"
        fragile.kill(os_signals.SIGQUIT)
        for each in (searcher, searcher, unused):
            with pytest.raises(DatabaseUnavailable) as refused:
                each.search("title 7\n\nbody 7", 1)
            assert SAID.match(str(refused.value)), str(refused.value)
        monkeypatch.undo()
        fragile.start()
        for each in (searcher, unused):
            assert each.search("title 7\n\nbody 7", 1).hits[0].doc_id == "7"


def test_a_server_that_was_away_for_long_is_found_again(
    fragile: Fragile, fragile_url: str, open_fragile: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool tries again at a steady pace: each pause twice as long as the one before would leave minutes after an outage of minutes."""
    serve(open_fragile("v1"), "v1")
    tries: list[str] = []
    failed = sessions.Sessions._failed
    monkeypatch.setattr(sessions, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(sessions.Sessions, "_failed", lambda self, problem: tries.append(str(problem)) or failed(self, problem))
    with Searcher("docs", fragile_url, refresh_seconds=60, max_connections=1) as searcher:
        assert searcher.search("title 7\n\nbody 7", 1).hits[0].doc_id == "7"
        fragile.kill(os_signals.SIGQUIT)
        with ThreadPoolExecutor(1) as asking:
            asked = asking.submit(searcher.search, "title 7\n\nbody 7", 1)
            wait_until(lambda: len(tries) > 12, "the pool has tried as often as it otherwise would in hours")
            fragile.start()
            assert asked.result().hits[0].doc_id == "7"
