"""Search in one version's vectors: those of its collection and its vector name, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from qdrant_client import models

from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents.source import Source
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.stores.protocol import Hit
from embed_pipeline.stores.qdrant.engine import Engine
from embed_pipeline.stores.qdrant.place import Place
from embed_pipeline.stores.qdrant.points import KEY, as_path, stored


def search(
    engine: Engine,
    place: Place,
    version: Version,
    query: Vectors,
    k: int,
    *,
    exact: bool,
    condition: models.Filter | None,
) -> list[Hit]:
    """The `k` nearest documents, nearest first."""
    values = np.asarray(query, dtype=np.float32).tolist()
    ef_search = max(k, int(version.spec.get("hnsw", {}).get("ef_search", 100)))
    # Local mode compares with everything, and warns about parameters that it does not use.
    params = None if engine.is_local else models.SearchParams(exact=exact, hnsw_ef=None if exact else ef_search)
    found = engine.call(
        lambda client: (
            client.query_points(
                place.collection,
                query=[values] if version.is_chunked else values,
                using=place.vector or None,
                limit=k,
                query_filter=condition,
                search_params=params,
                with_payload=[KEY],
                # Which passage of a document was the nearest, Qdrant does not say.
                with_vectors=[place.vector] if version.is_chunked else False,
            ).points
        )
    )
    return [_hit(point, place, version, query) for point in found]


def condition(source: Source, where: Mapping[str, Any]) -> models.Filter:
    """Equality of payload fields. A field that no point has is refused: it would silently find nothing."""
    known = source.payload_columns
    unknown = [name for name in where if name not in known] if source.payload_object is None else []
    if unknown:
        raise ConfigurationError(
            f"The points of this index have no payload field {unknown[0]!r}; they have {', '.join(known) or 'none'}.",
            next_step="Add the column to documents.payload in the index's defs.yaml.",
        )
    return models.Filter(must=[_equal(name, value) for name, value in where.items()])


def _equal(name: str, value: Any) -> models.Condition:
    path = as_path(name)
    if value is None:
        return models.IsNullCondition(is_null=models.PayloadField(key=path))
    if isinstance(value, float):
        return models.FieldCondition(key=path, range=models.Range(gte=value, lte=value))
    return models.FieldCondition(key=path, match=models.MatchValue(value=value))


def _hit(point: models.ScoredPoint, place: Place, version: Version, query: Vectors) -> Hit:
    record = models.Record(id=point.id, payload=point.payload, vector=point.vector)
    read = stored(record)
    doc_id = read.doc_id if read.doc_id is not None else str(point.id)
    distance = _distance(version.distance, point.score)
    offsets = read.versions.get(version.name, {}).get("offsets")
    if not version.is_chunked or place.vector not in read.vectors:
        return Hit(doc_id, 0, distance)
    chunk = _nearest_row(np.asarray(read.vectors[place.vector], dtype=np.float32), query, version.distance)
    start, end = offsets[chunk] if offsets else (None, None)
    return Hit(doc_id, chunk, distance, start, end)


def _distance(kind: str, score: float) -> float:
    """Qdrant's score as a distance of which smaller is nearer, the same number that pgvector gives."""
    if kind == "l2":
        return score
    return -score if kind == "inner_product" else 1.0 - score


def _nearest_row(rows: np.ndarray, query: Vectors, kind: str) -> int:
    if kind == "l2":
        return int(np.argmin(np.linalg.norm(rows - query, axis=1)))
    if kind == "cosine":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return int(np.argmax(rows @ query))
