"""What is wrong with the indexes over a column of vectors, or with there being none. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from embed_pipeline.doctor.findings import Finding
from embed_pipeline.doctor.sample import Sample
from embed_pipeline.doctor.vectors import UNIT

# Below, a search that compares every vector is as fast, and finds everything.
WORTH_AN_INDEX = 10_000


@dataclass(frozen=True)
class AnnIndex:
    """An index as the server has it."""

    name: str
    method: str
    is_valid: bool
    operator_class: str
    bytes: int
    is_partial: bool

    @property
    def distance(self) -> str:
        """cosine, ip, l2, ..., as pgvector names it."""
        return self.operator_class.removesuffix("_ops").rpartition("_")[2]


def judge_indexes(indexes: Sequence[AnnIndex], sample: Sample, place: str) -> Iterator[Finding]:
    """What is wrong with the indexes of a column `place`."""
    for each in indexes:
        if not each.is_valid:
            sentence = f"Index {each.name} is invalid: no search uses it, and every write pays for it."
            yield Finding("error", "index_invalid", sentence, f'REINDEX INDEX CONCURRENTLY "{each.name}";')
    usable = [each for each in indexes if each.is_valid]
    if not usable and sample.total >= WORTH_AN_INDEX:
        sentence = f"{place} has no index that searches can use: each compares about {sample.total:,} vectors."
        table = place.rpartition(".")[0]
        yield Finding(
            "warning",
            "no_index",
            sentence,
            f"CREATE INDEX CONCURRENTLY ON {table} USING hnsw ({place.rpartition('.')[2]} <operator class>);",
        )
    lengths = _lengths(sample)
    for each in usable:
        if each.distance in ("ip", "l2") and lengths is not None and lengths.max() / lengths.min() > 1 + 2 * UNIT:
            prefers = "puts long vectors first" if each.distance == "ip" else "takes another length for another meaning"
            spread = f"{lengths.min():.3g} to {lengths.max():.3g}"
            sentence = f"Index {each.name} goes by {each.operator_class}, and lengths differ ({spread}): it {prefers}."
            fitting = each.operator_class.replace(f"_{each.distance}_ops", "_cosine_ops")
            yield Finding(
                "warning", "operator_class", sentence, f"Normalise the vectors, or index them by {fitting} and search by <=>."
            )
        if each.distance == "l1" and lengths is not None:
            sentence = (
                f"Index {each.name} goes by {each.operator_class}: no model that is known to this package is trained for it."
            )
            yield Finding("warning", "operator_class", sentence, "Index the column by vector_cosine_ops and search by <=>.")
    distances = sorted({each.distance for each in usable if not each.is_partial})
    if len(distances) > 1:
        sentence = f"{place} has indexes of {len(distances)} distances ({', '.join(distances)}): every write pays for each."
        yield Finding("note", "two_distances", sentence, "Drop those that no search uses; see pg_stat_user_indexes.idx_scan.")


def _lengths(sample: Sample) -> np.ndarray | None:
    vectors = sample.of_one_length()[1]
    return np.linalg.norm(vectors, axis=1) if len(vectors) else None
