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
