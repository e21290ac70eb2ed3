"""What a version will take in Qdrant, and how its collection will be made, foretold without asking the server."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from embed_pipeline.spec import DocumentsSpec, QdrantSpec, VersionSpec
from embed_pipeline.stores.kind import Disk
from embed_pipeline.stores.qdrant.own_fields import own_indexes

# Measured: our part of a point's payload as JSON, for ids of about ten characters. The documents' own payload is not counted.
POINT_PROVENANCE_BYTES = 450
# Bits of a value once more, by the setting that says how many.
BITS = {
    "x4": 8, "x8": 4, "x16": 2, "x32": 1, "x64": 0.5,
    "one_bit": 1, "one_and_half_bits": 1.5, "two_bits": 2,
    "bits1": 1, "bits1_5": 1.5, "bits2": 2, "bits4": 4, "bits8": 8,
}  # fmt: skip


def disk(store: QdrantSpec, documents: int, version: VersionSpec, chunks_per_document: float = 1.0) -> Disk:
    """Bytes of a version's points and of their graph.

    Qdrant's own rule for planning is 1.5 times the bare vectors, the half of them for graph and indexes (its documentation, "Capacity
    planning"). Not measured on a server. What the serving collection has beside that and nobody has declared is not known here.
    """
    settings = {**store.collection_config, **version.store_config}
    width = 2 if version.precision == "halfvec" else 4
    replicas = settings.get("replication_factor") or 1
    values = documents * chunks_per_document * version.dimensions * replicas
    vectors = math.ceil(values * width)
    return Disk(
        vectors,
        documents * POINT_PROVENANCE_BYTES * replicas,
        vectors // 2,
        f"dimensions, by Qdrant's rule of one and a half{f', {replicas} replicas' if replicas > 1 else ''}",
        math.ceil(values * _quantized_bits(settings.get("quantization_config")) / 8),
    )


def _quantized_bits(config: Any) -> float:
    """Bits that a value takes beside its own vector. Where the setting leaves it to the server, what that takes today."""
    if not isinstance(config, Mapping):
        return 0.0
    kind, said = next(iter(config.items()))
    by_default = {"scalar": 8.0, "binary": 1.0, "product": 8.0, "turbo": 4.0}
    asked = said.get("compression") or said.get("encoding") or said.get("bits")
    return BITS.get(asked, by_default.get(kind, 0.0))


def made(store: QdrantSpec, source: DocumentsSpec, name: str, version: VersionSpec) -> tuple[str, ...]:
    """How the version's collection will be made, with which payload indexes, and how it will be searched."""
    adopted = store.adopt if store.adopt is not None and store.adopt.version == name else None
    settings = {**store.collection_config, **version.store_config}
    searched = settings.pop("search_params", None)
    if adopted is not None:
        place = f"{adopted.collection} is adopted as it is"
    else:
        declared = "; ".join(f"{each}: {json.dumps(value)}" for each, value in sorted(settings.items()))
        place = f"as declared ({declared}), else like the one that serves" if declared else "like the one that serves"
    fields = {**own_indexes(name), **source.payload_indexes}
    indexes = ", ".join(f"{field} ({kind})" for field, kind in fields.items())
    before = "before it is first asked by them" if adopted is not None else "before the data"
    return (
        f"collection: {place}",
        f"payload indexes, made {before} where they are not there: {indexes}",
        *([f"searched with {json.dumps(searched)}"] if searched else []),
    )
