"""The trap: a scratch copy of the index is overwritten in place, vector by vector, while every request succeeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embed_pipeline.adapt.place import places
from embed_pipeline.demo.stage import Scratch
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.protocol import Vectors

SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 1.0)
SEED = 5
# So many places of the old model's list are put in order, as `while_building.depth` has it by default.
DEPTH = 200


@dataclass(frozen=True)
class TrapPoint:
    """Recall@10 when `share` of the documents are embedded by the new model: overwritten in place, of queries by the old model and by the new
    one; and kept beside the old vectors, whose lists it puts in order (`refined`)."""

    share: float
    old_queries: float
    new_queries: float
    refined: float


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
    of_old, of_new = np.stack([vectors[doc_id][0] for doc_id in ids]), np.stack([vectors[doc_id][1] for doc_id in ids])
    scratch.put(range(len(ids)), of_old)
    listed = np.argsort(-(by_old @ of_old.T), axis=1)[:, :DEPTH]
    points = []
    done = 0
    for share in SHARES:
        until = round(share * len(ids))
        if until > done:
            scratch.put(range(done, until), of_new[done:until])
        done = until
        refined = _refined(listed, -(by_new @ of_new[:done].T), wanted)
        points.append(TrapPoint(share, _recall(scratch, by_old, wanted), _recall(scratch, by_new, wanted), refined))
    return points


def _recall(scratch: Scratch, queries: Vectors, wanted: Sequence[int]) -> float:
    """Share of queries whose own document is among the ten nearest."""
    return sum(number in scratch.nearest(query) for query, number in zip(queries, wanted, strict=True)) / len(wanted)


def _refined(listed: NDArray[np.intp], distances: Vectors, wanted: Sequence[int]) -> float:
    """The same share where the old model's lists are put in order by the distances of those documents that the new model has."""
    found = 0
    for candidates, near, number in zip(listed, distances, wanted, strict=True):
        names = [str(each) for each in candidates]
        order = places(names, {str(each): float(near[each]) for each in candidates if each < len(near)})
        found += str(number) in [names[place] for place in order[:10]]
    return found / len(wanted)
