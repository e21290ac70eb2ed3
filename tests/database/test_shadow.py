"""Shadow reads: what another version would have answered is counted, and no answer is another one, later or missing because of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from embed_pipeline import Searcher, shadow_report, signals
from embed_pipeline.catalog import shadows
from embed_pipeline.cli.serving_verbs import shadow_lines
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.protocol import Urgency
from embed_pipeline.evaluate.agreement import overlap, rank_biased_overlap
from embed_pipeline.index import shadow
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.report.shadow import ShadowReport
from tests.harness.articles import fill
from tests.harness.forked import forked, said
from tests.harness.postgres.seen import wait_until

Open = Callable[..., OpenIndex]


def text(number: int) -> str:
    return f"title {number}\n\nbody {number}"


def compared(searcher: Searcher) -> Callable[[], bool]:
    """Whether all that was offered was looked at."""
    assert searcher._shadow is not None
    waiting, tallies = searcher._shadow._waiting, searcher._shadow._tallies
    return lambda: (
        waiting.empty()
        and all(tally.searches == tally.failed + sum(tally.sketches["shadow_ms"].values()) for tally in tallies.values())
    )


def reported(index: OpenIndex, version: str = "v2") -> ShadowReport:
    return shadow_report(index.spec, version)


@pytest.fixture
def index(open_served: Open) -> OpenIndex:
    index = open_served("v1", "v2")
    fill(index, "v2")
    return index


@pytest.fixture
def held() -> Iterator[Callable[[], object]]:
    """Holds the shadow's thread at its next query, until the test ends or says so."""
    let_go = threading.Event()
    signals.listen("shadow.taken", lambda: let_go.wait() and None)
    yield let_go.set
    let_go.set()


def test_what_shadow_reads_find(index: OpenIndex, app: psycopg.Connection) -> None:
    """By pair and hour, of several processes together; the figures are those of the two lists. A retire is not held up by such reads."""
    texts = [text(number) for number in range(1, 9)]
    with Searcher("docs", index.url) as plain:
        lists = [[[hit.doc_id for hit in plain.search(each, 5, version=name).hits] for name in ("v1", "v2")] for each in texts]
    app.execute("DELETE FROM embed_pipeline.version_reads")
    for keep_queries in (False, True):
        with Searcher("docs", index.url, shadow="v2", share=1.0, keep_queries=keep_queries) as searcher:
            for each in texts:
                assert searcher.search(each, 5, min_score=-1e-3, with_documents=True).version == "v1"
            searcher.search(texts[0], 5, version="v1")  # asked for by name: no traffic
            wait_until(compared(searcher), "the shadow has followed")
        found = reported(index)
        (pair,) = found.pairs
        assert pair.searches == pair.compared == (16 if keep_queries else 8), "before min_score, which each space has its own of"
        assert pair.overlap == pytest.approx(sum(overlap(*each) for each in lists) / 8)
        assert pair.agreement == pytest.approx(sum(rank_biased_overlap(*each) for each in lists) / 8)
        assert (pair.failed, pair.dropped, pair.answered_empty, pair.shadow_empty) == (0, 0, 0, 0)
        assert {each.sha256 for each in pair.least} == {shadows.sha256(each) for each in texts}
        assert {each.text for each in pair.least} == ({*texts} if keep_queries else {None})
        assert None not in (pair.answered_ms.p50, pair.shadow_ms.p99, pair.shadow_scores.p50)
    assert len(found.by_hour) in (1, 2)
    assert "rank agreement" in "\n".join(shadow_lines(found))
    assert "was shadowed by v1" in shadow_lines(reported(index, "v1"))[0]
    assert app.execute("SELECT DISTINCT version FROM embed_pipeline.version_reads").fetchall() == [("v1",)]


def test_no_search_waits_for_its_shadow(index: OpenIndex, held: Callable[[], object]) -> None:
    """Its thread hangs, and the queue is full: what is more is dropped and counted."""
    more = 5
    with Searcher("docs", index.url, shadow="v2", share=1.0) as searcher:
        done = []

        def search() -> None:
            for _ in range(1 + shadow.MOST_WAITING + more):
                done.append(searcher.search(text(1), 3).hits[0].doc_id)
                if len(done) == 1:
                    assert searcher._shadow is not None
                    wait_until(searcher._shadow._waiting.empty, "the first was taken")

        thread = threading.Thread(target=search, daemon=True)
        thread.start()
        thread.join(60)
        alive = thread.is_alive()
        held()
        assert not alive, "a search waits"
        assert done == ["1"] * (1 + shadow.MOST_WAITING + more)
        wait_until(compared(searcher), "the shadow has caught up")
    (pair,) = reported(index).pairs
    assert (pair.searches, pair.dropped) == (1 + shadow.MOST_WAITING, more)


def test_no_search_fails_with_its_shadow(
    index: OpenIndex, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its model breaks in a way that nobody foresaw; or the version is not there, which is said once."""
    embed = VersionEmbedder.embed_queries

    def broken(self: VersionEmbedder, texts: Any, urgency: Urgency = Urgency.QUERY) -> Any:
        if urgency is not Urgency.QUERY:
            raise RuntimeError("a library fell over")
        return embed(self, texts, urgency)

    monkeypatch.setattr(VersionEmbedder, "embed_queries", broken)
    for version in ("v2", "v9"):
        with Searcher("docs", index.url, shadow=version, share=1.0) as searcher:
            assert [searcher.search(text(n), 3).hits[0].doc_id for n in range(1, 6)] == [str(n) for n in range(1, 6)]
            wait_until(compared(searcher), "the shadow has tried")
    (pair,) = reported(index).pairs
    assert (pair.searches, pair.failed, pair.last_failure) == (5, 5, "RuntimeError: a library fell over")
    assert [record.message for record in caplog.records if "not shadowed" in record.message] == [
        "docs is not shadowed by v2: a library fell over",
        next(each.message for each in caplog.records if "has no version 'v9'" in each.message),
    ]


def test_a_forked_searcher_has_a_shadow_of_its_own(index: OpenIndex, held: Callable[[], object]) -> None:
    """The parent's thread hangs with a full queue; the child's is another, and tells nothing of what the parent saw."""
    with Searcher("docs", index.url, shadow="v2", share=1.0) as searcher:
        for _ in range(1 + shadow.MOST_WAITING):
            searcher.search(text(1), 3)

        def child() -> object:
            signals.forget_all()
            found = searcher.search(text(2), 3).hits[0].doc_id
            wait_until(compared(searcher), "the child's shadow has followed")
            searcher.close()
            return found

        with forked(child) as told:
            assert said(told) == "2"
        assert [pair.searches for pair in reported(index).pairs] == [1]
        held()
        wait_until(compared(searcher), "the parent's shadow has followed")
    (pair,) = reported(index).pairs
    assert pair.searches + pair.dropped == 2 + shadow.MOST_WAITING


def test_who_may_say_what_a_shadow_found(
    index: OpenIndex, app: psycopg.Connection, reader_url: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    """Not whoever may read. Who may adds to its own rows, about live versions, and no more than fits."""
    url = reader_url()
    role = sql.Identifier(f"reader_{app.info.dbname}")

    def searched() -> None:
        with Searcher("docs", url, shadow="v2", share=1.0) as searcher:
            assert searcher.search(text(7), 3).hits[0].doc_id == "7"
            wait_until(compared(searcher), "the shadow has followed")

    searched()
    assert reported(index).pairs == ()
    assert sum("may not execute embed_pipeline.note_shadow" in record.message for record in caplog.records) == 1
    app.execute(sql.SQL("GRANT EXECUTE ON FUNCTION embed_pipeline.note_shadow TO {}").format(role))
    searched()
    assert [pair.searches for pair in reported(index).pairs] == [1]
    with psycopg.connect(url, autocommit=True) as reader:
        for answered, version in (("v1", "v9"), ("v9", "v2"), ("v1", "v1"), ("v1", "v2")):
            reader.execute(
                'SELECT embed_pipeline.note_shadow(\'docs\', %s, %s, \'{"searches": -5, "compared": 2, "overlap": 1e9}\', '
                '\'{"shadow_ms": {"12": 3, "-01": 3, "1000": 3, "x": 3, "5": "y"}, "mine": {"1": 1}}\', '
                "(SELECT jsonb_agg(jsonb_build_object('sha256', encode(sha256(n::text::bytea), 'hex'), 'text', repeat('x', 5000), "
                "'agreement', 0.5, 'overlap', 0.5)) FROM generate_series(1, 200) n))",
                (answered, version),
            )
    hours = app.execute(
        "SELECT answered, shadow, searches, overlap <= compared, sketches -> 'shadow_ms' ->> '12' FROM embed_pipeline.shadow_hours"
    )
    assert hours.fetchall() == [("v1", "v2", 1, True, "3")]
    kept = app.execute("SELECT count(*), max(length(query)) FROM embed_pipeline.shadow_queries").fetchone()
    assert kept == (shadows.KEPT_QUERIES, 1_000)
