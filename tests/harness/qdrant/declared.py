"""What collections were declared with: local mode forgets everything but the vectors, a server gives it all back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from qdrant_client import models

# What a server fills in for a collection that declares nothing.
HNSW = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000, "max_indexing_threads": 0, "on_disk": False}
OPTIMIZER = {
    "deleted_threshold": 0.2,
    "vacuum_min_vector_number": 1000,
    "default_segment_number": 0,
    "max_segment_size": None,
    "memmap_threshold": None,
    "indexing_threshold": 10000,
    "flush_interval_sec": 5,
    "max_optimization_threads": None,
}
WAL = {"wal_capacity_mb": 32, "wal_segments_ahead": 0, "wal_retain_closed": 1}
PARAMS = {"shard_number": 1, "replication_factor": 1, "write_consistency_factor": 1, "on_disk_payload": True}
OPTIONAL_PARAMS = ("sparse_vectors", "sharding_method", "payload", "id_tracker", "read_fan_out_factor", "read_fan_out_delay_ms")


def plain(model: Any, without: set[str] | None = None) -> Any:
    """A model of the client as JSON, without what was not said."""
    return model.model_dump(mode="json", exclude_none=True, exclude=without)


def merged(old: dict[str, Any] | None, diff: dict[str, Any]) -> dict[str, Any]:
    """A nested object with a diff laid over it."""
    result = dict(old or {})
    for key, value in diff.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def with_quantization(old: dict[str, Any], diff: dict[str, Any]) -> dict[str, Any]:
    """`merged`, but quantization is replaced as one piece, and "Disabled" takes it away."""
    result = merged(old, {key: value for key, value in diff.items() if key != "quantization_config"})
    if diff.get("quantization_config") == "Disabled":
        result.pop("quantization_config", None)
    elif "quantization_config" in diff:
        result["quantization_config"] = diff["quantization_config"]
    return result


class Declared:
    """One JSON object per collection: the request that created it, with every later change laid over it.

    Persisted in `folder` as one file that is replaced whole, or kept in memory when `folder` is None.
    """

    def __init__(self, folder: Path | None) -> None:
        self.file = None if folder is None else folder / "declared.json"
        self.collections: dict[str, dict[str, Any]] = {}
        if self.file is not None and self.file.exists():
            self.collections = json.loads(self.file.read_text())

    def save(self) -> None:
        if self.file is not None:
            beside = self.file.with_suffix(".tmp")
            beside.write_text(json.dumps(self.collections))
            os.replace(beside, self.file)

    def create(self, name: str, request: models.CreateCollection) -> None:
        self.collections[name] = {**plain(request, {"metadata"}), "indexes": {}}
        self.save()

    def forget(self, name: str) -> None:
        self.collections.pop(name, None)
        self.save()

    def update(self, name: str, request: models.UpdateCollection) -> None:
        known, diff = self.collections[name], plain(request, {"metadata", "vectors", "params"})
        known = with_quantization(known, diff)
        known = merged(known, plain(request.params) if request.params is not None else {})
        for vector, change in (request.vectors or {}).items():
            self.change_vector(known, vector, plain(change))
        self.collections[name] = known
        self.save()

    @staticmethod
    def change_vector(known: dict[str, Any], vector: str, change: dict[str, Any]) -> None:
        if vector == "" and "size" in known["vectors"]:
            known["vectors"] = with_quantization(known["vectors"], change)
        else:
            known["vectors"][vector] = with_quantization(known["vectors"][vector], change)

    def add_vector(self, name: str, vector: str, config: Any) -> None:
        known = self.collections[name]
        if isinstance(config, models.SparseVectorNameConfig):
            sparse = plain(config.sparse)
            index = {"index": {"datatype": sparse.pop("datatype")}} if "datatype" in sparse else {}
            known.setdefault("sparse_vectors", {}).setdefault(vector, {**sparse, **index})
        else:
            dense = known.get("vectors") or {}
            known["vectors"] = {"": dense} if "size" in dense else dense
            known["vectors"].setdefault(vector, plain(config.dense))
        self.save()

    def drop_vector(self, name: str, vector: str) -> None:
        known = self.collections[name]
        for kind in ("vectors", "sparse_vectors"):
            (known.get(kind) or {}).pop(vector, None)
        self.save()

    def add_index(self, name: str, field: str, schema: Any) -> None:
        kind = schema if isinstance(schema, str) else plain(schema)
        self.collections[name]["indexes"][field] = getattr(kind, "value", kind)
        self.save()

    def drop_index(self, name: str, field: str) -> None:
        self.collections[name]["indexes"].pop(field, None)
        self.save()

    def datatypes(self, name: str) -> dict[str, str]:
        """The declared datatype of each dense vector that has one; the unnamed vector is ""."""
        dense = self.collections[name].get("vectors") or {}
        named = {"": dense} if "size" in dense else dense
        return {vector: params["datatype"] for vector, params in named.items() if "datatype" in params}

    def config(self, name: str, metadata: dict[str, Any] | None) -> dict[str, Any]:
        """`config` of the answer to GET /collections/{name}."""
        known = self.collections[name]
        params = {key: known.get(key, default) for key, default in PARAMS.items()}
        params |= {key: known[key] for key in OPTIONAL_PARAMS if key in known}
        result = {
            "params": {"vectors": known.get("vectors", {}), **params},
            "hnsw_config": merged(HNSW, known.get("hnsw_config", {})),
            "optimizer_config": merged(OPTIMIZER, known.get("optimizers_config", {})),
            "wal_config": merged(WAL, known.get("wal_config", {})),
            "quantization_config": known.get("quantization_config"),
        }
        if "strict_mode_config" in known:
            result["strict_mode_config"] = known["strict_mode_config"]
        return result if metadata is None else {**result, "metadata": metadata}

    def payload_schema(self, name: str, points: dict[str, int]) -> dict[str, Any]:
        """`payload_schema` of the answer: the kind of each indexed field, its parameters, and how many points have it."""
        schema = {}
        for field, kind in self.collections[name]["indexes"].items():
            params = {"params": kind} if isinstance(kind, dict) else {}
            schema[field] = {"data_type": kind["type"] if params else kind, **params, "points": points[field]}
        return schema
