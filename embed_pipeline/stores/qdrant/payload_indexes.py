"""Payload indexes: those that our own requests need, those that are declared, and those of the collection that is replaced.

Made with a collection, before its data: the graph does not use one that is made later. A collection that was there gets them before the
first request that filters by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qdrant_client import models

from embed_pipeline.stores.qdrant.limits import Limits
from embed_pipeline.stores.qdrant.own_fields import KEY, own_indexes, partition_of
from embed_pipeline.stores.qdrant.ownership import Writer
from embed_pipeline.stores.qdrant.points import as_path

# Asked for one number, never for a range.
BY_NUMBER = models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, lookup=True, range=False)


def wanted(version: str, declared: Mapping[str, str], like: models.CollectionInfo | None) -> dict[str, Any]:
    """Field to index, of a collection that holds this version; those of `like` as they are there."""
    found: dict[str, Any] = {}
    if like is not None:
        # What is ours there is of other versions.
        others = {field: index for field, index in like.payload_schema.items() if not field.startswith(f"{KEY}.")}
        found = {field: index.params or index.data_type for field, index in others.items()}
    own = {
        field: BY_NUMBER if kind == "integer" else models.PayloadSchemaType(kind) for field, kind in own_indexes(version).items()
    }
    return {**found, **{as_path(field): models.PayloadSchemaType(kind) for field, kind in declared.items()}, **own}


def make(writer: Writer, collection: str, indexes: Mapping[str, Any]) -> None:
    """Make those that are not there. Another kind of index over such a field is left as it is: somebody filters by it."""
    if writer.engine.is_local:
        return
    missing = _missing(writer.engine.limits(collection, afresh=True), indexes)
    for field in missing:
        writer.write(
            collection,
            lambda client, field=field: client.create_payload_index(  # type: ignore[misc]
                collection, field, field_schema=indexes[field], wait=True
            ),
        )
    if missing:
        writer.engine.forget(collection)


def _missing(limits: Limits, indexes: Mapping[str, Any]) -> list[str]:
    return [field for field in indexes if field not in limits.schema]


def drop_own(writer: Writer, collection: str, version: str) -> None:
    """Drop what a version had of its own in a collection that stays."""
    field = partition_of(version)
    if writer.engine.is_local or field not in writer.engine.limits(collection, afresh=True).schema:
        return
    writer.write(collection, lambda client: client.delete_payload_index(collection, field, wait=True))
    writer.engine.forget(collection)
