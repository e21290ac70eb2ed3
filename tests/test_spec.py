"""The declaration: what makes a space of its own, and what does not."""

from __future__ import annotations

import pytest

from embed_pipeline.spec import NOT_IDENTITY, IndexSpec, VersionSpec

BASE = {"provider": "tests.fakes:HashEmbedder", "model_name": "m", "dimensions": 8}


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
