"""Making room for a version and taking it away: finished by whoever comes next, and refused where it would do harm."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from qdrant_client import models

from embed_pipeline.errors import ConfigurationError, StoreUnavailable
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import retire
from embed_pipeline.search import Searcher
from tests.harness.articles import fill, serve
from tests.harness.qdrant.loopback import Loopback
from tests.harness.stores import LAYOUTS, Declared
from tests.stores.holding import points, store_of

Open = Callable[..., OpenIndex]
At = Callable[[str], Declared]


def test_a_collection_is_finished_when_its_maker_died(open_docs: Open, qdrant_at: At, shared_loopback: Loopback) -> None:
    """It was made, and neither its payload indexes nor the hold on its ANN index were there when the maker went."""
    store = qdrant_at("loopback-collections")
    index = open_docs("v1", store=store)
    serve(index, "v1")
    client = shared_loopback.client()
    client.create_payload_index(store_of(index, "v1").place.collection, "year", models.PayloadSchemaType.INTEGER)
    shared_loopback.fail("error", status=500, method="^PUT$", path="/index$")
    with pytest.raises(StoreUnavailable):
        open_docs("v1", "v2", store=store)
    shared_loopback.clear()
    index = open_docs("v1", "v2", store=store)
    made = client.get_collection(store_of(index, "v2").place.collection)
    assert made.payload_schema["year"].data_type == models.PayloadSchemaType.INTEGER
    assert made.config.optimizer_config.indexing_threshold == 0
    fill(index, "v2")
    assert client.get_collection(store_of(index, "v2").place.collection).config.optimizer_config.indexing_threshold == 10_000


def test_a_named_vector_is_finished_when_its_maker_died(open_docs: Open, qdrant_at: At, shared_loopback: Loopback) -> None:
    """It was added, and had no settings of the vector beside it yet."""
    store = qdrant_at("loopback-named_vectors")
    index = open_docs("v1", store=store)
    first = store_of(index, "v1").place
    client = shared_loopback.client()
    client.update_collection(first.collection, vectors_config={first.vector: models.VectorParamsDiff(on_disk=True)})
    shared_loopback.fail("error", status=500, method="^PATCH$", path=f"/collections/{first.collection}$")
    with pytest.raises(StoreUnavailable):
        open_docs("v1", "v2", store=store)
    shared_loopback.clear()
    second = store_of(open_docs("v1", "v2", store=store), "v2").place
    vectors = client.get_collection(first.collection).config.params.vectors
    assert isinstance(vectors, dict)
    assert vectors[second.vector].on_disk is True


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shard_keys_of_ones_own_are_refused(open_docs: Open, qdrant_at: At, shared_loopback: Loopback, layout: str) -> None:
    store = qdrant_at(f"loopback-{layout}")
    existing = f"{store['collection']}_existing"
    params = models.VectorParams(size=16, distance=models.Distance.COSINE)
    shared_loopback.client().create_collection(existing, {"text": params}, sharding_method=models.ShardingMethod.CUSTOM)
    adopt = {"version": "v1", "collection": existing, "vector": "text", "text": "body"}
    version = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "m", "dimensions": 16}
    with pytest.raises(ConfigurationError, match=f"{existing} is sharded by keys of your own"):
        open_docs(store=store | {"adopt": adopt}, versions={"v2": version})


def test_a_collection_that_readers_follow_is_not_dropped(open_docs: Open, qdrant_at: At) -> None:
    """Qdrant would take the alias away with it."""
    index = open_docs("v1", store=qdrant_at("loopback-collections"))
    serve(index, "v1")
    store = store_of(index, "v1")
    with index.connection() as conn, pytest.raises(ConfigurationError, match=f"still leads to {store.place.collection}"):
        store.drop(conn)


@pytest.mark.parametrize("place", ["local", "loopback"])
def test_a_retired_version_leaves_nothing_in_shared_points(open_docs: Open, qdrant_at: At, place: str) -> None:
    index = open_docs("v1", "v2", store=qdrant_at(f"{place}-named_vectors"))
    serve(index, "v1")
    serve(index, "v2")
    retire.retire(index, "v1", confirm="v1")
    held = points(index, "v2")
    assert {name for record in held for name in (record.payload or {})["embed_pipeline"]["versions"]} == {"v2"}
    assert {name for record in held for name in record.vector or {}} == {store_of(index, "v2").place.vector}


def test_a_field_with_a_dot_in_its_name_can_be_filtered_by(
    app: psycopg.Connection, open_docs: Open, qdrant_at: At, database_url: str
) -> None:
    """In a filter a dot leads into an object: a column's own name is one field."""
    app.execute('ALTER TABLE articles ADD COLUMN "a.b" integer')
    app.execute('UPDATE articles SET "a.b" = id % 2')
    documents = {"table": "articles", "key": "id", "text": ["title", "body"], "payload": ["a.b"]}
    index = open_docs("v1", store=qdrant_at("loopback-collections"), documents=documents)
    serve(index, "v1")
    with Searcher("docs", database_url) as searcher:
        hits = searcher.search("anything", k=100, where={"a.b": 1}).hits
    assert {int(hit.doc_id) % 2 for hit in hits} == {1}
