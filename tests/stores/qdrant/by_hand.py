"""A collection as an application makes it by hand, with the vectors of the fake model, and an index that adopts it."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qdrant_client import QdrantClient, models

from embed_pipeline.spec import IndexSpec
from tests.harness.fakes import unit_vector
from tests.harness.postgres.other import ACCEPTED

DOCUMENTS = 60
DIMENSIONS = 16
MARK = "embed_pipeline"


def doc_id(number: int) -> str:
    """Every third document has a UUID, the others an integer."""
    return str(uuid.UUID(int=number)) if number % 3 == 0 else str(number)


def point_of(doc_id: str) -> int | str:
    return int(doc_id) if doc_id.isdigit() else doc_id


def text_of(number: int) -> str:
    return f"body of number {number}"


def vector_of(text: str, version: str = "v1") -> list[float]:
    """What tests.harness.fakes:HashEmbedder makes of a text, for the version of that salt."""
    vector: list[float] = unit_vector(f"{version}\0{text}", DIMENSIONS).tolist()
    return vector


def payload_of(number: int) -> dict[str, Any]:
    lang = "de" if number % 2 else "en"
    return {"body": text_of(number), "lang": lang, "year": 2000 + number, "tags": ["a", {"n": number}], "score": number / 8}


@dataclass
class Collection:
    """`vector` is the name of the dense vector, "" for the unnamed one; each point also has a sparse one, `words`."""

    client: QdrantClient
    name: str
    vector: str = ""
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)

    def make(self, documents: int = DOCUMENTS) -> None:
        params = models.VectorParams(
            size=DIMENSIONS,
            distance=models.Distance.COSINE,
            hnsw_config=models.HnswConfigDiff(m=24, ef_construct=90),
            on_disk=True,
        )
        self.client.create_collection(
            self.name,
            vectors_config=params if self.vector == "" else {self.vector: params},
            sparse_vectors_config={"words": models.SparseVectorParams(modifier=models.Modifier.IDF)},
            quantization_config=models.ScalarQuantization(
                scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
            ),
            hnsw_config=models.HnswConfigDiff(m=20),
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=5_000),
            shard_number=2,
            replication_factor=2,
            on_disk_payload=False,
            metadata={"owner": "search team"},
        )
        self.client.create_payload_index(self.name, "lang", models.PayloadSchemaType.KEYWORD)
        self.client.create_payload_index(
            self.name, "year", models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, lookup=True, range=True)
        )
        if documents:
            self.write(*(self.point(number) for number in range(1, documents + 1)))

    def point(self, number: int, **changed: Any) -> models.PointStruct:
        payload = {name: value for name, value in (payload_of(number) | changed).items() if value is not ...}
        self.kept[doc_id(number)] = payload
        text = payload.get("body") if isinstance(payload.get("body"), str) else ""
        sparse = models.SparseVector(indices=[number, 1000], values=[0.5, 1.0])
        return models.PointStruct(
            id=point_of(doc_id(number)), vector={self.vector: vector_of(text or ""), "words": sparse}, payload=payload
        )

    def write(self, *points: models.PointStruct) -> None:
        self.client.upsert(self.name, list(points))

    def points(self, collection: str | None = None) -> dict[str, models.Record]:
        """All points by id, with payload and vectors."""
        records, _ = self.client.scroll(collection or self.name, limit=10_000, with_payload=True, with_vectors=True)
        return {str(record.id): record for record in records}


def declared(url: str, folder: Path, store: dict[str, Any], *names: str, **overrides: Any) -> IndexSpec:
    """Index `docs` over the documents table that the package makes; `calls_<version>` in `folder` gets every text embedded."""
    versions = {
        name: {
            "provider": "tests.harness.fakes:HashEmbedder",
            "model_name": f"model-{name}",
            "dimensions": DIMENSIONS,
            "options": {"salt": name, "calls_file": str(folder / f"calls_{name}")},
        }
        for name in names
    }
    holdout = folder / "holdout.jsonl"
    rows = [{"query_id": str(n), "query": text_of(n), "doc_id": doc_id(n), "grade": 1} for n in range(1, 31)]
    holdout.write_text("\n".join(map(json.dumps, rows)))
    declaration: dict[str, Any] = {
        "name": "docs",
        "database_url": url,
        "store": store,
        "partitions": 3,
        "versions": versions,
        "holdout": {"path": str(holdout)},
        "gate": {"min_queries": 2, "margin": 0.2, "floor": 0.5},
        "retire": {"soak_seconds": 0, "unread_seconds": 0},
    }
    return IndexSpec.model_validate(ACCEPTED | declaration | overrides)
