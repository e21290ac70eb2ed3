"""The loopback server answers the real client as a server does: what it keeps, how it refuses, what it survives."""

from __future__ import annotations

import json
import multiprocessing
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from tests.harness.qdrant.conftest import Target
from tests.harness.qdrant.loopback import Loopback
from tests.harness.qdrant.narrowed import Narrowed, conditions, named_ids
from tests.harness.qdrant.test_engine_agrees import at_seq, by_name, guard, has, point, state

# Of the server that other tests stand on: for the soak, like other long tests.
pytestmark = pytest.mark.soak


COSINE = models.VectorParams(size=4, distance=models.Distance.COSINE)
LIVE = "live"


def alias_to(collection: str, alias: str = LIVE) -> models.CreateAliasOperation:
    return models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=collection, alias_name=alias))


def without_alias(alias: str = LIVE) -> models.DeleteAliasOperation:
    return models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))


def refused(status: int, call: Callable[..., Any], *args: Any, **options: Any) -> str:
    """The call is refused with that status; what the server said."""
    with pytest.raises(UnexpectedResponse) as caught:
        call(*args, **options)
    assert caught.value.status_code == status
    return str(caught.value.structured()["status"]["error"])


@pytest.fixture
def client(shared_loopback: Loopback) -> QdrantClient:
    """A client of a server without collections."""
    shared_loopback.clear()
    client = shared_loopback.client()
    for collection in client.get_collections().collections:
        client.delete_collection(collection.name)
    return client


def test_a_point_goes_round_on_every_target(qdrant: Target) -> None:
    """What one client can do on all targets: an alias, a guarded write, a search, a count, a scroll."""
    client, name, alias = qdrant.client, qdrant.name(), qdrant.name("alias")
    client.create_collection(name, vectors_config={"v1": COSINE}, metadata={"owner": "tests"})
    client.update_collection_aliases([alias_to(name, alias)])
    client.create_payload_index(name, "embed_pipeline.seq", models.PayloadSchemaType.INTEGER)
    client.upsert(alias, [point(1, 1, text="one"), point(2, 2, text="two"), point(3, 3, {})])
    client.upsert(alias, [point(1, 5), point(2, 5)], update_filter=guard({1: 1, 2: 9}), update_mode=models.UpdateMode.UPDATE_ONLY)
    assert {number: payload["embed_pipeline"]["seq"] for number, (payload, _) in state(client, alias).items()} == {
        1: 5,
        2: 2,
        3: 3,
    }
    assert client.count(name, exact=True).count == 3
    assert client.count(name, count_filter=has("v1"), exact=True).count == 2
    assert {hit.id for hit in client.query_points(alias, [1.0, 0.0, 0.0, 0.0], using="v1").points} == {1, 2}
    assert client.get_collection(name).config.metadata == {"owner": "tests"}
    client.update_collection(name, metadata={"owner": None, "more": {"a": None}})
    assert client.get_collection(name).config.metadata == {"more": {"a": None}}
    assert [found.alias_name for found in client.get_collection_aliases(name).aliases] == [alias]


def test_the_declared_configuration_is_given_back(client: QdrantClient) -> None:
    quantized = models.ScalarQuantization(scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99))
    client.create_collection(
        "docs",
        vectors_config=models.VectorParams(
            size=4,
            distance=models.Distance.DOT,
            on_disk=True,
            datatype=models.Datatype.FLOAT16,
            hnsw_config=models.HnswConfigDiff(m=24),
        ),
        sparse_vectors_config={"words": models.SparseVectorParams(modifier=models.Modifier.IDF)},
        hnsw_config=models.HnswConfigDiff(m=32, on_disk=True),
        optimizers_config=models.OptimizersConfigDiff(indexing_threshold=77),
        wal_config=models.WalConfigDiff(wal_capacity_mb=64),
        quantization_config=quantized,
        shard_number=3,
        replication_factor=2,
        write_consistency_factor=2,
        on_disk_payload=False,
        strict_mode_config=models.StrictModeConfig(enabled=True, max_query_limit=50),
        metadata={"kept": {"deep": None}},
    )
    config = client.get_collection("docs").config
    params = config.params
    assert isinstance(params.vectors, models.VectorParams)
    assert (params.vectors.size, params.vectors.on_disk, params.vectors.datatype) == (4, True, models.Datatype.FLOAT16)
    assert params.vectors.hnsw_config == models.HnswConfigDiff(m=24)
    assert params.sparse_vectors == {"words": models.SparseVectorParams(modifier=models.Modifier.IDF)}
    assert (params.shard_number, params.replication_factor, params.write_consistency_factor) == (3, 2, 2)
    assert params.on_disk_payload is False
    assert (config.hnsw_config.m, config.hnsw_config.on_disk, config.hnsw_config.ef_construct) == (32, True, 100)
    assert config.optimizer_config.indexing_threshold == 77
    assert config.wal_config is not None
    assert config.wal_config.wal_capacity_mb == 64
    assert config.quantization_config == quantized
    assert config.strict_mode_config is not None
    assert config.strict_mode_config.max_query_limit == 50
    assert config.metadata == {"kept": {"deep": None}}


def test_changes_of_the_configuration_are_laid_over_it(client: QdrantClient) -> None:
    client.create_collection("docs", vectors_config={"v1": COSINE}, hnsw_config=models.HnswConfigDiff(m=32))
    binary = models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
    client.update_collection(
        "docs",
        vectors_config={"v1": models.VectorParamsDiff(on_disk=True, quantization_config=binary)},
        hnsw_config=models.HnswConfigDiff(ef_construct=200),
        optimizers_config=models.OptimizersConfigDiff(indexing_threshold=5),
        quantization_config=binary,
        collection_params=models.CollectionParamsDiff(replication_factor=4),
    )
    config = client.get_collection("docs").config
    assert isinstance(config.params.vectors, dict)
    assert config.params.vectors["v1"].on_disk is True
    assert config.params.vectors["v1"].quantization_config == binary
    assert (config.hnsw_config.m, config.hnsw_config.ef_construct) == (32, 200)
    assert config.params.replication_factor == 4
    assert config.quantization_config == binary
    client.update_collection("docs", quantization_config=models.Disabled.DISABLED)
    assert client.get_collection("docs").config.quantization_config is None


def test_added_vectors_and_payload_indexes_are_told(client: QdrantClient) -> None:
    client.create_collection("docs", vectors_config=COSINE)
    dense = models.DenseVectorConfig(size=2, distance=models.Distance.DOT, datatype=models.Datatype.FLOAT16)
    client.create_vector_name("docs", "v2", models.DenseVectorNameConfig(dense=dense))
    vectors = client.get_collection("docs").config.params.vectors
    assert isinstance(vectors, dict)
    assert {name: (params.size, params.datatype) for name, params in vectors.items()} == {
        "": (4, None),
        "v2": (2, models.Datatype.FLOAT16),
    }
    client.delete_vector_name("docs", "v2")
    assert list(client.get_collection("docs").config.params.vectors or {}) == [""]
    client.create_payload_index("docs", "text", models.TextIndexParams(type=models.TextIndexType.TEXT, lowercase=True))
    client.create_payload_index("docs", "embed_pipeline.seq", models.PayloadSchemaType.INTEGER)
    client.upsert("docs", [point(1, 1, {}, text="there"), point(2, 2, {})])
    schema = client.get_collection("docs").payload_schema
    assert {name: (index.data_type.value, index.points) for name, index in schema.items()} == {
        "text": ("text", 1),
        "embed_pipeline.seq": ("integer", 2),
    }
    assert isinstance(schema["text"].params, models.TextIndexParams)
    assert schema["text"].params.lowercase is True
    client.delete_payload_index("docs", "text")
    assert list(client.get_collection("docs").payload_schema) == ["embed_pipeline.seq"]


def test_what_is_wrong_is_refused_in_the_servers_form(client: QdrantClient) -> None:
    client.create_collection("docs", vectors_config={"v1": COSINE})
    assert refused(404, client.get_collection, "nowhere") == "Not found: Collection `nowhere` doesn't exist!"
    assert refused(409, client.create_collection, "docs", vectors_config=COSINE).endswith("Collection `docs` already exists!")
    assert "dimension" in refused(400, client.upsert, "docs", [point(1, 1, {"v1": [1.0]})])
    assert "Not existing vector name error: v9" in refused(400, client.query_points, "docs", [1.0], using="v9")
    assert "No point with id 5" in refused(404, client.set_payload, "docs", {"a": 1}, [5])
    for wrong in (-1, "not a uuid"):
        assert "Format error" in refused(400, client.upsert, "docs", [models.PointStruct(id=wrong, vector={}, payload={})])
    assert client.delete_collection("nowhere") is False
    assert client.collection_exists("nowhere") is False


def test_a_refused_change_of_aliases_keeps_what_came_before_it(client: QdrantClient) -> None:
    """As on a server: delete and create in one request can leave no alias at all; one create moves it whole."""
    client.create_collection("one", vectors_config=COSINE)
    client.create_collection("two", vectors_config=COSINE)
    client.update_collection_aliases([alias_to("one")])
    client.update_collection_aliases([alias_to("two")])
    assert [(a.alias_name, a.collection_name) for a in client.get_aliases().aliases] == [(LIVE, "two")]
    refused(404, client.update_collection_aliases, [without_alias(), alias_to("typo")])
    assert client.get_aliases().aliases == []
    refused(409, client.update_collection_aliases, [alias_to("one", "two")])


def test_a_batch_stops_at_the_first_refused_operation(client: QdrantClient) -> None:
    client.create_collection("docs", vectors_config={"v1": COSINE})
    steps = [
        models.UpsertOperation(upsert=models.PointsList(points=[point(1, 1)])),
        models.SetPayloadOperation(set_payload=models.SetPayload(payload={"a": 1}, points=[99])),
        models.UpsertOperation(upsert=models.PointsList(points=[point(2, 2)])),
    ]
    refused(404, client.batch_update_points, "docs", steps)
    assert list(state(client, "docs")) == [1]


def test_a_half_float_vector_is_read_rounded(client: QdrantClient) -> None:
    half = models.VectorParams(size=4, distance=models.Distance.DOT, datatype=models.Datatype.FLOAT16)
    client.create_collection("docs", vectors_config=half)
    client.upsert("docs", [point(1, 1, [0.1, 0.2, 1.0, 2.0])])
    assert by_name(client.retrieve("docs", [1], with_vectors=True)[0].vector)[""] == [0.0999755859375, 0.199951171875, 1.0, 2.0]


def test_the_key_is_asked_for(loopback: Callable[..., Loopback]) -> None:
    server = loopback(api_key="secret")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the client does not like a key without TLS
        assert server.client().get_collections().collections == []
        for key, word in {None: b"Must provide", "wrong": b"Invalid API key"}.items():
            with pytest.raises(UnexpectedResponse) as caught:
                server.client(api_key=key).get_collections()
            assert caught.value.status_code == 401
            assert word in caught.value.content
    assert all("secret" not in str(asked) for asked in server.requests())


def test_the_version_is_the_one_asked_for(loopback: Callable[..., Loopback], shared_loopback: Loopback) -> None:
    assert shared_loopback.client().info().version == "1.19.2"
    assert loopback(version="1.16.0").client().info().version == "1.16.0"


def test_everything_answered_outlives_a_kill(loopback: Callable[..., Loopback]) -> None:
    server = loopback(folder=True)
    client, url = server.client(), server.url
    client.create_collection("docs", vectors_config={"v1": COSINE}, hnsw_config=models.HnswConfigDiff(m=40), metadata={"v": 1})
    client.create_payload_index("docs", "text", models.PayloadSchemaType.KEYWORD)
    client.update_collection_aliases([alias_to("docs")])
    client.create_collection("gone", vectors_config=COSINE)
    client.delete_collection("gone")
    client.upsert(LIVE, [point(number, number, text="kept") for number in range(300)])
    client.delete(LIVE, [7])
    client.create_vector_name("docs", "v2", models.DenseVectorNameConfig(dense=models.DenseVectorConfig(size=2, distance="Dot")))
    before, told = state(client, LIVE), client.get_collection("docs")
    server.restart()
    assert server.url == url
    assert state(client, LIVE).keys() == before.keys()
    assert client.get_collection("docs").config == told.config
    assert client.get_collection("docs").payload_schema == told.payload_schema
    assert [found.name for found in client.get_collections().collections] == ["docs"]


def test_without_a_folder_a_kill_ends_everything(loopback: Callable[..., Loopback]) -> None:
    server = loopback()
    server.client().create_collection("docs", vectors_config=COSINE)
    server.restart()
    assert server.client().get_collections().collections == []


WRITERS, ROUNDS, OWN = 3, 25, 20
# Where the points that say who won which seq have their ids.
WON = 1_000_000


def counting(url: str, writer: int, start: Any) -> None:
    """Raise the seq of point 0 by compare-and-set, whoever else does the same, and insert points of this writer's own."""
    client = QdrantClient(url=url, check_compatibility=False)
    start.wait()
    for turn in range(ROUNDS):
        first = 1 + (writer * ROUNDS + turn) * OWN
        client.upsert("docs", [point(number, writer) for number in range(first, first + OWN)])
        while True:
            seq = client.retrieve("docs", [0])[0].payload["embed_pipeline"]["seq"]  # type: ignore[index]
            mine = [point(0, seq + 1, {}, writer=writer)]
            client.upsert("docs", mine, update_filter=guard({0: seq}), update_mode=models.UpdateMode.UPDATE_ONLY)
            stored = client.scroll("docs", scroll_filter=at_seq(0, seq + 1))[0]
            if stored and stored[0].payload == mine[0].payload:
                client.upsert("docs", [point(WON + writer * ROUNDS + turn, seq + 1, {})])
                break


def test_writes_of_many_processes_exclude_each_other(client: QdrantClient, shared_loopback: Loopback) -> None:
    """No seq is won by two, and writes beside each other lose no points."""
    client.create_collection("docs", vectors_config={"v1": COSINE})
    client.upsert("docs", [point(0, 0, {})])
    spawned = multiprocessing.get_context("spawn")
    start = spawned.Barrier(WRITERS)
    workers = [spawned.Process(target=counting, args=(shared_loopback.url, writer, start)) for writer in range(WRITERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    won = [payload["embed_pipeline"]["seq"] for number, (payload, _) in state(client, "docs").items() if number >= WON]
    assert len(won) == len(set(won)) == WRITERS * ROUNDS
    assert client.count("docs", count_filter=has("v1")).count == WRITERS * ROUNDS * OWN


def test_a_kill_between_forgetting_a_collection_and_removing_its_folder(loopback: Callable[..., Loopback]) -> None:
    """The next collection of that name starts empty."""
    server = loopback(folder=True)
    client = server.client()
    client.create_collection("docs", vectors_config={"v1": COSINE})
    client.upsert("docs", [point(1, 1)])
    server.kill()
    assert server.folder is not None
    meta = server.folder / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "collections": {}}))
    server.start()
    client.create_collection("docs", vectors_config={"v1": COSINE})
    assert client.count("docs").count == 0


def test_a_narrowed_filter_says_what_the_whole_one_says() -> None:
    """For every point: no clause that names another id can be true, and an id without a clause is refused."""
    other = models.FieldCondition(key="a", match=models.MatchValue(value=1))
    whole = models.Filter(should=[*conditions(guard({1: 5, 2: 6}).should), models.Filter(must=[other])])
    narrowed = Narrowed(whole)
    assert [len(conditions(narrowed.at(number).should)) for number in (1, 2, 3)] == [2, 2, 1]
    assert named_ids(whole) is None
    assert named_ids(guard({1: 5, 2: 6})) == {1, 2}
    # Nothing named: the should must not become empty, which would let everything through.
    assert conditions(Narrowed(guard({1: 5})).at(9).should) == conditions(guard({1: 5}).should)


def test_a_folder_is_not_opened_twice(tmp_path: Path) -> None:
    with Loopback(tmp_path), pytest.raises(RuntimeError, match="already accessed"):
        QdrantClient(path=str(tmp_path))
