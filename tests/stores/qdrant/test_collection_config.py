"""How a new collection is made and searched: as declared, and below that like the one that serves."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from qdrant_client import models

from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import cutover, gate
from embed_pipeline.search import Searcher
from tests.harness.articles import fill, serve
from tests.harness.qdrant.loopback import Loopback
from tests.harness.stores import LAYOUTS, Declared
from tests.stores.holding import store_of

Open = Callable[..., OpenIndex]

SCALAR = {"scalar": {"type": "int8", "quantile": 0.99}}
SEARCHED = {"quantization": {"rescore": True, "oversampling": 2.0}}
FOR_ALL = {
    "replication_factor": 2,
    "on_disk": True,
    "hnsw_config": {"m": 24},
    "optimizers_config": {"max_segment_size": 70_000},
    "strict_mode_config": {"enabled": True, "max_query_limit": 1_000},
}


def version(**store_config: Any) -> dict[str, Any]:
    return {
        "provider": "tests.harness.fakes:HashEmbedder",
        "model_name": f"model {json.dumps(store_config)}",
        "dimensions": 16,
        "options": {"salt": json.dumps(store_config)},
        "store_config": store_config,
    }


@pytest.fixture(params=LAYOUTS)
def place(request: pytest.FixtureRequest, qdrant_at: Callable[[str], Declared]) -> Declared:
    return qdrant_at(f"loopback-{request.param}") | {"collection_config": FOR_ALL}


def made(index: OpenIndex, name: str) -> tuple[models.CollectionConfig, models.VectorParams]:
    store = store_of(index, name)
    config = store._engine.call(lambda client: client.get_collection(store.place.collection)).config
    vectors: Any = config.params.vectors
    return config, vectors[store.place.vector] if isinstance(vectors, dict) else vectors


def test_a_collection_is_made_as_declared(open_docs: Open, place: Declared) -> None:
    index = open_docs(versions={"v1": version(quantization_config=SCALAR, hnsw_config={"ef_construct": 90})}, store=place)
    config, params = made(index, "v1")
    assert config.params.replication_factor == 2
    assert config.optimizer_config.max_segment_size == 70_000
    assert config.strict_mode_config is not None
    assert config.strict_mode_config.max_query_limit == 1_000
    assert params.hnsw_config is not None
    # For all versions, over that for one, and below both what the version says of its graph.
    assert (params.hnsw_config.m, params.hnsw_config.ef_construct) == (24, 90)
    assert params.quantization_config is not None
    assert params.on_disk is True


def test_a_version_brings_its_own_beside_what_it_replaces(open_docs: Open, place: Declared) -> None:
    index = open_docs(versions={"v1": version(quantization_config=SCALAR)}, store=place)
    serve(index, "v1")
    binary = version(quantization_config={"binary": {"always_ram": True}})
    unquantized = version(quantization_config="Disabled")
    index = open_docs(
        versions={"v1": version(quantization_config=SCALAR), "v2": binary, "v3": unquantized, "v4": version()}, store=place
    )
    assert isinstance(made(index, "v2")[1].quantization_config, models.BinaryQuantization)
    assert made(index, "v3")[1].quantization_config is None
    # Nothing is said of it: as the one that serves.
    assert isinstance(made(index, "v4")[1].quantization_config, models.ScalarQuantization)
    assert made(index, "v2")[0].params.replication_factor == 2


def test_readers_and_the_gate_search_as_declared(
    open_docs: Open, place: Declared, shared_loopback: Loopback, database_url: str
) -> None:
    index = open_docs(versions={"v1": version(quantization_config=SCALAR, search_params=SEARCHED)}, store=place)
    fill(index, "v1")

    def searched(since: int) -> list[Any]:
        asked = [json.loads(each["body"]) for each in shared_loopback.requests(since) if each["path"].endswith("/points/query")]
        return [each["params"].get("quantization") for each in asked if not each["params"]["exact"]]

    before = shared_loopback.requests()[-1]["number"]
    gate.run(index, "v1")
    cutover.cutover(index, "v1")
    by_the_gate = searched(before)
    before = shared_loopback.requests()[-1]["number"]
    with Searcher("docs", database_url) as searcher:
        searcher.search("title 5\n\nbody 5", k=3)
    assert by_the_gate == [SEARCHED["quantization"]] * len(by_the_gate) != []
    assert searched(before) == [SEARCHED["quantization"]]


def test_what_was_judged_otherwise_is_judged_again(open_docs: Open, place: Declared) -> None:
    index = open_docs(versions={"v1": version(quantization_config=SCALAR, search_params=SEARCHED)}, store=place)
    fill(index, "v1")
    gate.run(index, "v1")
    other = version(quantization_config=SCALAR, search_params=SEARCHED)
    other["store_config"] = {"quantization_config": SCALAR}
    index = open_docs(versions={"v1": other}, store=place)
    with pytest.raises(Exception, match="the ANN index was built anew, or is searched otherwise"):
        cutover.cutover(index, "v1")
