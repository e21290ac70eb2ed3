"""The declaration: what makes a space of its own, and what does not."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from embed_pipeline.spec import NOT_IDENTITY, IndexSpec, PgvectorSpec, QdrantSpec, VersionSpec, read_store

BASE = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "m", "dimensions": 8}


@pytest.mark.parametrize(
    "change",
    [
        {"model_name": "other"},
        {"model_version": "2"},
        {"dimensions": 9},
        {"distance": "l2"},
        {"precision": "halfvec"},
        {"normalize": False},
        {"query_prefix": "query: "},
        {"document_prefix": "passage: "},
        {"max_tokens": 128},
        {"too_long": "truncate"},
        {"pooling": "cls"},
        {"options": {"salt": "x"}},
        {"chunker": {"size": 800}},
    ],
)
def test_what_decides_a_vector_is_in_the_fingerprint(change: dict[str, object]) -> None:
    assert VersionSpec.model_validate(BASE | change).fingerprint({}) != VersionSpec.model_validate(BASE).fingerprint({})


def test_the_embedders_identity_is_in_the_fingerprint() -> None:
    version = VersionSpec.model_validate(BASE)
    assert version.fingerprint({"model": "a"}) != version.fingerprint({"model": "b"})


@pytest.mark.parametrize("change", [{"batch_size": 7}, {"max_in_flight": 3}, {"hnsw": {"m": 32}}, {"model_sha256": "0" * 64}])
def test_what_decides_only_speed_is_not(change: dict[str, object]) -> None:
    assert set(change) <= NOT_IDENTITY
    assert VersionSpec.model_validate(BASE | change).fingerprint({}) == VersionSpec.model_validate(BASE).fingerprint({})


def test_an_index_without_a_table_gets_one_of_its_name() -> None:
    spec = IndexSpec.model_validate({"name": "docs", "versions": {"v1": BASE}})
    assert (spec.source().table, spec.source().key, spec.source().text) == ("public.docs", ["id"], ["title", "text"])


def test_each_field_of_a_chunker_is_in_the_fingerprint() -> None:
    def fingerprint(**chunker: object) -> str:
        return VersionSpec.model_validate(BASE | {"chunker": chunker}).fingerprint({})

    assert len({fingerprint(size=800), fingerprint(size=900), fingerprint(size=800, overlap=100)}) == 3


def test_a_version_without_a_chunker_keeps_the_fingerprint_it_always_had() -> None:
    """Computed before there were chunkers: another value would orphan every registered version."""
    plain = {"provider": "tests.fakes:HashEmbedder", "model_name": "hash", "dimensions": 16}
    assert VersionSpec.model_validate(plain).fingerprint({}) == (
        "dfa34ea53821c99cb619b705c64fa55bf04e0eea1ee8383f96671bd027c260e8"
    )
    other = {"provider": "tests.fakes:Fake", "model_name": "m", "dimensions": 3, "query_prefix": "q: ", "options": {"a": 1}}
    assert VersionSpec.model_validate(other | {"chunker": None}).fingerprint({"model": "abc"}) == (
        "842617fa6b3f0f72901dbba716ba2c224956b76b793a5427e8b462f59155f544"
    )


@pytest.mark.parametrize(
    ("chunker", "words"),
    [
        ({"size": 100, "overlap": 100}, r"overlap \(100\) must be smaller than size \(100\)"),
        ({"size": 0}, "greater than or equal to 1"),
        ({"size": 100, "overlap": -1}, "greater than or equal to 0"),
        ({"overlap": 10}, "Field required"),
        ({"kind": "sentences", "size": 100}, "Input should be 'recursive'"),
        ({"size": 100, "tokens": 3}, "Extra inputs are not permitted"),
    ],
)
def test_a_wrong_chunker_is_refused(chunker: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        VersionSpec.model_validate(BASE | {"chunker": chunker})


STORE = {"kind": "qdrant", "url": "http://127.0.0.1:6333"}


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ({"kind": "other"}, "there is no kind of store 'other'; use pgvector, qdrant"),
        ({"kind": "pgvector", "url": "http://x"}, "Extra inputs are not permitted"),
        (STORE | {"url": "127.0.0.1:6333"}, "must begin with http"),
        (STORE | {"url": "https://user:secret@host"}, "must hold no user, password or key"),
        (STORE | {"url": "https://host?api_key=secret"}, "must hold no user, password or key"),
        (STORE | {"path": "folder"}, "url and path are both given"),
        (STORE | {"layout": "one"}, "Input should be 'collections' or 'named_vectors'"),
        (STORE | {"adopt": {"version": "v1", "collection": "c"}}, "Field required"),
    ],
)
def test_a_wrong_store_is_refused(store: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        IndexSpec.model_validate({"name": "docs", "store": store, "versions": {"v1": BASE}})


def test_a_store_without_a_kind_is_pgvector() -> None:
    assert IndexSpec.model_validate({"name": "docs", "store": {}, "versions": {"v1": BASE}}).store == PgvectorSpec()


def test_each_store_has_its_own_limits() -> None:
    def index(store: dict[str, object], **version: object) -> IndexSpec:
        return IndexSpec.model_validate({"name": "docs", "store": store, "versions": {"v1": BASE | version}})

    with pytest.raises(ValidationError, match=r"versions\.v1\.dimensions: an index over vector in pgvector takes at most 2000"):
        index({}, dimensions=3072)
    assert index(STORE, dimensions=3072).versions["v1"].dimensions == 3072


def test_only_a_store_that_carries_payload_asks_for_it() -> None:
    """A table of that name that was there before has no column `metadata`, and needs none for pgvector."""
    index = {"name": "docs", "versions": {"v1": BASE}}
    assert IndexSpec.model_validate(index).source().payload_object is None
    assert IndexSpec.model_validate(index | {"store": STORE}).source().payload_object == "metadata"


def test_a_store_survives_the_catalog() -> None:
    store = QdrantSpec.model_validate(STORE | {"adopt": {"version": "v1", "collection": "c", "text": "body"}})
    assert read_store(store.model_dump(mode="json")) == store
    assert (store.place("docs"), set(store.adopted())) == ("qdrant, layout collections, collection docs", {"v1"})


@pytest.mark.parametrize(("slices", "words"), [
    ({"lang": {"values": ["de"]}}, "values needs margin: without it no slice decides"),
    ({"lang": {"margin": 0}}, "greater than 0"),
    ({"lang": {"margins": 0.1}}, "Extra inputs are not permitted"),
])  # fmt: skip
def test_wrong_slices_are_refused(slices: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        IndexSpec.model_validate({"name": "docs", "gate": {"slices": slices}, "versions": {"v1": BASE}})
