"""The held-out queries as the old and the new model see them, and what each way to serve would answer to them at this moment.

Beside the gate and not instead of it: nothing here is evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from functools import cached_property

import numpy as np
import psycopg

from embed_pipeline.adapt.place import places
from embed_pipeline.catalog.curve_points import Arm, Served
from embed_pipeline.catalog.versions import Version
from embed_pipeline.embedders.maps import Map
from embed_pipeline.embedders.protocol import Urgency, Vectors
from embed_pipeline.errors import HoldoutError
from embed_pipeline.evaluate import metrics
from embed_pipeline.evaluate.statistics import mean_bounds, paired_bootstrap
from embed_pipeline.index import held_out
from embed_pipeline.index.handle import OpenIndex

# Documents whose vectors are held in memory together.
AT_ONCE = 500

Lists = list[list[str]]
"""Of each query the documents of an answer, best first."""


class HeldOut:
    """The declared held-out set between two versions. Queries are embedded once in the life of this object, when a model is first needed."""

    def __init__(self, conn: psycopg.Connection, index: OpenIndex, old: Version, new: Version) -> None:
        """HoldoutError where none is declared, or it is about documents that are not there."""
        declared = held_out.declared(index)
        if declared is None:
            raise HoldoutError(
                f"Index {index.name!r} declares no held-out set, so nothing can be judged.",
                next_step="Declare holdout.path in its defs.yaml: queries with graded judgements.",
            )
        self._examined = held_out.examined(conn, index, declared)
        held_out.require(self._examined)
        self.holdout = self._examined.holdout
        self.index, self.old, self.new = index, old, new
        self.metric = index.spec.gate.metric
        self.cutoff = metrics.parse_metric(self.metric).cutoff

    @cached_property
    def old_queries(self) -> Vectors:
        """As the old model sees them."""
        return self._embedded(self.old)

    @cached_property
    def new_queries(self) -> Vectors:
        """As the new model sees them."""
        return self._embedded(self.new)

    def _embedded(self, version: Version) -> Vectors:
        texts = list(self.holdout.queries.values())
        answer = self.index.embedder_of(version).embed_queries(texts, Urgency.CHECK)
        if answer.rejected:
            position, reason = next(iter(answer.rejected.items()))
            raise HoldoutError(
                f"{len(answer.rejected)} held-out queries have no vector in {version.name}; first {list(self.holdout.queries)[position]!r}: "
                f"{reason}.",
                next_step="Remove them from the held-out set, or declare too_long: truncate.",
            )
        return answer.vectors

    def lists(self, conn: psycopg.Connection, version: Version, vectors: Vectors, depth: int) -> Lists:
        """What a version answers to these vectors, through its ANN index."""
        store = self.index.store(version)
        return [[hit.doc_id for hit in store.search(conn, vector, depth)] for vector in vectors]

    def distances(self, conn: psycopg.Connection, lists: Lists, among: Set[str] | None = None) -> list[dict[str, float]]:
        """Of each query the new model's distances to those documents of its list that the new version has (`among`: and that are in it)."""
        store, queries = self.index.store(self.new), self.new_queries
        askers: dict[str, list[int]] = {}
        for number, ids in enumerate(lists):
            for doc_id in ids:
                if among is None or doc_id in among:
                    askers.setdefault(doc_id, []).append(number)
        found: list[dict[str, float]] = [{} for _ in lists]
        wanted = list(askers)
        for start in range(0, len(wanted), AT_ONCE):
            for doc_id, stored in store.stored_vectors(conn, wanted[start : start + AT_ONCE]).items():
                asked = askers[doc_id]
                # A document is as near as its nearest passage.
                nearest = _apart(self.new.distance, stored.vectors, queries[asked]).min(axis=0)
                for number, distance in zip(asked, nearest, strict=True):
                    found[number][doc_id] = float(distance)
        return found

    def scores(self, lists: Lists) -> list[float]:
        """The gate's metric of each query."""
        ranked = {
            query_id: [(doc_id, -float(rank)) for rank, doc_id in enumerate(ids)]
            for query_id, ids in zip(self.holdout.queries, lists, strict=True)
        }
        values = metrics.per_query(self.metric, self.holdout.judgements, ranked)
        return self._examined.by_cluster(values)

    def keep_old(self, old: Sequence[float]) -> Served:
        """What there is already."""
        bounds = mean_bounds(old, worst=0.0, best=1.0, confidence=self.index.spec.gate.confidence)
        return Served(bounds.mean, 0.0, bounds.lower, bounds.upper)

    def against(self, old: Sequence[float], lists: Lists, *, estimated: bool = False) -> Served:
        """Another way to serve against keeping the old one, on the same queries."""
        scores = self.scores(lists)
        bounds = paired_bootstrap(old, scores, confidence=self.index.spec.gate.confidence)
        return Served(float(np.mean(scores)), bounds.mean, bounds.lower, bounds.upper, estimated)

    def arms(
        self,
        conn: psycopg.Connection,
        depth: int,
        *,
        filled: Callable[[Sequence[str]], Set[str]] | None,
        bridge: Map | None,
        complete: bool,
    ) -> dict[Arm, Served]:
        """What each way to serve would answer now.

        `filled`: those of some documents that count as embedded for `refine`; None: there are none yet. `bridge`: the map, if there is one.
        `complete`: the new version can be searched by itself.
        """
        candidates = self.lists(conn, self.old, self.old_queries, max(depth, self.cutoff))
        old = self.scores(candidates)
        found: dict[Arm, Served] = {"keep_old": self.keep_old(old)}
        if filled is not None:
            among = filled(sorted({doc_id for ids in candidates for doc_id in ids}))
            found["refine"] = self.against(old, place_all(candidates, self.distances(conn, candidates, among)))
        if bridge is not None:
            mapped = bridge.apply(self.new_queries)
            found["bridge"] = self.against(old, self.lists(conn, self.old, mapped, self.cutoff))
        if complete:
            found["full"] = self.against(old, self.lists(conn, self.new, self.new_queries, self.cutoff))
        return found


def place_all(lists: Lists, distances: Sequence[Mapping[str, float]]) -> Lists:
    """Every list with its re-embedded documents in the new model's order."""
    return [[ids[place] for place in places(ids, near)] for ids, near in zip(lists, distances, strict=True)]


def _apart(distance: str, vectors: Vectors, queries: Vectors) -> Vectors:
    """Distances of each vector to each query, smaller is nearer."""
    if distance == "l2":
        straight: Vectors = np.linalg.norm(vectors[:, None, :] - queries[None, :, :], axis=2)
        return straight
    products = vectors @ queries.T
    if distance == "inner_product":
        return -products
    lengths = np.linalg.norm(vectors, axis=1)[:, None] * np.linalg.norm(queries, axis=1)[None, :]
    apart: Vectors = 1 - products / np.maximum(lengths, np.finfo(np.float32).tiny)
    return apart
