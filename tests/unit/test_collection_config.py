"""What may be declared of a Qdrant collection: the client's own models decide, when the declaration is read."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from embed_pipeline.spec import IndexSpec
from embed_pipeline.stores.kind import kind_of

VERSION = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "m", "dimensions": 128}
SCALAR = {"scalar": {"type": "int8", "quantile": 0.99}}


def read(store: dict[str, Any] | None = None, version: dict[str, Any] | None = None, **more: Any) -> IndexSpec:
    declared = {"name": "docs", "store": {"kind": "qdrant"} | (store or {}), "versions": {"v1": VERSION | (version or {})}}
    return IndexSpec.model_validate(declared | more)


def test_what_the_api_has_is_taken() -> None:
    spec = read(
        {"collection_config": {"shard_number": 2, "replication_factor": 2, "strict_mode_config": {"enabled": True}}},
        {"store_config": {"quantization_config": SCALAR, "search_params": {"quantization": {"oversampling": 2.0}}}},
    )
    assert spec.store.model_dump()["collection_config"]["shard_number"] == 2
    assert spec.versions["v1"].store_config["quantization_config"] == SCALAR
    # It leaves every vector as it is.
    assert spec.versions["v1"].fingerprint({}) == read().versions["v1"].fingerprint({})


@pytest.mark.parametrize(
    ("store", "version", "words"),
    [
        ({"collection_config": {"hnsw_config": {"em": 3}}}, {}, r"store.collection_config.hnsw_config.em"),
        ({"collection_config": {"vectors": {"size": 3}}}, {}, r"store.collection_config.vectors"),
        ({"collection_config": {"shard_number": "many"}}, {}, r"store.collection_config.shard_number"),
        ({}, {"store_config": {"quantization_config": {"scalar": {"type": "int7"}}}}, "store_config.quantization_config"),
        ({}, {"store_config": {"search_params": {"hnsw_ef": 7}}}, "store_config.search_params.hnsw_ef"),
        ({"layout": "named_vectors"}, {"store_config": {"shard_number": 3}}, "declare it in store.collection_config"),
        (
            {"kind": "pgvector"},
            {"store_config": {"on_disk": True}},
            "versions.v1.store_config: a store of kind pgvector takes none",
        ),
    ],
)
def test_what_the_api_has_not_is_refused_when_it_is_read(store: dict[str, Any], version: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        read(store, version)


def test_a_payload_column_with_its_index() -> None:
    documents = {"table": "t", "key": "id", "text": "body", "payload": ["year", {"column": "category", "index": "keyword"}]}
    found = read(documents=documents).source()
    assert (found.payload, found.payload_indexes) == (["year", "category"], {"category": "keyword"})
    for wrong, words in (
        ({"payload": [{"column": "a", "indexed": True}]}, "a payload column is a name, or {column: NAME, index: KIND}"),
        ({"payload": [{"column": "a", "index": "hash"}]}, "payload_indexes.a"),
        ({"payload_indexes": {"page": "integer"}}, "page is no column of documents.payload"),
    ):
        with pytest.raises(ValidationError, match=words):
            read(documents={"table": "t", "key": "id", "text": "body"} | wrong)


@pytest.mark.parametrize(
    ("config", "quantized"),
    [({}, 0), (SCALAR, 128_000), ({"binary": {}}, 16_000), ({"product": {"compression": "x64"}}, 8_000)],
)
def test_the_bytes_of_a_plan_count_what_is_quantized(config: dict[str, Any], quantized: int) -> None:
    spec = read({}, {"store_config": {"quantization_config": config}} if config else {})
    assert kind_of(spec.store).disk(spec.store, 1_000, spec.versions["v1"], 1.0).quantized == quantized


def test_a_plan_says_how_the_collection_is_made() -> None:
    spec = read({"collection_config": {"on_disk_payload": True}}, {"store_config": {"search_params": {"indexed_only": True}}})
    collection, indexes, searched = kind_of(spec.store).made(spec.store, spec.source(), "v1", spec.versions["v1"])
    assert collection == "collection: as declared (on_disk_payload: true), else like the one that serves"
    assert "embed_pipeline.deleted_at (float), embed_pipeline.versions.v1.partition (integer)" in indexes
    assert searched == 'searched with {"indexed_only": true}'
    adopt = {"version": "v1", "collection": "old", "text": "body"}
    adopted = read({"adopt": adopt})
    assert (
        "made before it is first asked by them"
        in kind_of(adopted.store).made(adopted.store, adopted.source(), "v1", adopted.versions["v1"])[1]
    )
