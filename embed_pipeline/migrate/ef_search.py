"""Measures what other values of `hnsw.ef_search` would find in a version, and how long they would take."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import psycopg

from embed_pipeline.catalog.versions import Version
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.errors import HoldoutError
from embed_pipeline.evaluate import ef_curve, metrics
from embed_pipeline.evaluate.ef_curve import EfCurve
from embed_pipeline.evaluate.measured import Searches, measure
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.stores.protocol import VersionStore


def require(index: OpenIndex) -> None:
    """HoldoutError for an index that has no queries to search by."""
    if index.spec.holdout is None:
        raise HoldoutError(
            f"Index {index.name!r} declares no held-out set, so there are no queries to measure ef_search by.",
            next_step="Declare holdout.path in its defs.yaml, or leave out --ef-curve.",
        )


def tried(index: OpenIndex, version: Version) -> list[int]:
    """The values of which the curve is made."""
    return ef_curve.values(metrics.parse_metric(index.spec.gate.metric).cutoff, version.declared.hnsw.ef_search)


def curve(
    conn: psycopg.Connection, index: OpenIndex, version: Version, queries: Mapping[str, Vectors], counted: Callable[[int], None]
) -> EfCurve:
    """The curve of a version by the vectors of the held-out queries. Changes nothing."""
    k = metrics.parse_metric(index.spec.gate.metric).cutoff
    points = []
    for ef_search in tried(index, version):
        store = _store(index, version, ef_search)
        # What the first search has to prepare is none of its time.
        store.search(conn, np.asarray(next(iter(queries.values()))), k)
        search = Searches(
            ann=lambda vector, store=store: store.search(conn, vector, k),  # type: ignore[misc]
            exact=lambda vectors, store=store: store.search_exact(conn, vectors, k),  # type: ignore[misc]
            counted=counted,
        )
        points.append(ef_curve.point(ef_search, measure(version.name, queries, search, k), k))
    return EfCurve(version.name, k, version.declared.hnsw.ef_search, index.spec.gate.min_ann_recall, tuple(points))


def _store(index: OpenIndex, version: Version, ef_search: int) -> VersionStore:
    """The version's vectors, searched with another value than is declared."""
    hnsw = version.declared.hnsw.model_copy(update={"ef_search": ef_search})
    return index.spaces.store(version.with_settings({"hnsw": hnsw.model_dump()}))
