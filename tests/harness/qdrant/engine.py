"""The state behind the loopback server: local mode behind one lock, with the server's answers where the two differ."""

from __future__ import annotations

import re
import shutil
import threading
import uuid
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from qdrant_client import models
from qdrant_client.local import qdrant_local
from qdrant_client.local.payload_value_extractor import value_by_key

from tests.harness.qdrant.declared import Declared
from tests.harness.qdrant.narrowed import NarrowedCollection
from tests.harness.qdrant.strict import Rates, Refused, Strict


class Local(qdrant_local.QdrantLocal):
    """Local mode whose folder survives a kill at any moment, and whose commits do not wait for the disk.

    A killed process loses nothing that it has handed to the operating system, so the sqlite files need no fsync.
    """

    def __init__(self, location: str) -> None:
        super().__init__(location, force_disable_check_same_thread=True)
        for collection in self.collections.values():
            self.unhurried(collection)

    @staticmethod
    def unhurried(collection: Any) -> None:
        if collection.storage is not None:
            collection.storage.storage.execute("PRAGMA journal_mode=WAL")
            collection.storage.storage.execute("PRAGMA synchronous=OFF")

    def create_collection(self, collection_name: str, *args: Any, **kwargs: Any) -> bool:
        path = self._collection_path(collection_name)
        # Left by a server that was killed between forgetting the collection and removing its folder.
        if path is not None and collection_name not in self.collections:
            shutil.rmtree(path, ignore_errors=True)
        created = super().create_collection(collection_name, *args, **kwargs)
        self.unhurried(self.collections[collection_name])
        return created

    def delete_collection(self, collection_name: str, **kwargs: Any) -> bool:
        """Forget first, then remove: a kill in between must not leave a collection that is there and empty."""
        collection = self.collections.pop(collection_name, None)
        if collection is not None:
            collection.close()
            self.aliases = {alias: name for alias, name in self.aliases.items() if name != collection_name}
            self._save()
        super().delete_collection(collection_name, **kwargs)
        return collection is not None


class Engine:
    """Every operation of the server as one method. All of them may be called from any thread.

    float16 vectors are kept as they came and rounded when they are read. uint8 vectors are not rounded.
    """

    def __init__(self, folder: Path | None) -> None:
        warnings.simplefilter("ignore")
        # Local mode makes its collections by this name; nothing else in this process uses it.
        vars(qdrant_local)["LocalCollection"] = NarrowedCollection
        self.lock = threading.RLock()
        self.local = Local(":memory:" if folder is None else str(folder))
        self.declared = Declared(folder)
        self.operations = 0
        self.strict_mode: dict[str, Any] = {}
        """What a new collection has of strict mode, over which it may declare its own."""
        self.minute = 60.0
        self.rates: dict[str, Rates] = {}

    @contextmanager
    def collection(self, name: str) -> Iterator[str]:
        """The lock, and the collection's own name for a name that may be an alias. Errors leave as the server's."""
        with self.lock:
            real = name if name in self.local.collections else self.local.aliases.get(name)
            if real is None:
                raise Refused(404, f"Not found: Collection `{name}` doesn't exist!")
            try:
                yield real
            except KeyError as absent:
                raise Refused(404, f"Not found: No point with id {absent.args[0]} found") from absent
            except (ValueError, TypeError, AssertionError) as wrong:
                raise refusal(str(wrong)) from wrong

    def updated(self, wait: bool) -> dict[str, Any]:
        self.operations += 1
        return {"operation_id": self.operations, "status": "completed" if wait else "acknowledged"}

    def strict(self, real: str) -> Strict:
        """The strict mode of a collection, by its own name."""
        known = self.declared.collections[real]
        return Strict(known.get("strict_mode_config") or {}, known["indexes"], self.rates.setdefault(real, Rates(self.minute)))

    def rates_of(self, name: str) -> dict[str, Any]:
        """What went through the rate limits of a collection, and what was refused by them."""
        with self.collection(name) as real:
            return self.rates.setdefault(real, Rates(self.minute)).told()

    def check_timeout(self, name: str, seconds: int) -> None:
        with self.collection(name) as real:
            self.strict(real).at_most(seconds, "max_timeout", "timeout")

    # Collections

    def create(self, name: str, request: models.CreateCollection) -> bool:
        with self.lock:
            if name in self.local.collections or name in self.local.aliases:
                raise Refused(409, f"Wrong input: Collection `{name}` already exists!")
            if self.strict_mode:
                own = {} if request.strict_mode_config is None else request.strict_mode_config.model_dump(exclude_none=True)
                both = models.StrictModeConfig(**{**self.strict_mode, **own})
                request = request.model_copy(update={"strict_mode_config": both})
            self.rates.pop(name, None)
            # Declared first: a declaration without a collection is overwritten, a collection without one cannot be told.
            self.declared.create(name, request)
            try:
                return self.local.create_collection(name, request.vectors, request.sparse_vectors, metadata=request.metadata)
            except ValueError as wrong:
                self.declared.forget(name)
                raise refusal(str(wrong)) from wrong

    def update(self, name: str, request: models.UpdateCollection) -> bool:
        with self.collection(name) as real:
            self.local.update_collection(real, metadata=request.metadata, vectors_config=request.vectors)
            self.declared.update(real, request)
        return True

    def delete(self, name: str) -> bool:
        with self.lock:
            deleted = self.local.delete_collection(name)
            if deleted:
                self.declared.forget(name)
            return deleted

    def names(self) -> dict[str, Any]:
        with self.lock:
            return {"collections": [{"name": name} for name in self.local.collections]}

    def exists(self, name: str) -> dict[str, Any]:
        with self.lock:
            return {"exists": name in self.local.collections or name in self.local.aliases}

    def info(self, name: str) -> dict[str, Any]:
        with self.collection(name) as real:
            collection = self.local.collections[real]
            counted = {field: self.having(collection, field) for field in self.declared.collections[real]["indexes"]}
            return {
                "status": "green",
                "optimizer_status": "ok",
                "indexed_vectors_count": 0,
                "points_count": collection.count().count,
                "segments_count": 1,
                "config": self.declared.config(real, collection.config.metadata),
                "payload_schema": self.declared.payload_schema(real, counted),
                "update_queue": {"length": 0},
            }

    @staticmethod
    def having(collection: Any, field: str) -> int:
        live = (payload for payload, gone in zip(collection.payload, collection.deleted, strict=True) if not gone)
        return sum(1 for payload in live if value_by_key(payload, field))

    def create_vector(self, name: str, vector: str, config: Any, wait: bool) -> dict[str, Any]:
        with self.collection(name) as real:
            self.local.create_vector_name(real, vector, config)
            self.declared.add_vector(real, vector, config)
            return self.updated(wait)

    def delete_vector(self, name: str, vector: str, wait: bool) -> dict[str, Any]:
        with self.collection(name) as real:
            self.local.delete_vector_name(real, vector)
            self.declared.drop_vector(real, vector)
            return self.updated(wait)

    def create_index(self, name: str, field: str, schema: Any, wait: bool) -> dict[str, Any]:
        with self.collection(name) as real:
            self.strict(real).create_index()
            self.declared.add_index(real, field, schema)
            return self.updated(wait)

    def delete_index(self, name: str, field: str, wait: bool) -> dict[str, Any]:
        with self.collection(name) as real:
            self.declared.drop_index(real, field)
            return self.updated(wait)

    # Aliases

    def change_aliases(self, actions: Iterable[Any]) -> bool:
        """One action after the other, each kept: what came before a refused one stays done."""
        with self.lock:
            for action in actions:
                self.change_alias(action)
        return True

    def change_alias(self, action: Any) -> None:
        if isinstance(action, models.CreateAliasOperation):
            asked = action.create_alias
            if asked.collection_name not in self.local.collections:
                raise Refused(404, f"Not found: Collection `{asked.collection_name}` doesn't exist!")
            if asked.alias_name in self.local.collections:
                raise Refused(409, f"Wrong input: Collection `{asked.alias_name}` already exists!")
        if isinstance(action, models.RenameAliasOperation) and action.rename_alias.old_alias_name not in self.local.aliases:
            raise Refused(404, f"Not found: Alias {action.rename_alias.old_alias_name} does not exists!")
        try:
            self.local.update_collection_aliases([action])
        except ValueError as wrong:
            raise refusal(str(wrong)) from wrong

    def aliases(self, name: str | None = None) -> dict[str, Any]:
        with self.lock:
            pairs = self.local.aliases.items()
            return {"aliases": [{"alias_name": a, "collection_name": c} for a, c in pairs if name in (None, c)]}

    # Points: writing

    def write(self, name: str, operation: Any, wait: bool) -> dict[str, Any]:
        """One operation of a batch; the plain routes wrap their body into the operation of the same name."""
        with self.collection(name) as real:
            self.allowed(real, operation)
            written(self.local.collections[real], operation)
            return self.updated(wait)

    def allowed(self, real: str, operation: Any) -> None:
        """Strict mode, about one operation."""
        strict, request = self.strict(real), next(iter(vars(operation).values()))
        match operation:
            case models.UpsertOperation():
                strict.upsert(request.points if isinstance(request, models.PointsList) else points_of_batch(request.batch))
            case models.UpdateVectorsOperation():
                strict.upsert(request.points, "update limit")
            case _:
                wanted = getattr(request, "filter", None)
                ids = getattr(request, "points", None)
                count = len(ids) if ids is not None else int(self.local.count(real, count_filter=wanted).count)
                strict.write(wanted, points=count)

    def batch(self, name: str, operations: Iterable[Any], wait: bool) -> list[dict[str, Any]]:
        """In order, and the first refused operation ends it: what came before stays written."""
        return [self.write(name, operation, wait) for operation in operations]

    # Points: reading

    def retrieve(self, name: str, request: models.PointRequest) -> list[dict[str, Any]]:
        with self.collection(name) as real:
            self.strict(real).read(cost=len(request.ids))
            found = self.local.retrieve(real, request.ids, shown(request.with_payload), request.with_vector or False)
            return [self.record(real, point) for point in found]

    def scroll(self, name: str, request: models.ScrollRequest) -> dict[str, Any]:
        with self.collection(name) as real:
            limit = 10 if request.limit is None else request.limit
            self.strict(real).read(request.filter, limit=limit)
            points, following = self.local.scroll(
                real,
                scroll_filter=request.filter,
                limit=limit,
                order_by=request.order_by,
                offset=request.offset,
                with_payload=shown(request.with_payload),
                with_vectors=request.with_vector or False,
            )
            return {"points": [self.record(real, point) for point in points], "next_page_offset": following}

    def count(self, name: str, request: models.CountRequest) -> dict[str, Any]:
        with self.collection(name) as real:
            self.strict(real).read(request.filter, exact=request.exact is not False)
            return {"count": int(self.local.count(real, count_filter=request.filter).count)}

    def query(self, name: str, request: models.QueryRequest) -> dict[str, Any]:
        with self.collection(name) as real:
            limit = 10 if request.limit is None else request.limit
            self.strict(real).read(request.filter, limit=limit, params=request.params)
            answer = self.local.query_points(
                real,
                query=cast(Any, as_rows(self.local.collections[real], request)),
                using=request.using,
                prefetch=request.prefetch,
                query_filter=request.filter,
                search_params=request.params,
                limit=limit,
                offset=request.offset,
                with_payload=False if request.with_payload is None else request.with_payload,
                with_vectors=request.with_vector or False,
                score_threshold=request.score_threshold,
                lookup_from=request.lookup_from,
            )
            return {"points": [self.record(real, point) for point in answer.points]}

    def facet(self, name: str, request: models.FacetRequest) -> Any:
        with self.collection(name) as real:
            limit = 10 if request.limit is None else request.limit
            self.strict(real).read(request.filter, limit=limit, exact=request.exact)
            return self.local.facet(real, request.key, facet_filter=request.filter, limit=limit)

    def record(self, name: str, point: Any) -> dict[str, Any]:
        result: dict[str, Any] = {"id": point.id, "payload": point.payload}
        if isinstance(point, models.ScoredPoint):
            result |= {"score": float(point.score), "version": point.version}
        if point.vector is not None:
            result["vector"] = self.as_stored(name, point.vector)
        return result

    def as_stored(self, name: str, vector: Any) -> Any:
        """A vector as the declared datatype would have kept it."""
        halves = {vector for vector, kind in self.declared.datatypes(name).items() if kind == "float16"}
        if not isinstance(vector, dict):
            return halved(vector) if "" in halves else vector
        return {key: halved(value) if key in halves else value for key, value in vector.items()}


def points_of_batch(batch: Any) -> list[models.PointVectors]:
    """The points of a batch in columns; named vectors are columns of their own."""
    named = batch.vectors if isinstance(batch.vectors, dict) else None
    rows = [{name: column[n] for name, column in named.items()} if named else batch.vectors[n] for n in range(len(batch.ids))]
    return [models.PointVectors.model_construct(id=each, vector=row) for each, row in zip(batch.ids, rows, strict=True)]


def as_rows(collection: Any, request: models.QueryRequest) -> Any:
    """The query; a single vector against rows is one row, which local mode asks to be told."""
    query, name = request.query, "" if request.using is None else request.using
    vector = query.nearest if isinstance(query, models.NearestQuery) else query
    if name in collection.multivectors and isinstance(vector, list) and not isinstance(vector[0], list):
        return [vector]
    return query


def halved(vector: Any) -> Any:
    return np.asarray(vector, dtype=np.float16).astype(np.float32).tolist()


def shown(with_payload: Any) -> Any:
    """A server shows the payload to scroll and retrieve unless it is told not to."""
    return True if with_payload is None else with_payload


def points_of(request: Any) -> Any:
    """The selector of a payload or vector operation: ids or a filter."""
    return request.points if request.points is not None else models.FilterSelector(filter=request.filter)


def written(collection: Any, operation: Any) -> None:
    """Apply one operation. Ids and filters are checked by the collection before it writes anything."""
    match operation:
        case models.UpsertOperation(upsert=request):
            points = request.batch if isinstance(request, models.PointsBatch) else request.points
            collection.upsert(points, update_filter=request.update_filter, update_mode=request.update_mode)
        case models.DeleteOperation(delete=selector):
            collection.delete(selector)
        case models.SetPayloadOperation(set_payload=request):
            collection.set_payload(request.payload, points_of(request), key=request.key)
        case models.OverwritePayloadOperation(overwrite_payload=request):
            collection.overwrite_payload(request.payload, points_of(request))
        case models.DeletePayloadOperation(delete_payload=request):
            collection.delete_payload(request.keys, points_of(request))
        case models.ClearPayloadOperation(clear_payload=selector):
            collection.clear_payload(selector)
        case models.UpdateVectorsOperation(update_vectors=request):
            collection.update_vectors(request.points, update_filter=request.update_filter)
        case models.DeleteVectorsOperation(delete_vectors=request):
            collection.delete_vectors(request.vector, points_of(request))
        case _:
            raise Refused(400, f"Format error in JSON body: unknown operation {type(operation).__name__}")


def refusal(message: str) -> Refused:
    """Local mode's word for a wrong request as the server's."""
    if "is invalid. Must be" in message or "min_count" in message:
        return Refused(422, f"Validation error in JSON body: [{message}]")
    if "is not a valid UUID" in message:
        return Refused(400, "Format error in JSON body: a point ID is either an unsigned integer or a UUID")
    absent = re.search(r"vector (\S*) is not found in the collection", message)
    if absent is not None:
        return Refused(400, f"Wrong input: Not existing vector name error: {absent[1]}")
    return Refused(400, message if message.startswith("Wrong input") else f"Wrong input: {message}")


def optimizations() -> dict[str, Any]:
    """The answer of a collection whose optimizer has nothing to do."""
    summary = {"queued_optimizations": 0, "queued_segments": 0, "queued_points": 0, "idle_segments": 1}
    return {"summary": summary, "running": [], "idle_segments": [{"uuid": str(uuid.uuid4()), "points_count": 0}]}
