"""How a Qdrant collection, and a version in it, is made and searched, as declared: in the client's own models.

They are imported where something is declared, and only there: that takes seconds.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from embed_pipeline.extras import needed_for

# What is of one vector, in whichever layout; and what is of the whole collection.
OF_A_VECTOR = ("hnsw_config", "quantization_config", "on_disk")
OF_A_COLLECTION = (
    "optimizers_config",
    "strict_mode_config",
    "wal_config",
    "shard_number",
    "replication_factor",
    "write_consistency_factor",
    "on_disk_payload",
)
# Of a search: how far it looks is versions.V.hnsw.ef_search, and whether it is exact is asked each time.
OF_A_SEARCH = ("quantization", "indexed_only", "acorn")


def collection_config(declared: Any) -> dict[str, Any]:
    """`store.collection_config`, checked; ValueError says what is wrong with it."""
    return _read("store.collection_config", declared, searches=False)


def store_config(declared: Any) -> dict[str, Any]:
    """`versions.V.store_config`, checked; ValueError says what is wrong with it."""
    return _read("store_config", declared, searches=True)


def _read(what: str, declared: Any, *, searches: bool) -> dict[str, Any]:
    if not declared:
        return {}
    try:
        return _model(searches).model_validate(declared).model_dump(mode="json", exclude_none=True, exclude_unset=True)
    except ValidationError as wrong:
        # Of a choice of models every one complains: the deepest complaint is about the one that was meant.
        first = max(wrong.errors(), key=lambda each: len(each["loc"]))
        raise ValueError(f"{what}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


@cache
def _model(searches: bool) -> type[BaseModel]:
    with needed_for("The configuration of a collection"):
        from qdrant_client import models

    create = models.CreateCollection.model_fields
    fields: dict[str, Any] = {name: (create[name].annotation, None) for name in ("hnsw_config", *OF_A_COLLECTION)}
    # "Disabled": not as the one that is replaced.
    fields |= {"quantization_config": (models.QuantizationConfigDiff | None, None), "on_disk": (bool | None, None)}
    strict = ConfigDict(extra="forbid")
    if searches:
        of_search: dict[str, Any] = {name: (models.SearchParams.model_fields[name].annotation, None) for name in OF_A_SEARCH}
        fields["search_params"] = (create_model("SearchParams", __config__=strict, **of_search) | None, None)
    return create_model("StoreConfig", __config__=strict, **fields)
