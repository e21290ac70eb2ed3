"""One migration as a person runs it in Dagster, and everything it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from embed_pipeline.evaluate.words import MEASURES
from embed_pipeline.spec import IndexSpec
from tests.database.dagster_layer.conftest import Declare, Runner, failure, pointer, sentence, words

Run = Callable[[IndexSpec], Runner]

V1 = {"v1": {"drop": 0.4}}
V1_V2 = V1 | {"v2": {}}
# Blind to nearly every word: finds next to nothing.
V1_WORSE = V1 | {"worse": {"drop": 0.97}}


def materialized(result: dg.ExecuteInProcessResult, *path: str) -> dict[str, object]:
    """Metadata of the last materialization of an asset in a run."""
    events = [
        event.step_materialization_data.materialization
        for event in result.all_events
        if event.is_step_materialization and event.asset_key == dg.AssetKey(path)
    ]
    return {name: value.value for name, value in events[-1].metadata.items()}


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {each.check_name: each.passed for each in result.get_asset_check_evaluations()}


def alone(docs: Runner, version: str, asset: str = "cutover", **config: object) -> dg.ExecuteInProcessResult:
    """Launch the cutover to a version by itself, as *Materialize* does where nothing is configured."""
    return dg.materialize(
        [*docs.definitions.assets],
        selection=dg.AssetSelection.assets(["docs", version, asset]),
        run_config={"ops": {f"docs__{version}__{asset}": {"config": config}}} if config else None,
        instance=docs.instance,
        raise_on_error=False,
    )


@pytest.mark.usefixtures("pictures")
def test_whole_migration(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    run(declare(V1)).serve("v1")
    assert pointer(app) == "v1"
    docs = run(declare(V1_V2))

    filled = docs.backfill("v2")
    assert filled.success
    assert docs.filled("v2") == {"00", "01", "02", "03"}
    assert docs.filled("v1") == {"00", "01", "02", "03"}
    last = materialized(filled, "docs", "v2", "embeddings")
    assert (last["documents"], last["written"], last["dagster/partition_row_count"]) == (10, 10, 10)
    assert (last["partitions left"], last["seconds left"]) == (0, 0)

    judged = docs.job("docs__v2_gate")
    assert judged.success
    assert checks(judged) == {"coverage": True, "provenance": True, "ann_recall": True, "held_out_recall": True}
    (shown,) = [str(each.description) for each in judged.get_asset_check_evaluations() if each.check_name == "held_out_recall"]
    assert re.match(r"pass: .*\n\n\| metric \| v1 \| v2 \|(.|\n)*\n\n!\[.*\]\(data:image/png;base64,", shown), (
        "seen without a click"
    )
    built = materialized(judged, "docs", "v2", "ann_index")
    assert built["bytes"] > 0
    verdict = materialized(judged, "docs", "v2", "evaluation")
    assert verdict["outcome"] == "pass"
    assert verdict["baseline"] == "v1"
    assert str(verdict["table"]).startswith("| metric | v1 | v2 |")
    assert "](data:image/png;base64," in str(verdict["plot"])
    found = verdict["query results"]
    assert isinstance(found, dg.TableMetadataValue)
    assert found.records[0].data.keys() >= {"query", "baseline", "candidate", "difference", "baseline hits", "candidate hits"}
    assert verdict["difference"] == round(float(str(verdict["difference"])), 3)
    assert (verdict["margin"], verdict["queries"]) == ("0.1", "30"), "text: of what is declared Dagster would plot a line of dots"
    row = app.execute("SELECT measures FROM embed_pipeline.evidence WHERE version = 'v2'").fetchone()
    assert row is not None
    assert {name for name, value in row[0].items() if isinstance(value, (int, float))} <= MEASURES.keys(), "each has its words"
    assert pointer(app) == "v1", "a gate moves nothing"

    moved = docs.job("docs__v2_cutover")
    assert moved.success
    assert pointer(app) == "v2"
    served = materialized(moved, "docs", "v2", "cutover")
    assert (served["version"], served["previous"], served["generation"]) == ("v2", "v1", 2)

    back = docs.job("docs_rollback")
    assert back.success
    assert pointer(app) == "v1"
    reason = app.execute("SELECT reason FROM embed_pipeline.events WHERE event = 'rollback' ORDER BY id DESC LIMIT 1").fetchone()
    assert reason == (f"Dagster run {back.run_id}",)

    refused = docs.op_job("docs__v2_retire", confirm="v1")
    assert "does not name the version 'v2'" in sentence(refused)
    retired = docs.op_job("docs__v2_retire", confirm="v2", reason="not wanted")
    assert retired.success
    assert app.execute("SELECT state FROM embed_pipeline.versions WHERE version = 'v2'").fetchone() == ("retired",)


def test_empty_partitions_are_filled_too(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    app.execute("DELETE FROM articles WHERE id > 2")
    docs = run(declare(V1))
    docs.fill("v1")
    assert docs.filled("v1") == {"00", "01", "02", "03"}


def test_a_failing_partition_leaves_the_others_green_and_a_relaunch_completes(
    declare: Declare, run: Run, app: psycopg.Connection
) -> None:
    docs = run(declare({"v1": {"raise_on": "w25x5"}}))
    failed = docs.backfill("v1")
    assert not failed.success
    assert docs.filled("v1") == {"00", "01"}, "document 25 stands in partition 02"
    assert "told to raise on 'w25x5'" in failure(failed).step_failure_data.error_display_string

    app.execute("UPDATE articles SET body = 'mended' WHERE id = 25")
    again = docs.job("docs__v1_backfill")  # Without a partition: what is open.
    assert again.success
    assert docs.filled("v1") == {"00", "01", "02", "03"}
    assert docs.job("docs__v1_gate").success


def test_the_ann_index_is_refused_while_partitions_are_missing(declare: Declare, run: Run) -> None:
    docs = run(declare(V1))
    assert docs.backfill("v1", "00", "01").success
    refused = docs.job("docs__v1_gate")
    assert sentence(refused).startswith("2 of 4 partitions of docs.v1 are not filled (first: 02).")


def test_a_cutover_alone_is_refused_without_evidence(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    run(declare(V1)).find_serving("v1")
    docs = run(declare(V1_V2))
    docs.fill("v2")
    only = dg.AssetSelection.assets(["docs", "v2", "ann_index"])
    assert dg.materialize([*docs.definitions.assets], selection=only, instance=docs.instance).success

    assert sentence(alone(docs, "v2", confirm="v2")).startswith("There is no evidence that v2 may serve docs.")
    assert pointer(app) == "v1"


def test_a_cutover_that_nobody_confirms_moves_nothing(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    """As *Materialize* and *Materialize all* launch it. v2 may serve, and was rolled back from: its evidence is fresh."""
    run(declare(V1)).find_serving("v1")
    docs = run(declare(V1_V2))
    docs.find_serving("v2")
    assert docs.op_job("docs_rollback", reason="complaints").success
    events = "SELECT count(*) FROM embed_pipeline.events"
    before = app.execute(events).fetchone()
    refused = sentence(alone(docs, "v2"))
    assert refused.startswith("docs is to be cut over to v2, and nobody has confirmed it, so nothing was moved.")
    assert "Launch the job docs__v2_cutover" in refused
    assert "`confirm` is 'v1', so nothing was moved" in sentence(alone(docs, "v2", confirm="v1"))
    assert (pointer(app), app.execute(events).fetchone()) == ("v1", before)


def test_a_cutover_respects_a_rollback_until_somebody_says_again(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    run(declare(V1)).find_serving("v1")
    docs = run(declare(V1_V2))
    docs.find_serving("v2")
    assert docs.op_job("docs_rollback", reason="complaints").success
    refused = alone(docs, "v2", confirm="v2")
    assert sentence(refused).startswith("v2 of docs was rolled back from at ")
    assert ": complaints (Dagster run " in sentence(refused)
    assert pointer(app) == "v1"
    assert alone(docs, "v2", confirm="v2", again=True).success
    assert pointer(app) == "v2"


def test_evidence_by_another_rule_serves_nothing(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    """Judged loosely, and the declaration became strict before somebody launched the cutover."""
    run(declare(V1)).find_serving("v1")
    docs = run(declare(V1_V2))
    docs.fill("v2")
    assert docs.job("docs__v2_gate").success
    strict = run(declare(V1_V2, gate={"min_queries": 10, "margin": 0.001}))
    assert sentence(alone(strict, "v2", confirm="v2")).startswith(
        "The evidence for v2 of docs is stale: its rule has changed: gate.margin was 0.1 and is 0.001 now."
    )
    assert pointer(app) == "v1"


def test_a_held_out_set_that_proves_nothing_fails_the_gate(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    """One query thirty times; then queries whose documents are others."""
    run(declare(V1)).find_serving("v1")
    spec = declare(V1_V2)
    docs = run(spec)
    docs.fill("v2")
    assert spec.holdout is not None
    rows = [json.loads(line) for line in spec.holdout.path.read_text().splitlines()]
    for changed, said in (
        ([row | {"query_id": str(n), "query": rows[0]["query"]} for n, row in enumerate(rows)], "30 queries are 1 different one"),
        (
            [row | {"doc_id": f"a{row['doc_id']}"} for row in rows],
            "But for how they are written they are ids of the table: 'a1' is '1'",
        ),
    ):
        spec.holdout.path.write_text("\n".join(json.dumps(row) for row in changed))
        judged = docs.job("docs__v2_gate")
        assert not judged.success
        assert said in sentence(judged)
    assert app.execute("SELECT count(*) FROM embed_pipeline.evidence WHERE version = 'v2'").fetchone() == (0,)


def test_kept_vectors_take_the_place_of_a_model_that_is_gone(
    declare: Declare, run: Run, app: psycopg.Connection, tmp_path: Path
) -> None:
    down = tmp_path / "down"
    gone = {"v1": {"raise_while": str(down)}}
    run(declare(gone)).find_serving("v1")
    docs = run(declare(gone | {"v2": {}}))
    docs.fill("v2")
    assert docs.job("docs__v2_gate").success
    down.touch()
    moved = docs.job("docs__v2_cutover")
    assert moved.success
    assert pointer(app) == "v2"
    assert "The model of v1 does not answer (" in materialized(moved, "docs", "v2", "cutover")["sentence"]


def test_a_worse_model_fails_its_check_and_never_serves(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    run(declare(V1)).find_serving("v1")
    docs = run(declare(V1_WORSE))
    docs.fill("worse")
    judged = docs.job("docs__worse_gate")
    assert not judged.success
    assert checks(judged)["coverage"]
    assert not checks(judged)["held_out_recall"]
    error = failure(judged).step_failure_data.error
    assert error is not None
    assert (error.message.startswith("worse may not serve docs: held_out_recall: fail: "), error.stack) == (True, [])
    assert "|" not in error.message, "the sentence alone, without what is drawn below it"

    cut = docs.job("docs__worse_cutover")
    assert not cut.success
    assert not [event for event in cut.all_events if event.step_key == "docs__worse__cutover" and event.is_step_start]
    assert pointer(app) == "v1"

    # Nobody gets round it by launching the last asset alone.
    assert sentence(alone(docs, "worse", confirm="worse")).startswith("The gate of docs did not pass worse: fail:")
    assert pointer(app) == "v1"


def test_the_first_version_without_held_out_set_may_serve(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    docs = run(declare(V1, holdout=None))
    docs.fill("v1")
    judged = docs.job("docs__v1_gate")
    assert checks(judged) == {"coverage": True, "provenance": True, "ann_recall": True, "held_out_recall": True}
    assert docs.job("docs__v1_cutover").success
    assert pointer(app) == "v1"


def test_too_many_dead_letters_fail_coverage(declare: Declare, run: Run) -> None:
    docs = run(declare({"v1": {"fail_on": "w7x5"}}))
    docs.fill("v1")
    judged = docs.job("docs__v1_gate")
    assert not judged.success
    assert not checks(judged)["coverage"]


def test_a_missing_vector_fails_coverage(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    docs = run(declare(V1))
    docs.fill("v1")
    app.execute("DELETE FROM embed_pipeline.docs__v1 WHERE doc_id = '3'")
    judged = docs.job("docs__v1_gate")
    assert not judged.success
    assert not checks(judged)["coverage"]


def test_a_vector_with_another_label_fails_provenance(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    docs = run(declare(V1))
    docs.fill("v1")
    for (name,) in app.execute(
        "SELECT conname FROM pg_constraint WHERE conrelid = 'embed_pipeline.docs__v1'::regclass AND contype = 'c'"
    ).fetchall():
        app.execute(f'ALTER TABLE embed_pipeline.docs__v1 DROP CONSTRAINT "{name}"')
    app.execute("UPDATE embed_pipeline.docs__v1 SET fingerprint = 'other' WHERE doc_id = '3'")
    judged = docs.job("docs__v1_gate")
    assert not judged.success
    assert checks(judged) == {"coverage": True, "provenance": False, "ann_recall": True, "held_out_recall": True}


def test_dual_write_observes_and_never_fills_a_partition(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    run(declare(V1)).find_serving("v1")
    docs = run(declare(V1_V2))
    # Registers v2; nothing of it is filled.
    assert docs.job("docs_dual_write").success
    app.execute("UPDATE articles SET body = %s WHERE id = 5", (words(99),))
    synced = docs.job("docs_dual_write")
    assert synced.success
    assert materialized(synced, "docs", "dual_write") == {
        "v1 written": 1,
        "v1 pending": 0,
        "v2 written": 1,
        "v2 pending": 0,
    }
    observed = {
        event.asset_key.path[1]: event.asset_observation_data.asset_observation.metadata["written"].value
        for event in synced.all_events
        if event.is_asset_observation
    }
    assert observed == {"v1": 1, "v2": 1}
    assert docs.filled("v2") == set()


def test_dual_write_of_a_broken_model_fails_and_the_other_version_is_written(
    declare: Declare, run: Run, app: psycopg.Connection
) -> None:
    run(declare(V1)).find_serving("v1")
    docs = run(declare(V1 | {"v2": {"raise_on": "poison"}}))
    assert docs.job("docs_dual_write").success
    app.execute("UPDATE articles SET body = 'poison' WHERE id = 5")
    synced = docs.job("docs_dual_write")
    assert not synced.success
    row = app.execute(
        "SELECT count(*) FROM embed_pipeline.provenance WHERE version = 'v1' AND doc_id = '5'"
        " AND source_hash = encode(sha256('poison'), 'hex')"
    ).fetchone()
    assert row == (1,)


def test_pause_and_resume(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    docs = run(declare(V1))
    assert not docs.op_job("docs_pause").success, "an index that is not registered has nothing to pause"
    assert docs.job("docs_dual_write").success
    assert docs.op_job("docs_pause", reason="peak hours").success
    state = "SELECT state, reason FROM embed_pipeline.control"
    row = app.execute(state).fetchone()
    assert row is not None
    assert row[0] == "paused"
    assert row[1].startswith("peak hours (Dagster run ")
    assert docs.job("docs_resume").success
    row = app.execute(state).fetchone()
    assert row is not None
    assert row[0] == "running"
    assert docs.op_job("docs_abort", reason="wrong model").success
    stopped = docs.backfill("v1")
    assert "aborted by" in sentence(stopped)
    assert "wrong model" in sentence(stopped)
    assert docs.job("docs_resume").success


def test_pause_gets_through_when_the_documents_table_is_gone(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    docs = run(declare(V1))
    assert docs.job("docs_dual_write").success
    app.execute("DROP TABLE articles")
    assert docs.job("docs_pause").success
    assert docs.job("docs_abort").success
    assert app.execute("SELECT state FROM embed_pipeline.control").fetchone() == ("aborted",)


def test_a_database_that_does_not_answer_is_one_sentence(declare: Declare, run: Run) -> None:
    docs = run(declare(V1, database_url="postgresql://someone:secret@127.0.0.1:1/nowhere"))
    failed = docs.job("docs__v1_gate")
    assert "PostgreSQL at postgresql://someone:***@127.0.0.1:1/nowhere is not available" in sentence(failed)
    assert not any("secret" in str(event) for event in failed.all_events)


def test_refined_while_it_is_filled(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    """Half of v2 puts in order what is found in v1: judged by its own blocking check, served, taken back, and judged again at each tenth."""
    run(declare(V1)).find_serving("v1")
    docs = run(declare(V1_V2, while_building={"refine": True, "depth": 10}))
    assert docs.backfill("v2", "00", "01").success
    judged = docs.job("docs__v2_gate__refine")
    assert judged.success
    assert checks(judged) == {"refine_not_worse": True}
    verdict = materialized(judged, "docs", "v2", "evaluation_refine")
    assert verdict["outcome"] == "pass"
    assert verdict["share filled"] == pytest.approx(0.5)
    moved = docs.job("docs__v2_cutover__refine")
    assert moved.success
    assert materialized(moved, "docs", "v2", "cutover_refine")["route"] == "v1 refined by v2"
    assert pointer(app) == "v1"
    assert docs.job("docs_rollback").success
    assert app.execute("SELECT route FROM embed_pipeline.serving").fetchone() == ("direct",)
    docs.fill("v2")
    stale = alone(docs, "v2", "cutover_refine", confirm="v2")
    assert "judged v2 while 50% of it was filled" in sentence(stale)


def test_a_worse_refinement_is_not_served(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    run(declare(V1)).find_serving("v1")
    docs = run(declare(V1_WORSE, while_building={"refine": True, "depth": 40}))
    docs.fill("worse")
    refused = docs.job("docs__worse_cutover__refine")
    assert not refused.success
    assert checks(refused) == {"refine_not_worse": False}
    assert app.execute("SELECT route FROM embed_pipeline.serving").fetchone() == ("direct",)
