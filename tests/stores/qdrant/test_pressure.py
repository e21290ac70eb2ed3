"""Qdrant's signals, as the throttle hears them; and a backfill that waits for one and goes on."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from embed_pipeline import signals
from embed_pipeline.errors import Stopped, StoreUnavailable
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill
from tests.harness.articles import DOCUMENTS, require_consistent, serve
from tests.harness.qdrant.loopback import Loopback
from tests.harness.stores import Declared
from tests.stores.holding import store_of

Open = Callable[..., OpenIndex]


@pytest.fixture
def index(open_docs: Open, qdrant_at: Callable[[str], Declared]) -> OpenIndex:
    limits = {"max_update_queue": 10, "max_queued_points": 100, "max_yellow_seconds": 0}
    return open_docs("v1", store=qdrant_at("loopback-collections") | limits, throttle={"check_seconds": 0.1})


@pytest.mark.parametrize(
    ("conditions", "answer", "words"),
    [
        ({}, "go", ""),
        ({"update_queue": 10}, "go", ""),
        ({"update_queue": 11}, "wait", "11 updates of .* are queued, over max_update_queue 10"),
        ({"queued_points": 101}, "wait", "101 points of .* wait for its optimizer, over max_queued_points 100"),
        ({"status": "yellow"}, "wait", "has been optimizing for"),
        ({"status": "grey"}, "go", ""),
        ({"status": "red"}, "stop", "is red"),
        ({"optimizer_error": "no space left"}, "stop", "the optimizer of .* failed: no space left"),
    ],
)
def test_each_signal_has_its_answer(
    index: OpenIndex, shared_loopback: Loopback, conditions: dict[str, Any], answer: str, words: str
) -> None:
    shared_loopback.conditions(**conditions)
    store = store_of(index, "v1")
    store.pressure()
    said = store.pressure()
    assert said.answer == answer
    assert re.search(words, said.reason)


def test_a_server_that_asked_for_patience_is_not_asked_again(index: OpenIndex, shared_loopback: Loopback) -> None:
    store = store_of(index, "v1")
    shared_loopback.fail("error", status=429, retry_after=1)
    with index.connection() as conn:
        store.count(conn)
    store._engine.busy_until += 60
    asked = len(shared_loopback.requests())
    assert "asked to slow down" in store.pressure().reason
    assert len(shared_loopback.requests()) == asked


def test_what_cannot_be_read_is_no_go(index: OpenIndex, shared_loopback: Loopback) -> None:
    shared_loopback.fail("error", status=503, path="/collections/", times=None)
    with pytest.raises(StoreUnavailable):
        store_of(index, "v1").pressure()


def test_a_backfill_waits_for_the_optimizer_and_goes_on(
    app: psycopg.Connection, index: OpenIndex, shared_loopback: Loopback
) -> None:
    shared_loopback.conditions(update_queue=1000)
    reasons: list[str] = []

    def release() -> None:
        if len(reasons) > 0:
            shared_loopback.conditions(update_queue=0)

    signals.listen("throttle.waiting", release)
    for key in index.spec.partition_keys():
        backfill.fill_partition(index, "v1", key, lambda progress: reasons.append(progress.waiting) if progress.waiting else None)
    assert any("updates of" in reason for reason in reasons)
    with index.connection() as conn:
        assert store_of(index, "v1").count(conn) == DOCUMENTS
    require_consistent(index)


def test_a_backfill_yields_to_searches_of_what_serves(
    app: psycopg.Connection, open_docs: Open, qdrant_at: Callable[[str], Declared], shared_loopback: Loopback
) -> None:
    """A server that is busy with what is written answers readers late."""
    throttle = {"check_seconds": 0.1, "max_search_ms": 1_500}
    index = open_docs("v1", "v2", store=qdrant_at("loopback-collections"), throttle=throttle)
    serve(index, "v1")
    shared_loopback.fail("late", seconds=2.0, path=f"/{store_of(index, 'v1').place.collection}/points/query", times=None)
    reasons: list[str] = []
    written: list[int] = []

    def wait_over() -> None:
        with index.connection() as conn:
            written.append(store_of(index, "v2").count(conn))
        shared_loopback.clear()

    signals.listen("throttle.waiting", wait_over)
    for key in index.spec.partition_keys():
        backfill.fill_partition(index, "v2", key, lambda progress: reasons.append(progress.waiting) if progress.waiting else None)
    assert written[0] == 0
    assert any(re.search(r"a search of what serves takes \d+ ms \(limit 1500 ms\)", reason) for reason in reasons), reasons
    with index.connection() as conn:
        assert store_of(index, "v2").count(conn) == DOCUMENTS


def test_a_broken_collection_stops_a_backfill(index: OpenIndex, shared_loopback: Loopback) -> None:
    shared_loopback.conditions(status="red")
    with pytest.raises(Stopped, match="is red"):
        backfill.fill_partition(index, "v1", "00")


def test_the_index_is_waited_for_until_it_is_green(app: psycopg.Connection, index: OpenIndex, shared_loopback: Loopback) -> None:
    """While a version is filled it builds none; then the server is let, and the version is ready when it has done so."""
    store = store_of(index, "v1")
    threshold = lambda: shared_loopback.client().get_collection(store.place.collection).config.optimizer_config.indexing_threshold  # noqa: E731
    assert threshold() == 0
    with index.connection() as conn:
        found = store.ann_index(conn)
        assert found is not None
        assert not found.valid
        shared_loopback.conditions(status="yellow")
        seen = threading.Event()

        def progress(phase: str, share: float) -> None:
            if not seen.is_set():
                seen.set()
                shared_loopback.conditions(status="green")

        assert store.build_ann_index(conn, progress).valid
    assert seen.is_set()
    assert threshold() == 10_000
