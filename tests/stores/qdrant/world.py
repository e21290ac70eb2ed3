"""A collection made by hand and the index that adopts it: what the tests of adoption stand on."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import psycopg
import pytest
from qdrant_client import QdrantClient, models

from embed_pipeline.migrate import adopt as adopting
from embed_pipeline.migrate.adopt import Adopted
from embed_pipeline.migrate.opening import opened
from embed_pipeline.spec import IndexSpec
from tests.harness.fakes import asked_texts
from tests.harness.qdrant.loopback import Loopback
from tests.stores.qdrant.by_hand import MARK, Collection, declared, text_of, vector_of

OWN_TABLE = {"table": "notes", "key": "id", "text": ["body"], "payload": ["lang", "year"]}


class World:
    """One collection made by hand on the loopback server, and the database of the index that adopts it."""

    def __init__(self, server: Loopback, database_url: str, folder: Path, *, vector: str, layout: str) -> None:
        self.server, self.database_url, self.folder = server, database_url, folder
        own = f"test_{uuid.uuid4().hex[:12]}"
        self.collection = Collection(server.client(), f"{own}_old", vector)
        self.alias = self.collection.name if layout == "named_vectors" else f"{own}_live"
        self.store: dict[str, Any] = {
            "kind": "qdrant",
            "url": server.url,
            "layout": layout,
            "collection": self.alias,
            "adopt": {"version": "v1", "collection": self.collection.name, "vector": vector, "text": "body"},
        }
        self.app = psycopg.connect(database_url, autocommit=True)

    def spec(self, *names: str, **overrides: Any) -> IndexSpec:
        return declared(self.database_url, self.folder, self.store, *(names or ("v1",)), **overrides)

    def adopt(self, *names: str, **overrides: Any) -> Adopted:
        with opened(self.spec(*names, **overrides), register_new=False) as index:
            return adopting.adopt(index)

    def documents(self) -> dict[str, tuple[str | None, Any]]:
        return {key: (text, metadata) for key, text, metadata in self.app.execute("SELECT id, text, metadata FROM docs")}

    def embedded(self, version: str) -> list[str]:
        return asked_texts(self.folder / f"calls_{version}")

    def close(self) -> None:
        self.app.close()
        client = self.collection.client
        for found in client.get_collections().collections:
            if found.name.startswith((self.collection.name, self.alias)):
                client.delete_collection(found.name)
        client.close()


def provenance(record: models.Record, version: str = "v1") -> dict[str, Any] | None:
    found: dict[str, Any] | None = ((record.payload or {}).get(MARK) or {}).get("versions", {}).get(version)
    return found


def own_payload(record: models.Record) -> dict[str, Any]:
    return {name: value for name, value in (record.payload or {}).items() if name != MARK}


def close_to(found: Any, wanted: list[float]) -> bool:
    return bool(found == pytest.approx(wanted, abs=1e-6))


def dense(record: models.Record, vector: str) -> Any:
    assert isinstance(record.vector, dict)
    return record.vector[vector]


def sparse(record: models.Record) -> Any:
    assert isinstance(record.vector, dict)
    return record.vector["words"]


def described(client: QdrantClient, name: str, vector: str) -> dict[str, Any]:
    """All settings of a collection but its metadata; of the dense vectors the one that the version has."""
    info = client.get_collection(name)
    config = info.config.model_dump(exclude={"metadata"})
    params = info.config.params.vectors
    config["params"]["vectors"] = (params[vector] if isinstance(params, dict) else params).model_dump()  # type: ignore[index,union-attr]
    # Those of our own fields are of the version that is there.
    others = {field: kind for field, kind in info.payload_schema.items() if not field.startswith(f"{MARK}.")}
    schema = {field: (kind.data_type, kind.params) for field, kind in others.items()}
    return {"config": config, "payload indexes": schema}


def require_kept(world: World) -> None:
    """The points and the collection of v2 are those of v1 with other vectors."""
    collection = world.collection
    old = collection.points()
    new = collection.points(world.alias)
    assert new.keys() == old.keys() == {*collection.kept, "1000"}
    for key, payload in collection.kept.items():
        wanted = payload | ({"body": "edited"} if key == "1" else {})
        assert own_payload(new[key]) == own_payload(old[key]) == wanted
        assert sparse(new[key]) == sparse(old[key])
    assert own_payload(new["1000"]) == {"body": "new", "lang": "fr"}
    if world.store["layout"] == "collections":
        vector = collection.vector
        assert close_to(dense(new["2"], vector), vector_of(text_of(2), "v2"))
        live = described(collection.client, world.alias, vector)
        assert live == described(collection.client, collection.name, vector)
        assert live["payload indexes"].keys() == {"lang", "year"}
        metadata = collection.client.get_collection(world.alias).config.metadata or {}
        assert metadata["owner"] == "search team"


def require_untouched(world: World) -> None:
    assert world.documents() == {}
    assert all(MARK not in (record.payload or {}) for record in world.collection.points().values())


def own_table(world: World, key: str = "text", more: str = "") -> None:
    world.app.execute(f"CREATE TABLE notes (id {key} PRIMARY KEY, body text, lang text, year integer {more})")
