"""The loopback server under strict mode answers as a real one does: codes, words, and what its rate limits count."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse

from tests.harness.qdrant.loopback import Loopback
from tests.harness.qdrant.strict import CLOUD
from tests.harness.qdrant.test_loopback import COSINE, refused

# Of the server that other tests stand on: for the soak, like other long tests.
pytestmark = pytest.mark.soak

NAME = "strict"
FIELD = models.FieldCondition(key="embed_pipeline.deleted_at", range=models.Range(lt=1.0))


@pytest.fixture
def client(shared_loopback: Loopback) -> Iterator[QdrantClient]:
    shared_loopback.clear()
    client = shared_loopback.client()
    yield client
    client.delete_collection(NAME)
    shared_loopback.clear()


def made(client: QdrantClient, shared_loopback: Loopback, points: int = 0, minute: float = 60.0, **limits: Any) -> None:
    shared_loopback.strict(minute, **{**CLOUD, **limits})
    client.create_collection(NAME, vectors_config={"v1": COSINE})
    shared_loopback.strict()
    if points:
        put(client, points)


def put(client: QdrantClient, points: int, **options: Any) -> None:
    client.upsert(
        NAME, [models.PointStruct(id=n, vector={"v1": [1, 0, 0, n]}, payload={"n": n}) for n in range(points)], **options
    )


def by(*conditions: Any) -> models.Filter:
    return models.Filter(must=list(conditions))


def test_a_filter_without_its_index(client: QdrantClient, shared_loopback: Loopback) -> None:
    made(client, shared_loopback, points=3)
    words = 'Bad request: Index required but not found for "embed_pipeline.deleted_at" of one of the following types: [float, integer].'
    help = "Help: Create an index for this key or use a different filter."
    asked: list[Callable[..., Any]] = [
        lambda wanted: client.count(NAME, count_filter=wanted),
        lambda wanted: client.scroll(NAME, scroll_filter=wanted),
        lambda wanted: client.query_points(NAME, [1.0, 0, 0, 0], using="v1", query_filter=wanted),
        lambda wanted: client.delete(NAME, points_selector=models.FilterSelector(filter=wanted)),
        lambda wanted: client.delete_payload(NAME, ["n"], points=wanted),
    ]
    for ask in asked:
        assert refused(400, ask, by(FIELD)) == f"{words} {help}"
    # Nested, or one that nothing needs: and a conditional write is not looked at.
    assert "deleted_at" in refused(400, asked[0], models.Filter(must_not=[by(FIELD)]))
    assert asked[0](by(models.HasVectorCondition(has_vector="v1"), models.HasIdCondition(has_id=[1]))).count == 1
    put(client, 3, update_filter=by(FIELD))
    client.create_payload_index(NAME, "embed_pipeline.deleted_at", models.PayloadSchemaType.FLOAT)
    for ask in asked:
        ask(by(FIELD))


@pytest.mark.parametrize(
    ("schema", "condition", "served"),
    [
        ("keyword", models.FieldCondition(key="k", match=models.MatchAny(any=["a"])), True),
        ("keyword", models.FieldCondition(key="k", match=models.MatchValue(value=1)), False),
        ("keyword", models.IsNullCondition(is_null=models.PayloadField(key="k")), True),
        ("uuid", models.FieldCondition(key="k", match=models.MatchValue(value="00000000-0000-0000-0000-000000000001")), True),
        ("uuid", models.FieldCondition(key="k", match=models.MatchValue(value="a")), False),
        ("bool", models.FieldCondition(key="k", match=models.MatchValue(value=True)), True),
        ("integer", models.FieldCondition(key="k", range=models.Range(lt=1)), True),
        ("float", models.FieldCondition(key="k", match=models.MatchValue(value=1)), False),
        ("datetime", models.FieldCondition(key="k", range=models.DatetimeRange(lt="2026-01-01T00:00:00Z")), True),
        ("float", models.FieldCondition(key="k", match=models.MatchAny(any=[])), True),
    ],
)
def test_which_index_serves_what(
    client: QdrantClient, shared_loopback: Loopback, schema: str, condition: Any, served: bool
) -> None:
    made(client, shared_loopback)
    client.create_payload_index(NAME, "k", models.PayloadSchemaType(schema))
    if served:
        client.count(NAME, count_filter=by(condition))
    else:
        assert "Index required but not found" in refused(400, client.count, NAME, count_filter=by(condition))


def test_an_integer_index_for_matches_alone(client: QdrantClient, shared_loopback: Loopback) -> None:
    made(client, shared_loopback)
    client.create_payload_index(
        NAME, "k", models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, lookup=True, range=False)
    )
    client.count(NAME, count_filter=by(models.FieldCondition(key="k", match=models.MatchValue(value=1))))
    refused(400, client.count, NAME, count_filter=by(models.FieldCondition(key="k", range=models.Range(lt=1))))


@pytest.mark.parametrize(
    ("limits", "ask", "words"),
    [
        (
            {"upsert_max_batchsize": 2},
            lambda c: put(c, 3),
            'Limit exceeded 3 > 2 for "upsert limit". Help: Reduce the "upsert limit"',
        ),
        ({"max_query_limit": 5}, lambda c: c.scroll(NAME, limit=6), 'Limit exceeded 6 > 5 for "limit". Help: Reduce the "limit"'),
        ({"max_query_limit": 5}, lambda c: c.scroll(NAME), 'Limit exceeded 10 > 5 for "limit"'),
        ({"search_allow_exact": False}, lambda c: c.count(NAME), "Exact search disabled!. Help: Set exact=false."),
        (
            {"search_allow_exact": False},
            lambda c: c.query_points(NAME, [1, 0, 0, 0], using="v1", search_params=models.SearchParams(exact=True)),
            "Exact search disabled!",
        ),
        (
            {"search_max_hnsw_ef": 5},
            lambda c: c.query_points(NAME, [1, 0, 0, 0], using="v1", search_params=models.SearchParams(hnsw_ef=6)),
            'Limit exceeded 6 > 5 for "hnsw_ef"',
        ),
        ({"max_timeout": 2}, lambda c: c.scroll(NAME, timeout=3), 'Limit exceeded 3 > 2 for "timeout"'),
        (
            {"filter_max_conditions": 1},
            lambda c: c.count(
                NAME, count_filter=by(models.HasVectorCondition(has_vector="v1"), models.HasIdCondition(has_id=[1]))
            ),
            "Filter condition limit reached (2 > 1)",
        ),
        (
            {"condition_max_size": 2},
            lambda c: c.count(NAME, count_filter=by(models.HasIdCondition(has_id=[1, 2, 3]))),
            "Condition size limit reached (3 > 2)",
        ),
        (
            {"search_max_batchsize": 1},
            lambda c: c.query_batch_points(NAME, [models.QueryRequest(query=[1, 0, 0, 0], using="v1")] * 2),
            'Limit exceeded 2 > 1 for "search batch size"',
        ),
        (
            {"max_payload_index_count": 0},
            lambda c: c.create_payload_index(NAME, "k", models.PayloadSchemaType.KEYWORD),
            "Collection already has the maximum number of payload indices (0). Help: Please delete an existing index",
        ),
    ],
)
def test_each_limit_in_the_servers_words(
    client: QdrantClient, shared_loopback: Loopback, limits: dict[str, Any], ask: Callable[[QdrantClient], Any], words: str
) -> None:
    made(client, shared_loopback, **limits)
    assert f"Bad request: {words}" in refused(400, ask, client)
    client.update_collection(NAME, strict_mode_config=models.StrictModeConfig(enabled=False))
    ask(client)


def test_what_a_rate_limit_counts(client: QdrantClient, shared_loopback: Loopback) -> None:
    made(client, shared_loopback, points=10, write_rate_limit=20, read_rate_limit=20)
    client.retrieve(NAME, [1, 2, 3])
    client.scroll(NAME, scroll_filter=by(models.HasIdCondition(has_id=list(range(10)))))
    client.query_points(NAME, [1.0, 0.0, 0.0, 0.0], using="v1")
    client.delete(NAME, points_selector=[1, 2])
    assert shared_loopback.rates(NAME)["spent"] == {"Read": 3 + 2 + 1, "Write": 10 + 2}
    with pytest.raises(
        ResourceExhaustedResponse, match="Write rate limit exceeded: Operation requires 10 tokens but only 8"
    ) as busy:
        put(client, 10)
    # Two tokens, at one in three seconds.
    assert 5 <= busy.value.retry_after_s <= 7
    assert shared_loopback.rates(NAME)["refusals"] == {"Read": 0, "Write": 1}
    assert "request larger than" in refused(429, put, client, 21)
