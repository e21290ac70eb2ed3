"""A collection made by hand becomes v1 as it is, and is migrated from there with its configuration and payload kept."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from click.testing import CliRunner
from qdrant_client import QdrantClient, models

from embed_pipeline import Searcher, signals
from embed_pipeline.cli.main import cli
from embed_pipeline.configuration import COMPONENT_TYPE
from embed_pipeline.dagster_layer.jobs import adopt_job, build_jobs
from embed_pipeline.errors import AdoptRefused, CatalogError, ConfigurationError, Stopped
from embed_pipeline.migrate import adopt as adopting
from embed_pipeline.migrate import cutover, retire
from embed_pipeline.migrate.adopt import Adopted
from embed_pipeline.migrate.open_index import opened
from embed_pipeline.spec import IndexSpec
from embed_pipeline.stores.qdrant import adopting as store_adopting
from tests.articles import serve, settle, text_hash
from tests.fakes import asked_texts
from tests.qdrant.conftest import shared_loopback  # noqa: F401  (fixture)
from tests.qdrant.loopback import ROOT, Loopback
from tests.stores.qdrant.by_hand import DOCUMENTS, MARK, Collection, declared, doc_id, text_of, vector_of

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
        # A cosine vector is normalised at each write, which may move the last digit.
        assert close_to(dense(after[key], collection.vector), dense(before[key], collection.vector))
        assert sparse(after[key]) == sparse(before[key])
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
            hits = searcher.search(text_of(4), k=3, where={"lang": "en"}).hits
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


@pytest.mark.soak
def test_what_was_adopted_is_kept_when_its_collection_is_gone(world: World) -> None:
    """A third version is like the second one: the adopted collection was retired."""
    world.collection.make(30)
    world.adopt()
    with opened(world.spec("v1", "v2")) as index:
        serve(index, "v1")
        serve(index, "v2")
        retire.retire(index, "v1", "v1", "")
    assert not world.collection.client.collection_exists(world.collection.name)
    before, like = world.collection.points(world.alias), described(world.collection.client, world.alias, "")
    with opened(world.spec("v1", "v2", "v3")) as index:
        serve(index, "v3")
        settle(index)
    after = world.collection.points(world.alias)
    assert provenance(after["1"], "v3") is not None
    assert {key: own_payload(point) for key, point in after.items()} == world.collection.kept
    assert {key: sparse(point) for key, point in after.items()} == {key: sparse(point) for key, point in before.items()}
    assert described(world.collection.client, world.alias, "") == like


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


def test_the_command_line_says_what_was_adopted(world: World) -> None:
    world.collection.make(40)
    config = world.folder / "defs.yaml"
    attributes = world.spec().model_dump(mode="json", exclude_none=True)
    config.write_text(yaml.safe_dump({"type": COMPONENT_TYPE, "attributes": attributes}))
    run = CliRunner().invoke(cli, ["adopt", "docs", "--config", str(config)])
    assert run.exit_code == 0, run.output
    assert run.stdout.splitlines() == [
        "docs.v1: 40 documents found, 40 adopted now.",
        "32 of them embedded to compare: median cosine 1.000, lowest 1.000.",
        "next: embed-pipeline backfill docs v1",
    ]
    again = CliRunner().invoke(cli, ["adopt", "docs", "--config", str(config), "--json"])
    assert json.loads(again.stdout)["documents"] == 0


def test_the_dagster_job_adopts(world: World) -> None:
    world.collection.make(20)
    assert adopt_job(world.spec()).execute_in_process().success
    assert all(provenance(point) for point in world.collection.points().values())


def test_an_index_that_adopts_nothing_says_so(database_url: str, tmp_path: Path) -> None:
    spec = declared(database_url, tmp_path, {"kind": "pgvector"}, "v1")
    assert "adopt_docs" not in {job.name for job in build_jobs(spec)}
    with opened(spec, register_new=False) as index, pytest.raises(ConfigurationError, match="declares nothing to adopt"):
        adopting.adopt(index)


@pytest.mark.soak
def test_nothing_of_an_index_is_registered_before_it_is_adopted(world: World) -> None:
    world.collection.make()
    with pytest.raises(CatalogError, match="Run: embed-pipeline adopt docs"), opened(world.spec("v1")):
        pass
    world.adopt()
    with opened(world.spec("v1")) as index, index.connection() as conn:
        assert index.version(conn, "v1").state == "building"


def test_another_model_is_refused_before_anything_is_written(world: World) -> None:
    world.collection.make()
    wrong = world.spec("v1").model_dump(mode="json")
    wrong["versions"]["v1"]["options"]["salt"] = "another"
    refused = pytest.raises(AdoptRefused, match=r"not of the declared model: 32 texts .* median cosine of -?0\.\d+")
    with opened(IndexSpec.model_validate(wrong), register_new=False) as index, refused:
        adopting.adopt(index)
    require_untouched(world)


@pytest.mark.soak
def test_other_dimensions_are_refused(world: World) -> None:
    world.collection.make(3)
    wrong = world.spec("v1").model_dump(mode="json")
    wrong["versions"]["v1"]["dimensions"] = 8
    refused = pytest.raises(ConfigurationError, match="has 16 dimensions")
    with opened(IndexSpec.model_validate(wrong), register_new=False) as index, refused:
        adopting.adopt(index)
    require_untouched(world)


@pytest.mark.soak
def test_a_text_that_is_no_string_is_refused_by_its_point(world: World) -> None:
    world.collection.make(40)
    world.collection.write(world.collection.point(34, body=["a", "list"]))
    with pytest.raises(AdoptRefused, match="'body' of point 34 is no text"):
        world.adopt()
    require_untouched(world)


@pytest.mark.soak
def test_a_field_that_no_point_has_is_refused(world: World) -> None:
    world.collection.make(5)
    world.store["adopt"]["text"] = "text"
    with pytest.raises(AdoptRefused, match="None of 5 points has a text in its payload field 'text'"):
        world.adopt()
    require_untouched(world)


def require_untouched(world: World) -> None:
    assert world.documents() == {}
    assert all(MARK not in (record.payload or {}) for record in world.collection.points().values())


OWN_TABLE = {"table": "notes", "key": "id", "text": ["body"], "payload": ["lang", "year"]}


def own_table(world: World, key: str = "text", more: str = "") -> None:
    world.app.execute(f"CREATE TABLE notes (id {key} PRIMARY KEY, body text, lang text, year integer {more})")


def test_a_field_with_nowhere_to_go_is_refused_by_its_name(world: World) -> None:
    own_table(world)
    world.collection.make(40)
    with pytest.raises(AdoptRefused, match="'tags' of point .* has nowhere to go in public.notes"):
        world.adopt(documents=OWN_TABLE)
    assert world.app.execute("SELECT count(*) FROM notes").fetchone() == (0,)
    assert all(MARK not in (record.payload or {}) for record in world.collection.points().values())


@pytest.mark.soak
def test_an_id_that_is_no_key_is_refused(world: World) -> None:
    own_table(world, "bigint", ", tags jsonb, score float8")
    world.collection.make(40)
    with pytest.raises(AdoptRefused, match="is bigint, and a point's id is none"):
        world.adopt(documents=OWN_TABLE | {"payload": ["lang", "year", "tags", "score"]})
    assert world.app.execute("SELECT count(*) FROM notes").fetchone() == (0,)


@pytest.mark.soak
def test_fields_go_into_the_columns_of_a_table_of_ones_own(world: World) -> None:
    world.app.execute(
        "CREATE TABLE notes (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text, lang text, year integer, tags jsonb)"
    )
    collection = world.collection
    collection.make(0)
    collection.write(*(collection.point(number, score=...) for number in (1, 2, 4)))
    done = world.adopt(documents=OWN_TABLE | {"payload": ["lang", "year", "tags"]})
    assert (done.adopted, done.differing) == (3, 0)
    rows = world.app.execute("SELECT id, body, lang, year, tags FROM notes ORDER BY id").fetchall()
    assert rows == [(n, text_of(n), "de" if n % 2 else "en", 2000 + n, ["a", {"n": n}]) for n in (1, 2, 4)]
    assert {key: own_payload(point) for key, point in collection.points().items()} == collection.kept


@pytest.mark.soak
def test_what_stands_in_the_table_already_is_left_alone_and_embedded(world: World) -> None:
    collection = world.collection
    collection.make()
    with opened(world.spec(), register_new=False) as index:
        world.app.execute("INSERT INTO docs (id, text) VALUES ('1', 'the application knows better'), ('999', 'only here')")
        done = adopting.adopt(index)
    assert (done.adopted, done.differing, done.first_differing) == (DOCUMENTS - 1, 1, ("1",))
    assert provenance(collection.points()["1"]) is None
    with opened(world.spec()) as index:
        serve(index, "v1")
        settle(index)
    assert sorted(world.embedded("v1")[adopting.SAMPLE :])[-2:] == ["only here", "the application knows better"]
    assert own_payload(collection.points()["1"])["body"] == "the application knows better"


@pytest.mark.soak
def test_documents_without_text_and_points_without_the_vector_are_counted(world: World) -> None:
    collection = world.collection
    collection.make(20)
    collection.write(collection.point(21, body=...), collection.point(22, body=""))
    bare = models.PointStruct(id=500, vector={"words": models.SparseVector(indices=[1], values=[1.0])}, payload={"lang": "de"})
    collection.write(bare)
    done = world.adopt()
    assert (done.documents, done.adopted, done.without_text, done.without_vector) == (22, 22, 2, 1)
    points = collection.points()
    assert world.documents()[doc_id(21)][0] is None
    assert "body" not in own_payload(points[doc_id(21)])
    assert provenance(points[doc_id(22)]) is not None
    assert points["500"].payload == {"lang": "de"}


def test_a_point_edited_while_it_is_adopted_keeps_the_edit(world: World) -> None:
    """Between reading the point and marking it, a writer that knows nothing of us replaces it."""
    collection = world.collection
    collection.make()
    edited = collection.point(7, body="edited in Qdrant", lang="fr")

    def edit() -> None:
        signals.forget_all()
        collection.write(edited)

    with opened(world.spec(), register_new=False) as index:
        signals.listen("qdrant.decided", edit)
        done = adopting.adopt(index)
        assert (done.adopted, done.differing) == (DOCUMENTS, 0)
        point = collection.points()["7"]
        assert own_payload(point) == collection.kept["7"]
        assert close_to(dense(point, ""), vector_of("edited in Qdrant"))
        assert world.documents()["7"][0] == "edited in Qdrant"
        settle(index)
    assert len(world.embedded("v1")) == adopting.SAMPLE


@pytest.mark.soak
def test_a_document_changed_in_the_table_during_adoption_is_brought_up_to_date(world: World) -> None:
    """No trigger sees it: the version is not registered yet."""
    collection = world.collection
    collection.make()

    def change() -> None:
        signals.forget_all()
        world.app.execute("UPDATE docs SET text = 'edited after it was marked' WHERE id = (SELECT min(id) FROM docs)")
        world.app.execute("DELETE FROM docs WHERE id = (SELECT max(id) FROM docs)")

    with opened(world.spec(), register_new=False) as index:
        signals.listen("adopt.marked", change)
        assert adopting.adopt(index).queued == 2
        assert set(world.documents()) < set(collection.kept)
        settle(index)
    assert world.embedded("v1")[adopting.SAMPLE :] == ["edited after it was marked"]
    alive = [key for key, point in collection.points().items() if point.vector]
    assert sorted(alive) == sorted(world.documents())


KILLED = """
import os, signal, sys
from pathlib import Path
from embed_pipeline import signals
from embed_pipeline.migrate import adopt
from embed_pipeline.migrate.open_index import opened
from embed_pipeline.spec import IndexSpec
from embed_pipeline.stores.qdrant import adopting

adopting.MOST_POINTS = 16
left = [2]

def die() -> None:
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)

with opened(IndexSpec.model_validate_json(Path(sys.argv[1]).read_text()), register_new=False) as index:
    signals.listen(sys.argv[2], die)
    adopt.adopt(index)
"""


@pytest.mark.parametrize(
    "moment",
    ["adopt.inserted", *(pytest.param(each, marks=pytest.mark.soak) for each in ("qdrant.written", "adopt.marked"))],
)
def test_a_killed_adoption_goes_on_where_it_was(world: World, moment: str) -> None:
    world.collection.make()
    declaration = world.folder / "spec.json"
    declaration.write_text(world.spec().model_dump_json())
    done = subprocess.run([sys.executable, "-c", KILLED, str(declaration), moment], cwd=ROOT, timeout=120)
    assert done.returncode == -signal.SIGKILL
    marked = [point for point in world.collection.points().values() if provenance(point)]
    assert 0 < len(marked) < DOCUMENTS
    again = world.adopt()
    assert (again.documents, again.adopted, again.differing) == (DOCUMENTS - len(marked), DOCUMENTS - len(marked), 0)
    assert {key: own_payload(point) for key, point in world.collection.points().items()} == world.collection.kept
    with opened(world.spec()) as index:
        settle(index)
    assert len(world.embedded("v1")) == adopting.SAMPLE + again.sampled


def test_a_document_deleted_between_two_runs_stays_deleted(world: World) -> None:
    world.collection.make()
    declaration = world.folder / "spec.json"
    declaration.write_text(world.spec().model_dump_json())
    subprocess.run([sys.executable, "-c", KILLED, str(declaration), "adopt.inserted"], cwd=ROOT, timeout=120)
    in_doubt = {key for key in world.documents() if provenance(world.collection.points()[key]) is None}
    assert in_doubt
    deleted = min(in_doubt)
    world.app.execute("DELETE FROM docs WHERE id = %s", (deleted,))
    world.adopt()
    assert deleted not in world.documents()
    with opened(world.spec()) as index:
        settle(index)
    assert not world.collection.points()[deleted].vector
    assert len(world.documents()) == DOCUMENTS - 1


@pytest.mark.soak
def test_two_adoptions_at_once_are_one(world: World) -> None:
    world.collection.make(20)
    with opened(world.spec(), register_new=False) as first, opened(world.spec(), register_new=False) as second:
        refusals: list[str] = []

        def meanwhile() -> None:
            signals.forget_all()
            with pytest.raises(Stopped) as refused:
                adopting.adopt(second)
            refusals.append(str(refused.value))

        signals.listen("adopt.inserted", meanwhile)
        assert adopting.adopt(first).adopted == 20
        assert refusals == ["Index docs is being adopted by another run. Run: embed-pipeline status docs"]
