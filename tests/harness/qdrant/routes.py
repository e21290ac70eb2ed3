"""The REST paths of the loopback server: a table from method and path to the engine's method."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from qdrant_client import models

from tests.harness.qdrant.engine import Engine, optimizations
from tests.harness.qdrant.faults import Faults
from tests.harness.qdrant.strict import Refused

INSERT: TypeAdapter[Any] = TypeAdapter(models.PointInsertOperations)
SELECTOR: TypeAdapter[Any] = TypeAdapter(models.PointsSelector)
VECTOR_NAME: TypeAdapter[Any] = TypeAdapter(models.VectorNameConfig)


@dataclass(frozen=True)
class Call:
    """One request as a route sees it: the parts of its path, its body, and whether it waits for the write."""

    engine: Engine
    faults: Faults
    name: str
    part: str
    wait: bool
    body: bytes

    def read(self, kind: Any) -> Any:
        """The body as a model of the client, which are the models of the server's own API description."""
        try:
            if isinstance(kind, TypeAdapter):
                return kind.validate_json(self.body)
            return kind.model_validate_json(self.body)
        except ValidationError as wrong:
            first = wrong.errors()[0]
            raise Refused(400, f"Format error in JSON body: {first['msg']} at {first['loc']}") from wrong

    def write(self, operation: type[Any], field: str, kind: Any) -> Any:
        return self.engine.write(self.name, operation.model_construct(**{field: self.read(kind)}), self.wait)


Route = Callable[[Call], Any]
TABLE: list[tuple[str, re.Pattern[str], Route]] = []


def route(method: str, path: str) -> Callable[[Route], Route]:
    pattern = re.compile(path.replace("{name}", "(?P<name>[^/]+)").replace("{part}", "(?P<part>[^/]+)"))

    def kept(function: Route) -> Route:
        TABLE.append((method, pattern, function))
        return function

    return kept


def found(method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    for known, pattern, function in TABLE:
        match = pattern.fullmatch(path)
        if known == method and match is not None:
            return function, match.groupdict()
    return None


# Collections


@route("GET", "/collections")
def collections(call: Call) -> Any:
    return call.engine.names()


@route("GET", "/collections/{name}")
def info(call: Call) -> Any:
    return call.faults.conditions_of(call.name).over_info(call.engine.info(call.name))


@route("GET", "/collections/{name}/exists")
def exists(call: Call) -> Any:
    return call.engine.exists(call.name)


@route("GET", "/collections/{name}/optimizations")
def queued(call: Call) -> Any:
    with call.engine.collection(call.name):
        return call.faults.conditions_of(call.name).over_optimizations(optimizations())


@route("PUT", "/collections/{name}")
def create(call: Call) -> Any:
    return call.engine.create(call.name, call.read(models.CreateCollection))


@route("PATCH", "/collections/{name}")
def update(call: Call) -> Any:
    return call.engine.update(call.name, call.read(models.UpdateCollection))


@route("DELETE", "/collections/{name}")
def delete(call: Call) -> Any:
    return call.engine.delete(call.name)


@route("PUT", "/collections/{name}/vectors/{part}")
def create_vector(call: Call) -> Any:
    return call.engine.create_vector(call.name, call.part, call.read(VECTOR_NAME), call.wait)


@route("DELETE", "/collections/{name}/vectors/{part}")
def delete_vector(call: Call) -> Any:
    return call.engine.delete_vector(call.name, call.part, call.wait)


@route("DELETE", "/collections/{name}/vectors/")
def delete_unnamed_vector(call: Call) -> Any:
    return call.engine.delete_vector(call.name, "", call.wait)


@route("PUT", "/collections/{name}/index")
def create_index(call: Call) -> Any:
    asked = call.read(models.CreateFieldIndex)
    return call.engine.create_index(call.name, asked.field_name, asked.field_schema, call.wait)


@route("DELETE", "/collections/{name}/index/{part}")
def delete_index(call: Call) -> Any:
    return call.engine.delete_index(call.name, call.part, call.wait)


# Aliases


@route("POST", "/collections/aliases")
def change_aliases(call: Call) -> Any:
    return call.engine.change_aliases(call.read(models.ChangeAliasesOperation).actions)


@route("GET", "/aliases")
def aliases(call: Call) -> Any:
    return call.engine.aliases()


@route("GET", "/collections/{name}/aliases")
def aliases_of(call: Call) -> Any:
    return call.engine.aliases(call.name)


# Points: writing


@route("PUT", "/collections/{name}/points")
def upsert(call: Call) -> Any:
    return call.write(models.UpsertOperation, "upsert", INSERT)


@route("POST", "/collections/{name}/points/delete")
def delete_points(call: Call) -> Any:
    return call.write(models.DeleteOperation, "delete", SELECTOR)


@route("PUT", "/collections/{name}/points/vectors")
def update_vectors(call: Call) -> Any:
    return call.write(models.UpdateVectorsOperation, "update_vectors", models.UpdateVectors)


@route("POST", "/collections/{name}/points/vectors/delete")
def delete_vectors(call: Call) -> Any:
    return call.write(models.DeleteVectorsOperation, "delete_vectors", models.DeleteVectors)


@route("POST", "/collections/{name}/points/payload")
def set_payload(call: Call) -> Any:
    return call.write(models.SetPayloadOperation, "set_payload", models.SetPayload)


@route("PUT", "/collections/{name}/points/payload")
def overwrite_payload(call: Call) -> Any:
    return call.write(models.OverwritePayloadOperation, "overwrite_payload", models.SetPayload)


@route("POST", "/collections/{name}/points/payload/delete")
def delete_payload(call: Call) -> Any:
    return call.write(models.DeletePayloadOperation, "delete_payload", models.DeletePayload)


@route("POST", "/collections/{name}/points/payload/clear")
def clear_payload(call: Call) -> Any:
    return call.write(models.ClearPayloadOperation, "clear_payload", SELECTOR)


@route("POST", "/collections/{name}/points/batch")
def batch(call: Call) -> Any:
    return call.engine.batch(call.name, call.read(models.UpdateOperations).operations, call.wait)


# Points: reading


@route("POST", "/collections/{name}/points")
def retrieve(call: Call) -> Any:
    return call.engine.retrieve(call.name, call.read(models.PointRequest))


@route("POST", "/collections/{name}/points/scroll")
def scroll(call: Call) -> Any:
    return call.engine.scroll(call.name, call.read(models.ScrollRequest))


@route("POST", "/collections/{name}/points/count")
def count(call: Call) -> Any:
    return call.engine.count(call.name, call.read(models.CountRequest))


@route("POST", "/collections/{name}/points/query")
def query(call: Call) -> Any:
    return call.engine.query(call.name, call.read(models.QueryRequest))


@route("POST", "/collections/{name}/points/query/batch")
def query_batch(call: Call) -> Any:
    searches = call.read(models.QueryRequestBatch).searches
    with call.engine.collection(call.name) as real:
        call.engine.strict(real).at_most(len(searches), "search_max_batchsize", "search batch size")
    return [call.engine.query(call.name, request) for request in searches]


@route("POST", "/collections/{name}/facet")
def facet(call: Call) -> Any:
    return call.engine.facet(call.name, call.read(models.FacetRequest))
