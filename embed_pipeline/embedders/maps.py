"""Maps from one space into another, fitted on pairs of vectors of the same text: fit and apply, no I/O.

A map goes from the space of a new model's queries into the space of an old model's vectors. All three kinds are closed forms and linear up to
a constant, fitted in double precision and kept in single.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.extras import needed_for

Kind = Literal["procrustes", "procrustes_centred", "low_rank_affine"]
KINDS: tuple[Kind, ...] = get_args(Kind)

RANK = 64
"""Of the low-rank map: Drift-Adapter's own (arXiv 2509.23471)."""
RIDGE = 1e-3
"""Of the low-rank map, beside a mean squared coordinate of 1 / dimensions: fewer pairs than dimensions have no other answer."""

Doubles = NDArray[np.float64]

TINY = float(np.finfo(np.float32).tiny)
# What single precision makes of a length of 1.
ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Map:
    """`vector @ weights + bias`, of length 1. `weights`: float32, shape (from dimensions, to dimensions). `bias`: None where there is none."""

    kind: Kind
    weights: Vectors
    bias: Vectors | None = None

    def apply(self, vectors: Vectors) -> Vectors:
        """One vector, or rows of them, in the other space. Their length is of no account, before or after: both distances are cosine.

        ValueError where the dimensions are not the map's.
        """
        if vectors.shape[-1] != self.weights.shape[0]:
            raise ValueError(f"the map takes {self.weights.shape[0]} dimensions, not {vectors.shape[-1]}")
        if vectors.ndim == 1:
            return self._one(vectors)
        mapped = vectors @ self.weights
        if self.bias is not None:
            # The bias was fitted beside vectors of length 1.
            mapped += np.linalg.norm(vectors, axis=1, keepdims=True) * self.bias
        mapped /= np.maximum(np.linalg.norm(mapped, axis=1, keepdims=True), TINY)
        return mapped

    def _one(self, vector: Vectors) -> Vectors:
        # The way of every query of a bridge: each call of numpy that can be spared is. Nearly every query has length 1 already.
        mapped: Vectors = vector.dot(self.weights)
        if self.bias is not None:
            length = math.sqrt(vector.dot(vector))
            mapped += self.bias if abs(length - 1) < ROUNDING else length * self.bias
        mapped *= 1 / max(math.sqrt(mapped.dot(mapped)), TINY)
        return mapped


def fit(kind: Kind, sources: Vectors, targets: Vectors) -> Map:
    """The map of this kind that takes each row of `sources` nearest to the same row of `targets`.

    Rows are brought to length 1 first; a row of zeros is a ValueError, and so are counts that differ. Dimensions may differ.
    """
    if sources.ndim != 2 or targets.ndim != 2 or len(sources) != len(targets) or len(sources) == 0:
        raise ValueError(f"sources of shape {sources.shape} and targets of shape {targets.shape} are no pairs")
    return _FITS[kind](unit(sources), unit(targets))


def unit(vectors: Vectors) -> Doubles:
    """The rows at length 1, in double precision."""
    rows = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and lengths.min() > 0):
        raise ValueError("a vector of length 0, or of no length, has no direction")
    unit_rows: Doubles = rows / lengths
    return unit_rows


def _procrustes(sources: Doubles, targets: Doubles) -> Map:
    return Map("procrustes", _single(_orthogonal(sources, targets)))


def _procrustes_centred(sources: Doubles, targets: Doubles) -> Map:
    from_mean, to_mean = sources.mean(axis=0), targets.mean(axis=0)
    turn = _orthogonal(sources - from_mean, targets - to_mean)
    return Map("procrustes_centred", _single(turn), _single(to_mean - from_mean @ turn))


def _low_rank_affine(sources: Doubles, targets: Doubles) -> Map:
    # Reduced-rank regression: least squares, then only the directions in which its own answers vary most.
    from_mean, to_mean = sources.mean(axis=0), targets.mean(axis=0)
    centred = sources - from_mean
    gram = centred.T @ centred
    gram[np.diag_indices_from(gram)] += RIDGE * len(sources) / sources.shape[1]
    weights = np.linalg.solve(gram, centred.T @ (targets - to_mean))
    _, _, directions = np.linalg.svd(centred @ weights, full_matrices=False)
    kept = directions[:RANK]
    weights = weights @ kept.T @ kept
    return Map("low_rank_affine", _single(weights), _single(to_mean - from_mean @ weights))


_FITS: dict[Kind, Callable[[Doubles, Doubles], Map]] = {
    "procrustes": _procrustes,
    "procrustes_centred": _procrustes_centred,
    "low_rank_affine": _low_rank_affine,
}


def _orthogonal(sources: Doubles, targets: Doubles) -> Doubles:
    """The rotation that takes sources nearest to targets; between unequal dimensions its part that is not beside zeros.

    Zeros beside the narrower side change neither a length nor an angle, and what is left of an orthogonal matrix is still an isometry (into
    more dimensions), or a projection onto as many directions as there is room for.
    """
    # Imported here: who searches through a map fits none.
    with needed_for("To fit an adapter"):
        from scipy.linalg import orthogonal_procrustes

    wide = max(sources.shape[1], targets.shape[1])
    turn, _ = orthogonal_procrustes(_widened(sources, wide), _widened(targets, wide))
    part: Doubles = turn[: sources.shape[1], : targets.shape[1]]
    return part


def _widened(rows: Doubles, dimensions: int) -> Doubles:
    return np.pad(rows, ((0, 0), (0, dimensions - rows.shape[1])))


def _single(values: Doubles) -> Vectors:
    return np.ascontiguousarray(values, dtype=np.float32)
