"""Laws of the maps between two spaces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from embed_pipeline.embedders import maps
from embed_pipeline.embedders.maps import KINDS, Kind, fit

Matrix = NDArray[np.float32]
ORTHOGONAL: tuple[Kind, ...] = ("procrustes", "procrustes_centred")

# What a map is fitted on in these tests; the laws hold of any.
seeds = st.integers(0, 2**32 - 1)
dimensions = st.integers(2, 24)


def cloud(seed: int, rows: int, dims: int) -> Matrix:
    """Vectors of length 1 that crowd around a direction, as those of a model do."""
    random = np.random.default_rng(seed)
    found = random.normal(size=(rows, dims)) + 0.5 * random.normal(size=dims)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def isometry(seed: int, narrow: int, wide: int) -> Matrix:
    found, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(wide, narrow)))
    return np.ascontiguousarray(found.T, dtype=np.float32)


def ranking(documents: Matrix, query: Matrix) -> list[int]:
    return np.argsort(-(documents.astype(np.float64) @ query.astype(np.float64)), kind="stable").tolist()


@pytest.mark.parametrize("kind", ORTHOGONAL)
@given(seed=seeds, source=dimensions, target=dimensions)
@settings(max_examples=40, deadline=None)
def test_what_procrustes_finds_is_orthogonal(kind: Kind, seed: int, source: int, target: int) -> None:
    found = fit(kind, cloud(seed, 60, source), cloud(seed + 1, 60, target)).weights
    square = found @ found.T if source <= target else found.T @ found
    np.testing.assert_allclose(square, np.eye(min(source, target)), atol=1e-5)


@pytest.mark.parametrize("kind", ORTHOGONAL)
@given(seed=seeds, dims=dimensions)
@settings(max_examples=40, deadline=None)
def test_a_planted_rotation_is_recovered(kind: Kind, seed: int, dims: int) -> None:
    sources, rotation = cloud(seed, 80, dims), isometry(seed + 1, dims, dims)
    found = fit(kind, sources, sources @ rotation)
    np.testing.assert_allclose(found.weights, rotation, atol=1e-4)
    np.testing.assert_allclose(found.apply(sources), sources @ rotation, atol=1e-4)


@pytest.mark.parametrize("kind", ORTHOGONAL)
def test_a_planted_isometry_into_more_dimensions_ranks_like_the_old_model(kind: Kind) -> None:
    planted, sources = isometry(1, 256, 384), cloud(2, 600, 256)
    found = fit(kind, sources, sources @ planted)
    np.testing.assert_allclose(found.weights, planted, atol=1e-4)
    documents, queries = cloud(3, 200, 256), cloud(4, 20, 256)
    for query in queries:
        assert ranking(documents @ planted, found.apply(query)) == ranking(documents, query)


@pytest.mark.parametrize("kind", ORTHOGONAL)
def test_a_planted_isometry_is_recovered_from_the_wider_side(kind: Kind) -> None:
    planted, narrow = isometry(1, 256, 384), cloud(2, 600, 256)
    found = fit(kind, narrow @ planted, narrow)
    np.testing.assert_allclose(found.apply(narrow @ planted), narrow, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds, source=dimensions, target=dimensions)
@settings(max_examples=25, deadline=None)
def test_a_rotation_of_the_old_space_changes_no_ranking(kind: Kind, seed: int, source: int, target: int) -> None:
    """What a map does is a matter of the two spaces, and not of the axes that one of them happens to have."""
    sources, targets, rotation = cloud(seed, 120, source), cloud(seed + 1, 120, target), isometry(seed + 2, target, target)
    documents, query = cloud(seed + 3, 30, target), cloud(seed + 4, 1, source)[0]
    plain = documents @ fit(kind, sources, targets).apply(query)
    turned = (documents @ rotation) @ fit(kind, sources, targets @ rotation).apply(query)
    np.testing.assert_allclose(turned, plain, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds, source=dimensions, target=dimensions, scale=st.floats(0.01, 100))
@settings(max_examples=25, deadline=None)
def test_the_length_of_a_vector_is_of_no_account(kind: Kind, seed: int, source: int, target: int, scale: float) -> None:
    found = fit(kind, cloud(seed, 90, source), cloud(seed + 1, 90, target))
    queries = cloud(seed + 2, 5, source)
    mapped = found.apply(queries)
    np.testing.assert_allclose(found.apply(np.float32(scale) * queries), mapped, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(mapped, axis=1), 1, atol=1e-5)
    for query, row in zip(queries, mapped, strict=True):
        np.testing.assert_allclose(found.apply(np.float32(scale) * query), row, atol=1e-4)


@given(seed=seeds, dims=st.integers(3, 24))
@settings(max_examples=25, deadline=None)
def test_only_the_centred_map_follows_a_shift(seed: int, dims: int) -> None:
    """Vectors that crowd around a direction which the other model does not have: what bge does beside MiniLM."""
    random = np.random.default_rng(seed)
    inner = 0.1 * random.normal(size=(200, dims))
    shift = isometry(seed + 1, 1, dims)[0]
    sources, targets = (inner - 3 * shift).astype(np.float32), (inner + 3 * shift).astype(np.float32)
    lost = {
        kind: np.mean(1 - np.sum(fit(kind, sources, targets).apply(sources) * maps.unit(targets), axis=1)) for kind in ORTHOGONAL
    }
    assert lost["procrustes_centred"] <= lost["procrustes"] + 1e-6


def test_the_low_rank_map_has_its_rank() -> None:
    found = fit("low_rank_affine", cloud(1, 400, 128), cloud(2, 400, 96))
    assert np.linalg.matrix_rank(found.weights, tol=1e-5) == maps.RANK


def test_a_low_rank_affine_map_is_recovered() -> None:
    sources = cloud(1, 4000, 32)
    planted = isometry(2, 32, 48)
    found = fit("low_rank_affine", sources, sources @ planted)
    np.testing.assert_allclose(found.apply(sources), sources @ planted, atol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_are_single_precision(kind: Kind) -> None:
    found = fit(kind, cloud(1, 50, 8), cloud(2, 50, 6))
    assert found.weights.dtype == np.float32
    assert found.weights.shape == (8, 6)
    assert (found.bias is None) == (kind == "procrustes")
    assert found.bias is None or found.bias.dtype == np.float32
    assert found.apply(cloud(3, 1, 8)[0]).dtype == np.float32


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_pair_is_refused(kind: Kind) -> None:
    with pytest.raises(ValueError, match="no pairs"):
        fit(kind, cloud(1, 5, 8), cloud(2, 4, 8))
    with pytest.raises(ValueError, match="length 0"):
        fit(kind, np.zeros((5, 8), np.float32), cloud(2, 5, 8))
    with pytest.raises(ValueError, match="8 dimensions"):
        fit(kind, cloud(1, 9, 8), cloud(2, 9, 6)).apply(cloud(3, 2, 6))
