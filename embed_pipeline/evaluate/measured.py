"""One version's answers to the held-out queries, through its ANN index and exactly, while documents change.

Pure: it is given the two ways to ask.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.evaluate.statistics import is_tied, share_found
from embed_pipeline.stores.protocol import Hit

Ranking = dict[str, list[tuple[str, float]]]

# How often a query is asked again in whose answer documents have moved. One that is away for a moment is seldom away each time.
LOOKS = 3


@dataclass(frozen=True)
class Measured:
    """What one version answered to every held-out query, through its index and exactly.

    `steady`: of each exact answer, what the index must find. It was in the exact answer, and as near, whenever that was asked for; and
    where the index has missed it, it did so each time. `ann_ms`: how long each query took through the index, the first time, in milliseconds.
    """

    version: str
    ann: Ranking
    exact: Ranking
    steady: Ranking
    ann_ms: tuple[float, ...] = ()

    def ann_recall(self, k: int) -> float:
        """Share of the exact top k that the index found, over all queries. Needs no judgements: it measures the index alone, and no
        document that came, went or changed while it was asked."""
        return share_found(self.steady, self.ann, k)


@dataclass(frozen=True)
class Searches:
    """The two ways to ask a version for the `depth` nearest: `ann` one query, through its index, `exact` many at once.

    `counted` is told of every search of the first round.
    """

    ann: Callable[[Vectors], Sequence[Hit]]
    exact: Callable[[Vectors], Sequence[Sequence[Hit]]]
    counted: Callable[[int], None]


def measure(version: str, queries: Mapping[str, Vectors], search: Searches, depth: int) -> Measured:
    """Ask every query of `queries`, vectors by id, both ways; and those again that the index seems to have answered badly."""
    exact = _ask_exactly(search, queries)
    search.counted(len(queries))
    ann: Ranking = {}
    taken = []
    for query_id, vector in queries.items():
        started = time.perf_counter()
        hits = search.ann(vector)
        taken.append(1000 * (time.perf_counter() - started))
        ann[query_id] = _ranking(hits)
        search.counted(1)
    steady = {each: list(ranking) for each, ranking in exact.items()}
    asked = queries
    for _ in range(LOOKS):
        asked = {each: vector for each, vector in asked.items() if _is_short(steady, ann, each, depth)}
        if not asked:
            break
        again = _ask_exactly(search, asked)
        moved = [each for each in asked if _without(steady[each], again[each]) != steady[each]]
        for each in asked:
            steady[each] = _without(steady[each], again[each])
        # Where nothing has moved, what is missing is what the index misses.
        asked = {each: asked[each] for each in moved if _is_short(steady, ann, each, depth)}
        for each, vector in asked.items():
            late = {doc_id for doc_id, _ in _ranking(search.ann(vector))} - {doc_id for doc_id, _ in ann[each]}
            steady[each] = [hit for hit in steady[each] if hit[0] not in late]
    return Measured(version, ann, exact, steady, tuple(taken))


def _ask_exactly(search: Searches, queries: Mapping[str, Vectors]) -> Ranking:
    found = search.exact(np.stack(list(queries.values())))
    return {query_id: _ranking(hits) for query_id, hits in zip(queries, found, strict=True)}


def _ranking(hits: Sequence[Hit]) -> list[tuple[str, float]]:
    return [(hit.doc_id, hit.score) for hit in hits]


def _is_short(steady: Ranking, ann: Ranking, query_id: str, depth: int) -> bool:
    return bool(steady[query_id]) and share_found({query_id: steady[query_id]}, ann, depth) < 1


def _without(before: list[tuple[str, float]], after: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """`before` without what is not in `after`, or as near no longer: another text."""
    scores = dict(after)
    return [hit for hit in before if hit[0] in scores and is_tied(hit[1], scores[hit[0]])]
