"""The real engine in this process, spoken to like a client: qdrant-edge-py behind the few methods of QdrantClient we use.

One shard per collection, each in a folder of its own. No aliases, no metadata, no payload indexes: they belong to the
server around the engine. What the engine refuses leaves as `EdgeRefused` with its own words.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import qdrant_edge as edge
from qdrant_client import models
from qdrant_client.http.models import QueryResponse

DISTANCES = {
    models.Distance.COSINE: edge.Distance.Cosine,
    models.Distance.DOT: edge.Distance.Dot,
    models.Distance.EUCLID: edge.Distance.Euclid,
    models.Distance.MANHATTAN: edge.Distance.Manhattan,
}
DATATYPES = {
    models.Datatype.FLOAT32: edge.VectorStorageDatatype.Float32,
    models.Datatype.FLOAT16: edge.VectorStorageDatatype.Float16,
    models.Datatype.UINT8: edge.VectorStorageDatatype.Uint8,
}
MODES = {
    None: None,
    models.UpdateMode.UPSERT: edge.UpdateMode.Upsert,
    models.UpdateMode.INSERT_ONLY: edge.UpdateMode.InsertOnly,
    models.UpdateMode.UPDATE_ONLY: edge.UpdateMode.UpdateOnly,
}
Operation = edge.UpdateOperation


class EdgeRefused(Exception):
    """The engine's word for an operation that it does not do, or has not done whole."""


class EdgeClient:
    """Shards under `folder`, by the names of their collections."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards: dict[str, edge.EdgeShard] = {}

    def close(self) -> None:
        for shard in self.shards.values():
            shard.close()

    def delete_collection(self, name: str) -> None:
        self.shards.pop(name).close()
        shutil.rmtree(self.folder / name)

    def reopen(self, name: str) -> None:
        """Close the shard and load it from its folder, as a restart does."""
        self.shards[name].flush()
        self.shards[name].close()
        self.shards[name] = edge.EdgeShard.load(str(self.folder / name))

    def create_collection(self, name: str, vectors_config: models.VectorParams | Mapping[str, models.VectorParams]) -> None:
        (self.folder / name).mkdir(parents=True)
        config = edge.EdgeConfig(vectors=named(vectors_config, vector_params))
        self.shards[name] = edge.EdgeShard.create(str(self.folder / name), config)

    def _update(self, name: str, operation: Any) -> None:
        try:
            self.shards[name].update(operation)
        except Exception as refused:
            raise EdgeRefused(str(refused)) from refused

    def create_vector_name(self, name: str, vector: str, config: models.DenseVectorNameConfig) -> None:
        dense = config.dense
        self._update(
            name,
            Operation.create_dense_vector(
                vector, dense.size, DISTANCES[dense.distance], multivector(dense), datatype(dense.datatype)
            ),
        )

    def delete_vector_name(self, name: str, vector: str) -> None:
        self._update(name, Operation.delete_vector_name(vector))

    def upsert(
        self,
        name: str,
        points: Sequence[models.PointStruct],
        update_filter: models.Filter | None = None,
        update_mode: models.UpdateMode | None = None,
    ) -> None:
        told = [edge.Point(point.id, cast(Any, point.vector), point.payload) for point in points]
        self._update(name, Operation.upsert_points(told, optional(update_filter), MODES[update_mode]))

    def update_vectors(
        self, name: str, points: Sequence[models.PointVectors], update_filter: models.Filter | None = None
    ) -> None:
        told = [edge.PointVectors(point.id, cast(Any, point.vector)) for point in points]
        self._update(name, Operation.update_vectors(told, optional(update_filter)))

    def delete(self, name: str, points_selector: Any) -> None:
        self._selected(name, points_selector, Operation.delete_points, Operation.delete_points_by_filter)

    def delete_vectors(self, name: str, vectors: Sequence[str], points: Any) -> None:
        self._selected(name, points, Operation.delete_vectors, Operation.delete_vectors_by_filter, list(vectors))

    def set_payload(self, name: str, payload: dict[str, Any], points: Any, key: str | None = None) -> None:
        self._selected(name, points, Operation.set_payload, Operation.set_payload_by_filter, payload, key)

    def overwrite_payload(self, name: str, payload: dict[str, Any], points: Any) -> None:
        self._selected(name, points, Operation.overwrite_payload, Operation.overwrite_payload_by_filter, payload)

    def delete_payload(self, name: str, keys: Sequence[str], points: Any) -> None:
        self._selected(name, points, Operation.delete_payload, Operation.delete_payload_by_filter, list(keys))

    def _selected(self, name: str, selector: Any, by_ids: Callable[..., Any], by_filter: Callable[..., Any], *rest: Any) -> None:
        if isinstance(selector, models.Filter):
            self._update(name, by_filter(filtered(selector), *rest))
        else:
            self._update(name, by_ids(list(selector), *rest))

    def retrieve(self, name: str, ids: Sequence[Any], with_vectors: bool | list[str] = False) -> list[models.Record]:
        return [record(found) for found in self.shards[name].retrieve(list(ids), True, with_vectors)]

    def scroll(
        self,
        name: str,
        scroll_filter: models.Filter | None = None,
        limit: int = 10,
        offset: Any = None,
        with_vectors: bool | list[str] = False,
    ) -> tuple[list[models.Record], Any]:
        asked = edge.ScrollRequest(offset, limit, optional(scroll_filter), True, with_vectors)
        points, following = self.shards[name].scroll(asked)
        return [record(found) for found in points], following

    def count(self, name: str, count_filter: models.Filter | None = None, exact: bool = True) -> models.CountResult:
        asked = edge.CountRequest(filter=optional(count_filter), exact=exact)
        return models.CountResult(count=self.shards[name].count(asked))

    def query_points(
        self, name: str, query: list[float], using: str | None = None, query_filter: Any = None, limit: int = 10
    ) -> QueryResponse:
        nearest = edge.Query.Nearest(query, using=using)
        asked = edge.QueryRequest(limit=limit, query=nearest, filter=optional(query_filter), with_payload=True)
        try:
            found = self.shards[name].query(asked)
        except Exception as refused:
            raise EdgeRefused(str(refused)) from refused
        points = [models.ScoredPoint(id=told(hit.id), version=hit.version, score=hit.score, payload=hit.payload) for hit in found]
        return QueryResponse(points=points)


def told(point: Any) -> Any:
    """An id as the client tells it: a number, or a UUID as text."""
    return point if isinstance(point, int) else str(point)


def record(found: Any) -> models.Record:
    return models.Record(id=told(found.id), payload=found.payload, vector=found.vector)


def named(config: Any, translate: Callable[[Any], Any]) -> Any:
    return {key: translate(value) for key, value in config.items()} if isinstance(config, Mapping) else translate(config)


def vector_params(params: models.VectorParams) -> Any:
    return edge.EdgeVectorParams(
        size=params.size,
        distance=DISTANCES[params.distance],
        multivector_config=multivector(params),
        datatype=datatype(params.datatype),
    )


def multivector(params: Any) -> Any:
    return None if params.multivector_config is None else edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)


def datatype(kind: Any) -> Any:
    return None if kind is None else DATATYPES[models.Datatype(getattr(kind, "value", kind))]


def optional(wanted: models.Filter | None) -> Any:
    return None if wanted is None else filtered(wanted)


def filtered(wanted: models.Filter) -> Any:
    """A filter of the client as the engine's."""
    parts = {key: conditions(getattr(wanted, key)) for key in ("must", "should", "must_not")}
    if wanted.min_should is not None:
        enough = edge.MinShould(conditions(wanted.min_should.conditions), wanted.min_should.min_count)
        return edge.Filter(**parts, min_should=enough)
    return edge.Filter(**parts)


def conditions(clause: Any) -> Any:
    if clause is None:
        return None
    return [condition(part) for part in (clause if isinstance(clause, list) else [clause])]


def condition(part: Any) -> Any:
    match part:
        case models.Filter():
            return filtered(part)
        case models.HasIdCondition(has_id=ids):
            return edge.HasIdCondition(set(ids))
        case models.HasVectorCondition(has_vector=vector):
            return edge.HasVectorCondition(vector)
        case models.IsEmptyCondition(is_empty=field):
            return edge.IsEmptyCondition(field.key)
        case models.IsNullCondition(is_null=field):
            return edge.IsNullCondition(field.key)
        case models.FieldCondition(key=key, match=models.MatchValue(value=value)):
            return edge.FieldCondition(key, match=edge.MatchValue(value))
        case models.FieldCondition(key=key, match=models.MatchAny(any=values)):
            return edge.FieldCondition(key, match=edge.MatchAny(values))
        case models.FieldCondition(key=key, match=models.MatchExcept(except_=values)):
            return edge.FieldCondition(key, match=edge.MatchExcept(values))
        case models.FieldCondition(key=key, range=models.Range(gte=gte, gt=gt, lte=lte, lt=lt)):
            return edge.FieldCondition(key, range=edge.RangeFloat(gte=gte, gt=gt, lte=lte, lt=lt))
    raise NotImplementedError(f"no translation for {part!r}")
