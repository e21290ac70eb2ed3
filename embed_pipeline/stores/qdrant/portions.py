"""Requests on many points, cut to what a rate limit lets through."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qdrant_client import models

from embed_pipeline.stores.qdrant.engine import Engine


def portions(engine: Engine, collection: str, those: models.Filter) -> Iterator[list[models.Condition]]:
    """What a request on these points is limited to beside its filter, one request after the other: a rate limit counts every point that one
    touches, and lets none through that is larger than a minute's. Without one a single request does."""
    most = engine.limits(collection).ids_per_write
    if most is None:
        yield []
        return
    offset: Any = None
    while True:
        records, offset = engine.call(
            lambda client, start=offset: client.scroll(  # type: ignore[misc]
                collection, scroll_filter=those, limit=most, offset=start, with_payload=False, with_vectors=False
            )
        )
        if records:
            yield [models.HasIdCondition(has_id=[record.id for record in records])]
        if offset is None:
            return
