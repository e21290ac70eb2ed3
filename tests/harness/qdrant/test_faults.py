"""Injected faults reach the real client as the error it would raise on a server, and do to the data what they say."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from tests.harness.qdrant.loopback import Loopback, waited
from tests.harness.qdrant.test_engine_agrees import point

# Of the server that other tests stand on: for the soak, like other long tests.
pytestmark = pytest.mark.soak


COSINE = models.VectorParams(size=4, distance=models.Distance.COSINE)
WRITE = {"method": "PUT", "path": "/points$"}


@pytest.fixture
def server(shared_loopback: Loopback) -> Iterator[Loopback]:
    """A server with the collection `docs`, and nothing injected before or after."""
    shared_loopback.clear()
    client = shared_loopback.client()
    client.delete_collection("docs")
    client.create_collection("docs", vectors_config={"v1": COSINE})
    yield shared_loopback
    shared_loopback.clear()


@pytest.fixture
def client(server: Loopback) -> QdrantClient:
    return server.client()


def count(client: QdrantClient) -> int:
    return client.count("docs", exact=True).count


@pytest.mark.parametrize("status", [404, 409, 500, 503])
def test_an_answered_error_before_the_write_and_behind_it(server: Loopback, client: QdrantClient, status: int) -> None:
    server.fail("error", status=status, **WRITE)
    for after in (False, True):
        if after:
            server.fail("error", status=status, after=True, **WRITE)
        with pytest.raises(UnexpectedResponse) as caught:
            client.upsert("docs", [point(1, 1)])
        assert caught.value.status_code == status
        assert count(client) == int(after)
    client.upsert("docs", [point(2, 2)])
    assert count(client) == 2


def test_too_many_requests_with_and_without_retry_after(server: Loopback, client: QdrantClient) -> None:
    server.fail("error", status=429, retry_after=7, **WRITE)
    with pytest.raises(ResourceExhaustedResponse) as told:
        client.upsert("docs", [point(1, 1)])
    assert told.value.retry_after_s == 7
    server.fail("error", status=429, **WRITE)
    with pytest.raises(UnexpectedResponse) as untold:
        client.upsert("docs", [point(1, 1)])
    assert untold.value.status_code == 429
    assert count(client) == 0


@pytest.mark.parametrize(("kind", "written"), [("cut", 0), ("lost", 1)])
def test_a_dropped_connection(server: Loopback, client: QdrantClient, kind: str, written: int) -> None:
    """`cut` before the operation, `lost` behind it: the client cannot tell them apart."""
    server.fail(kind, **WRITE)
    with pytest.raises(ResponseHandlingException):
        client.upsert("docs", [point(1, 1)])
    assert count(client) == written


@pytest.mark.parametrize("after", [False, True])
def test_a_late_answer_is_a_timeout_and_the_write_happens(server: Loopback, client: QdrantClient, after: bool) -> None:
    """`after`: written at once and answered late. Otherwise the write itself comes when the client has given up."""
    server.fail("late", seconds=2.0, after=after, **WRITE)
    impatient = server.client(timeout=1)
    with pytest.raises(ResponseHandlingException, match="timed out"):
        impatient.upsert("docs", [point(1, 1)])
    assert count(client) == int(after)
    waited(lambda: count(client) == 1, "the late write has not come")


@pytest.mark.parametrize("after", [False, True])
def test_a_held_request_stands_still_until_it_is_released(server: Loopback, client: QdrantClient, after: bool) -> None:
    rule = server.fail("hold", after=after, **WRITE)
    writer = threading.Thread(target=lambda: server.client().upsert("docs", [point(1, 1)]))
    writer.start()
    server.wait_struck(rule)
    if after:
        waited(lambda: count(client) == 1, "the held write has not been applied")
    assert count(client) == int(after)
    server.release(rule)
    writer.join()
    assert count(client) == 1


def test_clear_lets_held_requests_go(server: Loopback, client: QdrantClient) -> None:
    rule = server.fail("hold", **WRITE)
    writer = threading.Thread(target=lambda: server.client().upsert("docs", [point(1, 1)]))
    writer.start()
    server.wait_struck(rule)
    server.clear()
    writer.join()
    assert count(client) == 1


def test_a_rule_skips_counts_and_draws(server: Loopback, client: QdrantClient) -> None:
    def outcomes(asked: int) -> list[bool]:
        results = []
        for number in range(asked):
            try:
                client.upsert("docs", [point(number, 1)])
                results.append(True)
            except UnexpectedResponse:
                results.append(False)
        return results

    server.fail("error", skip=2, times=3, **WRITE)
    assert outcomes(7) == [True, True, False, False, False, True, True]
    server.fail("error", times=None, share=0.5, seed=3, **WRITE)
    first = outcomes(30)
    server.clear()
    server.fail("error", times=None, share=0.5, seed=3, **WRITE)
    assert outcomes(30) == first
    assert 5 <= sum(first) <= 25
    server.clear()
    server.fail("error", body='"seq":77', **WRITE)
    client.upsert("docs", [point(1, 76)])
    with pytest.raises(UnexpectedResponse):
        client.upsert("docs", [point(1, 77)])


def test_conditions_are_told_and_taken_away(server: Loopback, client: QdrantClient) -> None:
    info = client.get_collection("docs")
    assert (info.status, info.optimizer_status) == (models.CollectionStatus.GREEN, models.OptimizersStatusOneOf.OK)
    assert info.update_queue is not None
    assert info.update_queue.length == 0
    assert client.get_optimizations("docs").summary.queued_points == 0
    server.conditions(
        "docs", status="yellow", update_queue=80, deferred_points=3, queued_points=500_000, optimizer_error="disk is full"
    )
    info = client.get_collection("docs")
    assert info.status == models.CollectionStatus.YELLOW
    assert info.optimizer_status == models.OptimizersStatusOneOf1(error="disk is full")
    assert info.update_queue == models.UpdateQueueInfo(length=80, deferred_points=3)
    assert client.get_optimizations("docs").summary.queued_points == 500_000
    server.conditions("docs", status="red")
    assert client.get_collection("docs").status == models.CollectionStatus.RED
    server.clear()
    assert client.get_collection("docs").status == models.CollectionStatus.GREEN


def test_the_log_tells_what_was_asked_and_what_struck(server: Loopback, client: QdrantClient) -> None:
    since = server.requests()[-1]["number"]
    server.fail("lost", **WRITE)
    with pytest.raises(ResponseHandlingException):
        client.upsert("docs", [point(1, 1)])
    client.upsert("docs", [point(1, 1)])
    told = [(asked["method"], asked["path"], asked["status"], asked["fault"]) for asked in server.requests(since)]
    path = "/collections/docs/points"
    assert told == [("PUT", path, None, "lost"), ("PUT", path, 200, None)]


def test_a_kill_while_a_write_is_held_loses_only_that_write(loopback: Callable[..., Loopback]) -> None:
    server = loopback(folder=True)
    client = server.client()
    client.create_collection("docs", vectors_config={"v1": COSINE})
    client.upsert("docs", [point(1, 1)])
    rule = server.fail("hold", **WRITE)
    seen: list[Exception] = []

    def write() -> None:
        try:
            server.client().upsert("docs", [point(2, 2)])
        except ResponseHandlingException as lost:
            seen.append(lost)

    writer = threading.Thread(target=write)
    writer.start()
    server.wait_struck(rule)
    began = time.monotonic()
    server.restart()
    writer.join()
    assert len(seen) == 1
    assert count(client) == 1
    assert time.monotonic() - began < 60
