"""A collection made by hand becomes v1 as it is, and is migrated from there with its configuration and payload kept."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from qdrant_client import QdrantClient, models

from embed_pipeline import Searcher, signals
from embed_pipeline.documents.existing import Places
from embed_pipeline.errors import AdoptRefused, CatalogError, ConfigurationError
from embed_pipeline.migrate import adopt as adopting
from embed_pipeline.migrate import cutover, retire
from embed_pipeline.migrate.adopt import Adopted
from embed_pipeline.migrate.open_index import OpenIndex, opened
from embed_pipeline.spec import IndexSpec
from embed_pipeline.stores.qdrant import adopting as store_adopting
from tests.articles import serve, settle, text_hash
from tests.fakes import asked_texts
from tests.qdrant.conftest import shared_loopback  # noqa: F401  (fixture)
from tests.qdrant.loopback import ROOT, Loopback
from tests.stores.qdrant.by_hand import DOCUMENTS, MARK, Collection, declared, doc_id, point_of, text_of, vector_of

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect")


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


@pytest.fixture
def world(
    request: pytest.FixtureRequest,
    shared_loopback: Loopback,  # noqa: F811
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    """Parametrize with (vector, layout); else the unnamed vector and `collections`. Pages are small, so that there are several."""
    monkeypatch.setattr(store_adopting, "MOST_POINTS", 16)
    vector, layout = getattr(request, "param", ("", "collections"))
    made = World(shared_loopback, database_url, tmp_path, vector=vector, layout=layout)
    yield made
    made.close()


def provenance(record: models.Record, version: str = "v1") -> dict[str, Any] | None:
    found: dict[str, Any] | None = ((record.payload or {}).get(MARK) or {}).get("versions", {}).get(version)
    return found


def own_payload(record: models.Record) -> dict[str, Any]:
    return {name: value for name, value in (record.payload or {}).items() if name != MARK}


def close_to(found: Any, wanted: list[float]) -> bool:
    return bool(found == pytest.approx(wanted, abs=1e-6))


def dense(record: models.Record, vector: str) -> Any:
    return record.vector[vector] if isinstance(record.vector, dict) else record.vector


def described(client: QdrantClient, name: str, vector: str) -> dict[str, Any]:
    """All settings of a collection but its metadata; of the dense vectors the one that the version has."""
    info = client.get_collection(name)
    config = info.config.model_dump(exclude={"metadata"})
    params = info.config.params.vectors
    config["params"]["vectors"] = (params[vector] if isinstance(params, dict) else params).model_dump()  # type: ignore[index,union-attr]
    schema = {field: (kind.data_type, kind.params) for field, kind in info.payload_schema.items()}
    return {"config": config, "payload indexes": schema}


@pytest.mark.parametrize(
    "world", [("", "collections"), ("dense", "collections"), ("dense", "named_vectors")], indirect=True, ids="-".join
)
def test_a_collection_made_by_hand_is_adopted_and_migrated(world: World) -> None:
    collection = world.collection
    collection.make()
    before = collection.points()

    done = world.adopt()
    assert (done.documents, done.adopted, done.differing, done.without_text, done.queued) == (DOCUMENTS, DOCUMENTS, 0, 0, 0)
    assert done.sample_lowest == pytest.approx(1.0, abs=1e-5)
    # Nothing was embedded but the sample.
    assert len(world.embedded("v1")) == done.sampled == adopting.SAMPLE
    after = collection.points()
    for key, payload in collection.kept.items():
        assert own_payload(after[key]) == payload
        assert after[key].vector == before[key].vector
        found = provenance(after[key])
        assert found is not None
        assert found["source_hash"] == text_hash(payload["body"])
        assert world.documents()[key] == (payload["body"], {n: v for n, v in payload.items() if n != "body"})

    with opened(world.spec("v1")) as index:
        serve(index, "v1")
        settle(index)
    assert len(world.embedded("v1")) == adopting.SAMPLE + 30  # and the queries of the gate

    with opened(world.spec("v1", "v2")) as index:
        # Captured like every change: an edit and a new document reach both versions.
        world.app.execute("UPDATE docs SET text = 'edited' WHERE id = '1'")
        world.app.execute("INSERT INTO docs (id, text, metadata) VALUES ('1000', 'new', '{\"lang\": \"fr\"}')")
        serve(index, "v2")
        settle(index)
        with Searcher("docs", database_url=world.database_url) as searcher:
            hits = searcher.search(text_of(4), k=3, where={"lang": "en"})
            assert hits[0].doc_id == "4"
            assert {own_payload(collection.points()[hit.doc_id])["lang"] for hit in hits} == {"en"}
        require_kept(world)
        assert cutover.rollback(index).version == "v1"
        settle(index)
        cutover.cutover(index, "v2")
        retire.retire(index, "v1", "v1", "")
        settle(index)


def require_kept(world: World) -> None:
    """The points and the collection of v2 are those of v1 with other vectors."""
    collection = world.collection
    old = collection.points()
    new = collection.points(world.alias)
    assert new.keys() == old.keys() == {*collection.kept, "1000"}
    for key, payload in collection.kept.items():
        wanted = payload | ({"body": "edited"} if key == "1" else {})
        assert own_payload(new[key]) == own_payload(old[key]) == wanted
        assert new[key].vector["words"] == old[key].vector["words"]  # type: ignore[index,call-overload]
    assert own_payload(new["1000"]) == {"body": "new", "lang": "fr"}
    if world.store["layout"] == "collections":
        vector = collection.vector
        assert close_to(dense(new["2"], vector), vector_of(text_of(2), "v2"))
        live = described(collection.client, world.alias, vector)
        assert live == described(collection.client, collection.name, vector)
        assert live["payload indexes"].keys() == {"lang", "year"}
        metadata = collection.client.get_collection(world.alias).config.metadata or {}
        assert metadata["owner"] == "search team"


def test_local_mode_is_adopted(database_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "qdrant"
    made = Collection(QdrantClient(path=str(folder)), "old")
    made.make(20)
    made.client.close()
    adopt = {"version": "v1", "collection": "old", "text": "body"}
    spec = declared(database_url, tmp_path, {"kind": "qdrant", "path": str(folder), "adopt": adopt}, "v1")
    with opened(spec, register_new=False) as index:
        assert adopting.adopt(index).adopted == 20
        settle(index)
        assert adopting.adopt(index).documents == 0


def test_nothing_of_an_index_is_registered_before_it_is_adopted(world: World) -> None:
    world.collection.make()
    with pytest.raises(CatalogError, match="Run: embed-pipeline adopt docs"), opened(world.spec("v1")):
        pass
    world.adopt()
    with opened(world.spec("v1")) as index, index.connection() as conn:
        assert index.version(conn, "v1").state == "building"
