"""Measures what other values of `hnsw.ef_search` would find in a version, and how long they would take."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import psycopg

from embed_pipeline.catalog import holdout_vectors
from embed_pipeline.catalog.versions import Version
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.errors import HoldoutError
from embed_pipeline.evaluate import ef_curve, metrics
from embed_pipeline.evaluate.ef_curve import EfCurve
from embed_pipeline.evaluate.measured import Measured, Searches, measure
from embed_pipeline.index import held_out
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.stores.protocol import VersionStore


def require(index: OpenIndex) -> None:
    """HoldoutError for an index that has no queries to search by; asked before a gate, which is kept whatever comes after it."""
    if index.spec.holdout is None:
        raise HoldoutError(
            f"Index {index.name!r} declares no held-out set, so there are no queries to measure ef_search by.",
            next_step="Declare holdout.path in its defs.yaml, or leave out --ef-curve.",
        )


def curve(index: OpenIndex, name: str, progress: Callable[[int, int], None] | None = None) -> EfCurve:
    """The curve of a version, by the vectors of the held-out queries that its last gate has kept: no model is asked. Changes nothing.

    HoldoutError where none are kept.
    """
    with index.connection() as conn:
        version = index.space(index.version(conn, name)).version
        holdout = held_out.declared(index)
        texts = [] if holdout is None else list(holdout.queries.values())
        kept = holdout_vectors.read(conn, index.name, name, texts).vectors
        if not kept:
            raise HoldoutError(
                f"No vectors of held-out queries are kept for {name}, so there is nothing to search it by.",
                next_step=f"Run: embed-pipeline gate {index.name} {name}",
            )
        k = metrics.parse_metric(index.spec.gate.metric).cutoff
        declared = version.declared.hnsw.ef_search
        values = ef_curve.values(k, declared)
        points = []
        for done, ef_search in enumerate(values):
            if progress is not None:
                progress(done, len(values))
            measured = _asked(conn, version, _store(index, version, ef_search), kept, k)
            points.append(ef_curve.point(ef_search, measured, k))
    return EfCurve(name, k, declared, index.spec.gate.min_ann_recall, tuple(points))


def _store(index: OpenIndex, version: Version, ef_search: int) -> VersionStore:
    """The version's vectors, searched with another value than is declared."""
    hnsw = version.declared.hnsw.model_copy(update={"ef_search": ef_search})
    return index.spaces.store(version.with_settings({"hnsw": hnsw.model_dump()}))


def _asked(conn: psycopg.Connection, version: Version, store: VersionStore, queries: dict[str, Vectors], k: int) -> Measured:
    search = Searches(
        ann=lambda vector: store.search(conn, vector, k),
        exact=lambda vectors: store.search_exact(conn, vectors, k),
        counted=lambda searches: None,
    )
    # What the first search has to prepare is none of its time.
    store.search(conn, np.asarray(next(iter(queries.values()))), k)
    return measure(version.name, queries, search, k)
