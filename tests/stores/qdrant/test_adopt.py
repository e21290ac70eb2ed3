"""A collection made by hand becomes v1 as it is, and is migrated from there with its configuration and payload kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from qdrant_client import QdrantClient, models

from embed_pipeline import Searcher
from embed_pipeline.cli.main import cli
from embed_pipeline.configuration import COMPONENT_TYPE
from embed_pipeline.dagster_layer.jobs import adopt_job, build_jobs
from embed_pipeline.errors import AdoptRefused, CatalogError, ConfigurationError
from embed_pipeline.migrate import adopt as adopting
from embed_pipeline.migrate import cutover, retire
from embed_pipeline.migrate.opening import opened
from embed_pipeline.spec import IndexSpec
from tests.harness.articles import serve, settle, text_hash
from tests.stores.qdrant.by_hand import DOCUMENTS, MARK, Collection, declared, doc_id, text_of
from tests.stores.qdrant.world import (
    OWN_TABLE,
    World,
    close_to,
    dense,
    described,
    own_payload,
    own_table,
    provenance,
    require_kept,
    require_untouched,
    sparse,
)

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect")


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
        cutover.cutover(index, "v2", again=True)
        retire.retire(index, "v1", "v1", "")
        settle(index)


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
    assert "docs_adopt" not in {job.name for job in build_jobs(spec)}
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
    with pytest.raises(AdoptRefused, match="is bigint, and a point's id is not a valid key"):
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
