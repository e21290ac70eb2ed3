"""What Dagster shows of an index in Qdrant: checks that look at what is stored there, sizes, the store's word in the throttle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from embed_pipeline.report.look import open_registered
from embed_pipeline.report.status import status_of
from embed_pipeline.spec import IndexSpec
from tests.database.dagster_layer.conftest import DOCUMENTS, Declare, Runner, sentence
from tests.database.dagster_layer.test_migration import V1, V1_V2, checks, materialized
from tests.harness.qdrant.conftest import shared_loopback  # noqa: F401  (fixture)
from tests.harness.qdrant.loopback import Loopback, waited

Run = Callable[[IndexSpec], Runner]


@pytest.fixture
def server(shared_loopback: Loopback) -> Iterator[Loopback]:  # noqa: F811
    """An empty one."""
    yield shared_loopback
    shared_loopback.clear()
    client = shared_loopback.client()
    for each in client.get_collections().collections:
        client.delete_collection(each.name)
    client.close()


def on(server: Loopback, layout: str = "collections") -> dict[str, str]:
    return {"kind": "qdrant", "url": server.url, "layout": layout}


@pytest.mark.parametrize("layout", ["collections", pytest.param("named_vectors", marks=pytest.mark.soak)])
def test_what_is_shown_of_a_version(declare: Declare, run: Run, server: Loopback, layout: str) -> None:
    store = on(server, layout)
    docs = run(declare(V1, store=store))
    docs.find_serving("v1")
    docs = run(declare(V1_V2, store=store))
    docs.fill("v2")
    judged = docs.job("docs__v2_gate")
    assert checks(judged) == {"coverage": True, "provenance": True, "ann_recall": True, "held_out_recall": True}
    built = materialized(judged, "docs", "v2", "ann_index")
    assert built["valid"] is True
    assert "bytes" not in built, "Qdrant does not tell the size of its index, and no other number may stand for it"
    assert "note" not in built, "a server has an ANN index"
    looked = {each.check_name: each.metadata for each in judged.get_asset_check_evaluations()}
    assert (looked["provenance"]["vectors"].value, looked["provenance"]["foreign"].value) == (DOCUMENTS, 0)
    embeddings = docs.definitions.resolve_asset_graph().get(dg.AssetKey(["docs", "v2", "embeddings"]))
    assert embeddings.metadata["store"] == f"qdrant, layout {layout}, collection docs"
    assert "qdrant" in embeddings.kinds
    shown = {each.name: each for each in status_of(docs.spec).versions}
    assert shown["v2"].bytes == DOCUMENTS * 64 * 4
    assert (shown["v2"].ann_index, shown["v2"].stored) == ("valid", DOCUMENTS)
    assert docs.job("docs__v2_cutover").success
    retired = docs.op_job("docs__v1_retire", confirm="v1")
    (observed,) = [event for event in retired.all_events if event.is_asset_observation]
    assert observed.asset_observation_data.asset_observation.metadata["freed bytes"].value == DOCUMENTS * 64 * 4


def test_local_mode_says_that_it_has_no_ann_index(declare: Declare, run: Run, tmp_path: Path) -> None:
    docs = run(declare(V1, store={"kind": "qdrant", "path": str(tmp_path / "qdrant")}))
    docs.fill("v1")
    judged = docs.job("docs__v1_gate")
    assert judged.success
    looked = {each.check_name: each.metadata for each in judged.get_asset_check_evaluations()}
    for metadata in (materialized(judged, "docs", "v1", "ann_index")["note"], looked["ann_recall"]["note"].value):
        assert "no ANN index" in str(metadata)


@pytest.mark.parametrize("layout", ["collections", pytest.param("named_vectors", marks=pytest.mark.soak)])
@pytest.mark.parametrize("field", ["fingerprint", "model_name", "model_version"])
def test_a_vector_with_another_label_fails_provenance(
    declare: Declare, run: Run, server: Loopback, layout: str, field: str
) -> None:
    docs = run(declare(V1, store=on(server, layout)))
    docs.fill("v1")
    client = server.client()
    (collection,) = [each.name for each in client.get_collections().collections]
    client.set_payload(collection, {field: "other"}, points=[3], key="embed_pipeline.versions.v1", wait=True)
    (record,) = client.retrieve(collection, [3])
    assert (record.payload or {})["embed_pipeline"]["versions"]["v1"][field] == "other"
    client.close()
    judged = docs.job("docs__v1_gate")
    assert not judged.success
    assert not checks(judged)["provenance"]


def test_a_backfill_waits_for_the_store_and_for_a_person(
    declare: Declare, run: Run, server: Loopback, app: psycopg.Connection
) -> None:
    """The store objects, then a person pauses; each is shown as the reason while it lasts, and nothing is written meanwhile."""
    docs = run(declare(V1, store=on(server), throttle={"check_seconds": 0.1}))
    assert docs.job("docs_dual_write").success  # registers v1
    server.conditions(update_queue=51)

    def shown() -> str:
        throttle = status_of(docs.spec).throttle
        return f"{throttle[0].answer} {throttle[0].signal}: {throttle[0].reason}" if throttle else ""

    # Runs of one in-memory instance of Dagster are not for two threads.
    with dg.DagsterInstance.ephemeral() as other, ThreadPoolExecutor(1) as pool:
        person = Runner(docs.spec, other)
        filling = pool.submit(docs.backfill, "v1")
        try:
            waited(lambda: shown().startswith("wait store"), f"the backfill does not wait for the store: {shown()}")
            assert "51 updates of docs__v1__" in shown()
            paused = person.op_job("docs_pause", reason="peak hours")
            assert paused.success, sentence(paused)
            server.clear()
            waited(lambda: shown().startswith("wait control: paused"), f"the pause is not shown: {shown()}")
            assert not filling.done()
            assert stored(docs.spec) == 0
            assert person.op_job("docs_resume").success
            assert filling.result(60).success
        finally:
            # Else a failure above would leave the backfill waiting for ever.
            server.clear()
            app.execute("UPDATE embed_pipeline.control SET state = 'running'")
    assert stored(docs.spec) == DOCUMENTS


def test_a_red_collection_stops_the_backfill_in_one_sentence(declare: Declare, run: Run, server: Loopback) -> None:
    docs = run(declare(V1, store=on(server)))
    assert docs.job("docs_dual_write").success
    server.conditions(status="red")
    stopped = docs.backfill("v1")
    assert not stopped.success
    (event,) = [each for each in stopped.all_events if each.is_step_failure]
    said = event.step_failure_data.user_failure_data
    assert said is not None
    assert "is red" in (said.description or "")
    server.clear()
    assert docs.backfill("v1").success


def stored(spec: IndexSpec) -> int:
    with open_registered(spec) as index, index.connection() as conn:
        return index.store(index.version(conn, "v1")).count(conn)
