"""The demo on Qdrant, in qdrant-client's local mode: nothing to install and no key, one process, and no ANN index."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import psycopg
import yaml
from qdrant_client import QdrantClient, models

from embed_pipeline.catalog import serving
from embed_pipeline.catalog.versions import Version
from embed_pipeline.configuration import COMPONENT_TYPE
from embed_pipeline.demo.stage import LayoutKind, StoredVector
from embed_pipeline.documents.source import Source
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.postgres.home import default_home
from embed_pipeline.spec import IndexSpec, QdrantSpec
from embed_pipeline.stores.qdrant import engines
from embed_pipeline.stores.qdrant.ids import point_id
from embed_pipeline.stores.qdrant.layout import open_layout
from embed_pipeline.stores.qdrant.own_fields import KEY
from embed_pipeline.stores.qdrant.writes import read_points

INDEX = "docs_qdrant"
FOLDER = "demo_qdrant"

OPENING = """\
The vectors are in Qdrant here, in the local mode of its Python client: a
folder, no server, no key. PostgreSQL keeps documents, queue and pointer.
What local mode does not do:
  no ANN index   every search compares with every vector, so what the gate says
                 of ANN recall says nothing about Qdrant
  one process    backfill, dual-write and reader are threads of this process,
                 behind one lock; the writer has a process of its own
  no speed       each point is a commit of SQLite, each guard is tried in Python
                 on every point: the speeds below are local mode's
With a server (store.url) there is none of this: any number of processes, and
Qdrant's own HNSW index."""


def on_qdrant(declared: IndexSpec, layout: LayoutKind) -> IndexSpec:
    """The demo's declaration with its vectors in local mode: an index, a database and a folder that only this demo uses."""
    store = QdrantSpec(kind="qdrant", path=default_home() / FOLDER / "vectors", layout=layout)
    return declared.model_copy(update={"name": INDEX, "database_url": f"embedded:{FOLDER}", "store": store})


class InMemory:
    """The scratch copy: a collection of its own in memory, and the upsert that people would run."""

    def __init__(self) -> None:
        self._client = QdrantClient(":memory:")
        cosine = models.VectorParams(size=384, distance=models.Distance.COSINE)
        self._client.create_collection("in_place", vectors_config=cosine)

    def put(self, numbers: Sequence[int], vectors: Vectors) -> None:
        points = [models.PointStruct(id=number, vector=vector.tolist()) for number, vector in zip(numbers, vectors, strict=True)]
        if points:
            self._client.upsert("in_place", points)

    def nearest(self, query: Vectors) -> list[int]:
        found = self._client.query_points("in_place", query=query.tolist(), limit=10).points
        return [int(point.id) for point in found]


class QdrantStage:
    """Stage on Qdrant in local mode."""

    in_one_process = True
    opening = OPENING
    ann_words = "no ANN index in local mode"

    def __init__(self, spec: IndexSpec) -> None:
        assert isinstance(spec.store, QdrantSpec)
        self.spec = spec
        self.folder = default_home() / FOLDER
        self._store = spec.store

    def declare(self) -> None:
        attributes = self.spec.model_dump(mode="json", exclude_unset=True)
        text = yaml.safe_dump({"type": COMPONENT_TYPE, "attributes": attributes}, sort_keys=False)
        (self.folder / "defs.yaml").write_text(f"# Written by the demo, for the commands that it ends with.\n{text}")

    def scratch(self, conn: psycopg.Connection) -> InMemory:
        return InMemory()

    def stored(self, conn: psycopg.Connection, version: Version, doc_ids: Sequence[str]) -> dict[str, StoredVector]:
        engine = engines.take(self._store)
        try:
            place = open_layout(engine, self._store, version.index, Source.unchecked(self.spec.source())).place(version)
            ids = {point_id(doc_id): doc_id for doc_id in doc_ids}
            points = read_points(engine, place.collection, list(ids), vectors=[place.vector])
        finally:
            engines.give_back(engine)
        return {
            ids[each]: StoredVector(
                np.asarray(point.vectors[place.vector], dtype=np.float32),
                str(point.versions[version.name]["fingerprint"]),
                datetime.fromisoformat(point.versions[version.name]["embedded_at"]).timestamp(),
            )
            for each, point in points.items()
            if place.vector in point.vectors and version.name in point.versions
        }

    def told(self, index: OpenIndex) -> str:
        """Where Qdrant itself leads a client to. EmbedPipelineError when that is another version than the catalog's."""
        with index.connection() as conn:
            pointer = serving.read(conn, index.name)
            version = index.version(conn, str(pointer.version))
        engine = engines.take(self._store)
        try:
            place = open_layout(engine, self._store, index.name, index.source).place(version)
            if self._store.layout == "named_vectors":
                ours = engine.call(lambda client: client.get_collection(place.collection)).config.metadata or {}
                there, wanted = ours.get(KEY, {}).get("serving", {}).get("vector"), place.vector
                said = f"the metadata of collection {place.collection} names vector {there}"
            else:
                aliases = engine.call(lambda client: client.get_aliases().aliases)
                there = next((each.collection_name for each in aliases if each.alias_name == index.name), None)
                wanted = place.collection
                said = f"the alias {index.name} leads to collection {there}"
        finally:
            engines.give_back(engine)
        if there != wanted:
            raise EmbedPipelineError(f"{version.name} serves, and {said}.", next_step=f"Run: {self._command('status')}")
        return f"A client that asks Qdrant alone: {said}."

    def next_steps(self) -> str:
        return (
            f"  {self._command('status')}\n  {self._command('search')} 'read a file line by line'\n"
            f"  {self.folder / 'defs.yaml'}   the declaration; set store.url to use a server"
        )

    def _command(self, verb: str) -> str:
        return f"embed-pipeline {verb} --config {self.folder} {self.spec.name}"
