"""The trap: a scratch copy of the index is overwritten in place, vector by vector, while every request succeeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from embed_pipeline.demo.stage import Scratch
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.protocol import Vectors

SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 1.0)
SEED = 5


@dataclass(frozen=True)
class TrapPoint:
    """Recall@10 when `share` of the vectors are the new model's: of queries by the old model, and by the new one."""

    share: float
    old_queries: float
    new_queries: float


def overwrite_in_place(
    scratch: Scratch,
    vectors: Mapping[str, tuple[Vectors, Vectors]],
    questions: Sequence[tuple[str, str]],
    old: VersionEmbedder,
    new: VersionEmbedder,
) -> list[TrapPoint]:
    """Do what people do: overwrite the one vector of each document. Nothing errors at any point; only the answers get worse.

    `vectors`: each document's by the old and by the new model; `questions`: texts, each with the id of its one right document.
    """
    # In an order of its own: a real table is not sorted by what people ask for.
    ids = np.random.default_rng(SEED).permutation(sorted(vectors)).tolist()
    numbers = {doc_id: number for number, doc_id in enumerate(ids)}
    texts, wanted = [text for text, _ in questions], [numbers.get(doc_id, -1) for _, doc_id in questions]
    by_old, by_new = old.embed_queries(texts).vectors, new.embed_queries(texts).vectors
    scratch.put(range(len(ids)), np.stack([vectors[doc_id][0] for doc_id in ids]))
    points = []
    done = 0
    for share in SHARES:
        until = round(share * len(ids))
        if until > done:
            scratch.put(range(done, until), np.stack([vectors[doc_id][1] for doc_id in ids[done:until]]))
        done = until
        points.append(TrapPoint(share, _recall(scratch, by_old, wanted), _recall(scratch, by_new, wanted)))
    return points


def _recall(scratch: Scratch, queries: Vectors, wanted: Sequence[int]) -> float:
    """Share of queries whose own document is among the ten nearest."""
    return sum(number in scratch.nearest(query) for query, number in zip(queries, wanted, strict=True)) / len(wanted)
