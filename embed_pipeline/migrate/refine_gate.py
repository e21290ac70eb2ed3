"""The gate of a refine route: what serves, put in order by a version that need not be complete, judged against what serves alone.

Every query is searched as it would be served, and exactly; both in the version that serves, with its list then put in order. So the rule
of the gate is asked the same question as ever: is the route worse than keeping the old version?
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median
from typing import Any

import numpy as np
import psycopg

from embed_pipeline.adapt import refine
from embed_pipeline.catalog import partitions, versions
from embed_pipeline.catalog.route import Route
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import census
from embed_pipeline.documents.ranges import KeyRange
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.evaluate.holdout import Holdout
from embed_pipeline.evaluate.measured import Measured, Searches, measure
from embed_pipeline.evaluate.statistics import overlap_at_k
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.stores.protocol import Hit

# So many queries are embedded once more, each by itself as a search does it, to tell what that costs in time.
TIMED = 10


@dataclass
class _Times:
    """Milliseconds of what a refined search does besides, and how many of the hits had their place given."""

    distances: list[float] = field(default_factory=list)
    placed: list[int] = field(default_factory=list)


class _Filled:
    """Which documents are of partitions that are filled. What was embedded ahead of its partition may be just what the held-out queries
    find (a preview embeds that): counted, they would see the end of the migration, and no other query would."""

    def __init__(self, conn: psycopg.Connection, index: OpenIndex, version: str) -> None:
        self._conn, self._source = conn, index.source
        listed = partitions.listed(conn, index.name, version)
        self._ranges = _joined([each.range for each in listed if each.completed_at is not None and not each.range.is_empty])
        self._known: dict[str, bool] = {}

    def __call__(self, doc_ids: Sequence[str]) -> set[str]:
        new = [doc_id for doc_id in doc_ids if doc_id not in self._known]
        there = census.within(self._conn, self._source, new, self._ranges) if new else set()
        self._known |= {doc_id: doc_id in there for doc_id in new}
        return {doc_id for doc_id in doc_ids if self._known[doc_id]}


def _joined(ranges: Sequence[KeyRange]) -> list[KeyRange]:
    """The same keys in fewer ranges: neighbours are one."""
    joined: list[KeyRange] = []
    for each in ranges:
        if joined and joined[-1].upper is not None and joined[-1].upper == each.lower:
            joined[-1] = replace(joined[-1], upper=each.upper)
        else:
            joined.append(each)
    return joined


def candidate(
    conn: psycopg.Connection,
    index: OpenIndex,
    route: Route,
    queries: tuple[dict[str, Vectors], dict[str, Vectors]],
    depth: int,
    counted: Callable[[int], None],
) -> tuple[Measured, dict[str, Any]]:
    """What the route answers to each query, whose vectors are those of the two versions; and what it costs besides.

    A place in the list is what ranks here: distances of the list no longer do.
    """
    assert route.refine is not None
    assert route.depth is not None
    by = route.depth
    stores = [index.space(versions.get(conn, index.name, name)).store for name in (route.version, route.refine)]
    # Both vectors of a query as one, since `measure` knows but one of each.
    both = {query_id: np.concatenate([vector, queries[1][query_id]]) for query_id, vector in queries[0].items()}
    width = len(next(iter(queries[0].values())))
    times = _Times()
    filled = _Filled(conn, index, route.refine)

    def put_in_order(vector: Vectors, hits: Sequence[Hit], first: float) -> list[Hit]:
        started = time.monotonic()
        found = refine.put_in_order(conn, stores[1], vector[width:], hits, depth, by, filled)
        times.distances.append(1000 * (time.monotonic() - started))
        times.placed.append(len(found.placed))
        return [hit._replace(distance=first + place) for place, hit in enumerate(found.hits)]

    def exactly(vectors: Vectors) -> list[list[Hit]]:
        listed = stores[0].search_exact(conn, vectors[:, :width], max(depth, by))
        return [put_in_order(vector, hits, 0.0) for vector, hits in zip(vectors, listed, strict=True)]

    searches = Searches(
        # Half a place beside the exact answer's: no place of the one counts as a tie with one of the other.
        ann=lambda vector: put_in_order(vector, stores[0].search(conn, vector[:width], max(depth, by)), 0.5),
        exact=exactly,
        counted=counted,
    )
    measured = measure(str(route), both, searches, depth)
    return measured, {"placed": fmean(times.placed), "distances_ms": median(times.distances)}


def embedding_ms(index: OpenIndex, version: Version, holdout: Holdout) -> float:
    """What it takes to embed a query by itself once more, by the version that refines: the median of a few."""
    embedder, taken = index.space(version).embedder, []
    for text in list(holdout.queries.values())[:TIMED]:
        started = time.monotonic()
        embedder.embed_query(text)
        taken.append(1000 * (time.monotonic() - started))
    return median(taken)


def agreement(
    conn: psycopg.Connection, index: OpenIndex, version: Version, queries: dict[str, Vectors], depth: int, *found: Measured
) -> list[float]:
    """Share of the version's own nearest, of the documents that it has, that each of `found` shows: the metric of the paper on drift
    adapters. Shown beside the verdict and no part of it: it asks whether answers are the new model's, not whether they are good."""
    store = index.space(version).store
    exact = store.search_exact(conn, np.stack(list(queries.values())), depth)
    own = {query_id: [(hit.doc_id, hit.score) for hit in hits] for query_id, hits in zip(queries, exact, strict=True)}
    return [overlap_at_k(own, each.ann, depth) for each in found]
