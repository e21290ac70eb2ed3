"""How well a map agrees with the new model on pairs that it was not fitted on. Pure.

None of this approves a map: unlabelled agreement prefers a bridge to the old model nearly always, and judgements do not (docs/adapters.md).
It chooses between kinds, and it notices when the documents have become others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embed_pipeline.embedders.maps import Map, unit
from embed_pipeline.embedders.protocol import Vectors

NEIGHBOURS = 10

Columns = NDArray[np.int64]


@dataclass(frozen=True)
class Agreement:
    """Of held-out pairs, each asked as a query among all pairs.

    `neighbours`: share of the new model's own ten nearest that the bridge finds (Drift-Adapter's ARR@10); `keep_old`: that the old model
    finds by itself. `cosine`: of a mapped vector with the old model's of the same passage, on average; `itself`: how often that one is nearest.
    """

    neighbours: float
    keep_old: float
    cosine: float
    itself: float


def measure(fitted: Map, sources: Vectors, targets: Vectors, held_out: NDArray[np.bool_]) -> Agreement:
    """`sources` and `targets` are all pairs; `held_out` marks those that `fitted` has not seen."""
    asked = np.flatnonzero(held_out)
    new, old = unit(sources), unit(targets)
    mapped = unit(fitted.apply(sources[held_out]))
    wanted = _nearest(new[asked] @ new.T, asked)
    scores = mapped @ old.T
    own = scores[np.arange(len(asked)), asked]
    return Agreement(
        neighbours=_shared(wanted, _nearest(scores.copy(), asked)),
        keep_old=_shared(wanted, _nearest(old[asked] @ old.T, asked)),
        cosine=float(own.mean()),
        itself=float((scores.max(axis=1) <= own + 1e-9).mean()),
    )


def cosines(fitted: Map, sources: Vectors, targets: Vectors) -> NDArray[np.float64]:
    """Of each mapped vector with the old model's of the same passage."""
    found: NDArray[np.float64] = np.einsum("ij,ij->i", unit(fitted.apply(sources)), unit(targets))
    return found


def _nearest(scores: NDArray[np.float64], asked: Columns) -> Columns:
    """The columns with the highest scores of each row, but for the passage that asks."""
    scores[np.arange(len(asked)), asked] = -np.inf
    k = max(1, min(NEIGHBOURS, scores.shape[1] - 1))
    return np.argpartition(-scores, k - 1, axis=1)[:, :k]


def _shared(wanted: Columns, found: Columns) -> float:
    return float(np.mean([len(np.intersect1d(one, other)) / len(one) for one, other in zip(wanted, found, strict=True)]))
