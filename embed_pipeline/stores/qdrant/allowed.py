"""Whether a collection's strict mode lets a version be in it: asked when the version is registered, not when its vectors are written."""

from __future__ import annotations

from typing import Any

import psycopg
from qdrant_client import models

from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import census
from embed_pipeline.documents.source import Source
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.stores.qdrant import limits, payload_indexes
from embed_pipeline.stores.qdrant.limits import Limits
from embed_pipeline.stores.qdrant.ownership import Writer
from embed_pipeline.stores.qdrant.place import Place


def indexes(version: Version, source: Source, like: models.CollectionInfo | None) -> dict[str, Any]:
    """The payload indexes of a collection that holds this version."""
    return payload_indexes.wanted(version.name, source.payload_indexes, like)


def refuse(
    conn: psycopg.Connection,
    place: Place,
    info: models.CollectionInfo,
    version: Version,
    source: Source,
    like: models.CollectionInfo | None = None,
    *,
    new: Writer | None = None,
) -> None:
    """ConfigurationError names the setting that forbids it. A collection that was made just now (`new`) is not left behind."""
    found = Limits.of(place.collection, info)
    quantization = version.declared.store_config.get("search_params", {}).get("quantization", {})
    try:
        limits.refuse(
            found,
            indexes=list(indexes(version, source, like)),
            documents=0 if found.strict.max_points_count is None else census.count(conn, source),
            chunked=place.vector if version.is_chunked else None,
            oversampling=quantization.get("oversampling"),
        )
    except ConfigurationError:
        if new is not None:
            new.write(place.collection, lambda client: client.delete_collection(place.collection))
        raise
