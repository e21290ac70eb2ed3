"""Exact search where the server does none: every vector is read, page by page, and compared here, with many queries at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from qdrant_client import models

from embed_pipeline.catalog.versions import Version
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.stores.distances import distances_to
from embed_pipeline.stores.protocol import Hit
from embed_pipeline.stores.qdrant.engine import Engine
from embed_pipeline.stores.qdrant.own_fields import KEY
from embed_pipeline.stores.qdrant.place import Place
from embed_pipeline.stores.qdrant.points import Stored, stored

# Vectors of one page: some megabytes.
PAGE = 500


def scan(
    engine: Engine, place: Place, version: Version, queries: Vectors, k: int, among: models.Filter | None
) -> list[list[Hit]]:
    """The `k` nearest documents to each query, of those that the filter lets through."""
    has_vector = models.HasVectorCondition(has_vector=place.vector)
    wanted = models.Filter(must=[has_vector] if among is None else [has_vector, among])
    best: list[list[Hit]] = [[] for _ in queries]
    offset: Any = None
    while True:
        most = engine.limits(place.collection).page(PAGE)
        records, offset = engine.call(
            lambda client, start=offset, most=most: client.scroll(  # type: ignore[misc]
                place.collection,
                scroll_filter=wanted,
                limit=most,
                offset=start,
                with_payload=[KEY],
                with_vectors=[place.vector],
            )
        )
        points = [point for point in map(stored, records) if place.vector in point.vectors]
        if points:
            rows = [np.asarray(point.vectors[place.vector], dtype=np.float32).reshape(-1, version.dimensions) for point in points]
            best = [
                sorted([*kept, *_hits(points, rows, version, query)], key=lambda hit: hit.distance)[:k]
                for kept, query in zip(best, queries, strict=True)
            ]
        if offset is None:
            return best


def _hits(points: list[Stored], rows: list[np.ndarray], version: Version, query: Vectors) -> list[Hit]:
    """Each document by its nearest row."""
    counts = [len(each) for each in rows]
    distances = np.split(distances_to(np.concatenate(rows), query, version.distance), np.cumsum(counts)[:-1])
    nearest = [int(np.argmin(each)) for each in distances]
    return [
        hit_of(point, version, chunk, float(each[chunk])) for point, chunk, each in zip(points, nearest, distances, strict=True)
    ]


def hit_of(point: Stored, version: Version, chunk: int, distance: float) -> Hit:
    """A point as the hit of its passage `chunk`."""
    doc_id = point.doc_id if point.doc_id is not None else str(point.id)
    offsets = point.versions.get(version.name, {}).get("offsets")
    if not version.is_chunked or not offsets:
        return Hit(doc_id, chunk, distance)
    start, end = offsets[chunk]
    return Hit(doc_id, chunk, distance, start, end)
