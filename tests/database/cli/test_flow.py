"""A whole migration by the command line, and the daily verbs beside it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from tests.database.cli.conftest import DOCUMENTS, Place, Ran, text_of, version

Run = Callable[..., Ran]


def ok(ran: Ran) -> Any:
    """The JSON value of a verb that must succeed."""
    assert ran.code == 0, ran
    return ran.value


def next_of(run: Run) -> str:
    return str(ok(run("status", "docs", "--json"))["next"]["command"])


def test_a_migration_from_the_first_file_to_the_retired_version(place: Place, run: Run, tmp_path: Path) -> None:
    assert next_of(run) == "embed-pipeline load docs FILE"
    assert ok(run("load", "docs", place.write_documents(), "--json"))["inserted"] == DOCUMENTS

    planned = ok(run("plan", "docs", "v1", "--json"))
    assert (planned["documents"], planned["state"], planned["sample"]["documents"]) == (DOCUMENTS, None, DOCUMENTS)
    assert planned["next_command"] == "embed-pipeline backfill docs v1"

    # One partition first: the version is not ready, and nothing may be skipped.
    filled = ok(run("backfill", "docs", "v1", "--partition", "01", "--json"))
    assert (filled["state"], filled["unfilled"], filled["ann_index"]) == ("building", ["00", "02"], None)
    assert next_of(run) == "embed-pipeline backfill docs v1"  # nothing serves yet: the first version first
    refused = run("cutover", "docs", "v1", "--json")
    assert (refused.code, refused.value["next_step"]) == (1, "Run: embed-pipeline backfill docs v1")

    filled = ok(run("backfill", "docs", "v1", "--json"))
    assert (filled["state"], filled["stored"], filled["unfilled"]) == ("ready", DOCUMENTS, [])
    assert [each["partition"] for each in filled["filled"]] == ["00", "02"]
    assert ok(run("gate", "docs", "v1", "--json"))["outcome"] == "pass"
    assert ok(run("cutover", "docs", "v1", "--json"))["version"] == "v1"

    assert ok(run("backfill", "docs", "v2", "--json"))["next"] == "embed-pipeline gate docs v2"
    assert next_of(run) == "embed-pipeline gate docs v2"
    judged = run("gate", "docs", "v2", "--plot", str(tmp_path / "gate.png"))
    assert judged.code == 0
    assert judged.out.startswith("pass: recall@10 of v2")
    assert re.search(r"^metric +v1 +v2 +difference", judged.out, re.MULTILINE)
    assert "|" not in judged.out, "Markdown is for --markdown"
    assert (tmp_path / "gate.png").read_bytes().startswith(b"\x89PNG")
    assert next_of(run) == "embed-pipeline cutover docs v2"
    moved = ok(run("cutover", "docs", "v2", "--reason", "better words", "--json"))
    assert (moved["version"], moved["previous"], moved["generation"]) == ("v2", "v1", 2)

    assert ok(run("rollback", "docs", "--json"))["version"] == "v1"
    assert ok(run("gate", "docs", "v2", "--json"))["baseline"] == "v1"
    assert ok(run("cutover", "docs", "v2", "--json"))["generation"] == 4

    unconfirmed = run("retire", "docs", "v1", "--confirm", "v2")
    assert unconfirmed.code == 1
    assert "does not name the version 'v1'" in unconfirmed.err
    # What cannot be taken back is not ready to paste, nor is it from the refusal.
    assert next_of(run) == "embed-pipeline retire docs v1"
    pasted = run("retire", "docs", "v1")
    assert pasted.code == 1
    assert "its vectors cannot be brought back" in pasted.err
    assert "--confirm v1" not in pasted.err
    assert ok(run("retire", "docs", "v1", "--confirm", "v1", "--json"))["freed_bytes"] > 0
    assert next_of(run) == "embed-pipeline sync docs --watch"
    shown = run("status")
    assert "docs: serves v2 (generation 4); 50 documents in public.docs" in shown.out
    steps = ok(run("history", "docs", "--json"))["steps"]
    moves = [(each["event"], each["before"], each["after"], each["generation"]) for each in steps if each["generation"]]
    assert moves == [
        ("cutover", None, "v1", 1),
        ("cutover", "v1", "v2", 2),
        ("rollback", "v2", "v1", 3),
        ("cutover", "v1", "v2", 4),
    ]
    told = run("history", "docs", "--limit", "12")
    assert "cutover v1 -> v2 (generation 2, evidence 2: pass) by " in told.out
    assert ": better words\n" in told.out
    assert "rollback v2 -> v1 (generation 3, no evidence, none is asked for) by " in told.out
    assert ok(run("verify", "docs", "--json"))["versions"]["v2"]["share"] == 1.0


def test_changes_are_synced_searched_and_verified(place: Place, run: Run, conn: psycopg.Connection[Any]) -> None:
    place.declare(versions={"v1": {"provider": "tests.harness.fakes:WordsEmbedder", "model_name": "w", "dimensions": 32}})
    run("load", "docs", place.write_documents())
    run("backfill", "docs", "v1")
    run("gate", "docs", "v1")
    assert run("cutover", "docs", "v1").code == 0

    conn.execute("UPDATE docs SET text = 'zebra crossing', metadata = '{}' WHERE id = '7'")
    assert ok(run("sync", "docs", "--json"))["versions"][0]["written"] == 1
    found = ok(run("search", "docs", "zebra crossing", "-k", "3", "--json"))
    assert (found["version"], found["hits"][0]["doc_id"], len(found["hits"])) == ("v1", "7", 3)
    told = run("search", "docs", "zebra crossing", "--where", "id=7", "--exact")
    assert told.code == 0
    assert "zebra crossing" in told.out.splitlines()[-1]
    assert len(told.out.splitlines()) == 3  # the version, the header, one hit
    assert run("search", "docs", "x", "--where", "shoe=7").code == 2
    assert "is not of the form COLUMN=VALUE" in run("search", "docs", "x", "--where", "id").err

    with conn.transaction():
        conn.execute("SET LOCAL session_replication_role = replica")
        conn.execute("ALTER TABLE docs DISABLE TRIGGER ALL")
        conn.execute("UPDATE docs SET text = 'unseen' WHERE id = '8'")
        conn.execute("ALTER TABLE docs ENABLE TRIGGER ALL")
    differing = run("verify", "docs")
    assert differing.code == 1
    assert "8 is stale" in differing.out
    assert "embed-pipeline sync docs --full" in differing.err
    assert ok(run("sync", "docs", "--full", "--json"))["queued"] == {"v1": 1}
    assert run("verify", "docs").code == 0

    place.declare(
        versions={
            name: {"provider": "tests.harness.fakes:WordsEmbedder", "model_name": m, "dimensions": 32}
            for name, m in [("v1", "w"), ("v2", "x")]
        }
    )
    unfilled = run("verify", "docs")
    assert (unfilled.code, unfilled.out.count("is missing")) == (1, 5)
    assert unfilled.err == "50 differences; to mend them, run: embed-pipeline backfill docs v2\n"


def test_pause_resume_abort_reach_the_backfill(place: Place, run: Run) -> None:
    run("load", "docs", place.write_documents())
    run("backfill", "docs", "v1", "--partition", "00")
    assert ok(run("pause", "docs", "--reason", "lunch", "--json"))["control"] == "paused"
    shown = ok(run("status", "docs", "--json"))
    assert (shown["control"]["state"], shown["control"]["reason"]) == ("paused", "lunch")
    assert shown["next"]["command"] == "embed-pipeline resume docs"
    assert run("abort", "docs", "--reason", "wrong model").code == 0
    stopped = run("backfill", "docs", "v1")
    assert stopped.code == 1
    assert "wrong model" in stopped.err
    assert "Run: embed-pipeline resume docs" in stopped.err
    assert run("resume", "docs").code == 0
    assert run("backfill", "docs", "v1").code == 0


def test_the_gate_tells_fail_and_undecided_by_its_exit_code(place: Place, run: Run) -> None:
    words = {"provider": "tests.harness.fakes:WordsEmbedder", "dimensions": 32}
    place.declare(
        versions={
            "v1": words | {"model_name": "good"},
            "blind": words | {"model_name": "blind", "options": {"drop": 1.0}},
            "twin": words | {"model_name": "twin", "options": {"salt": "x"}},
        },
        gate={"min_queries": 2, "margin": 0.02},
    )
    run("load", "docs", place.write_documents())
    for name in ("v1", "blind", "twin"):
        assert run("backfill", "docs", name).code == 0
    run("gate", "docs", "v1")
    run("cutover", "docs", "v1")
    assert run("gate", "docs", "blind", "--json").code == 1
    undecided = run("gate", "docs", "twin", "--json")
    assert (undecided.code, undecided.value["outcome"]) == (3, "undecided")
    refused = run("cutover", "docs", "twin")
    assert (refused.code, refused.out) == (1, "")
    assert "did not pass twin" in refused.err


def test_empty_texts_become_dead_letters_that_are_named(place: Place, run: Run) -> None:
    loaded = run("load", "docs", place.write_documents({"id": "null", "text": None}, {"id": "blank", "text": "  "}))
    assert "2 documents without title and text" in loaded.out
    filled = run("backfill", "docs", "v1")
    assert filled.code == 0
    assert "2 documents without a vector: blank: empty text; null: empty text." in filled.out
    run("gate", "docs", "v1")
    refused = run("cutover", "docs", "v1")
    assert refused.code == 1
    assert "blank (empty text), null (empty text)" in refused.err
    shown = ok(run("status", "docs", "--json"))
    assert shown["versions"][0]["first_dead_letters"] == ["blank: empty text", "null: empty text"]


def test_looking_registers_nothing_and_working_registers_what_is_declared(place: Place, run: Run) -> None:
    run("load", "docs", place.write_documents())
    assert run("plan", "docs", "v1").code == 0
    assert {each["state"] for each in ok(run("status", "docs", "--json"))["versions"]} == {"declared"}
    early = run("rollback", "docs")
    assert early.code == 1
    assert "Run: embed-pipeline backfill docs v1" in early.err
    place.declare(versions={"v1": {"provider": "tests.harness.fakes:WordsEmbedder", "model_name": "w", "dimensions": 32}})
    assert run("sync", "docs").code == 0
    assert {each["state"] for each in ok(run("status", "docs", "--json"))["versions"]} == {"building"}
    place.declare()
    changed = run("sync", "docs")
    assert changed.code == 1
    assert (
        "versions.v1.model_name is registered as w and declared as words-1; versions.v1.options.salt is registered" in changed.err
    )


def test_texts_of_documents_are_distinct() -> None:
    assert len({text_of(n) for n in range(DOCUMENTS)}) == DOCUMENTS


def test_a_sampled_verification_names_what_is_not_the_models(place: Place, run: Run, conn: psycopg.Connection[Any]) -> None:
    run("load", "docs", place.write_documents())
    place.declare(versions={"v1": version()})
    run("backfill", "docs", "v1")
    good = run("verify", "docs", "--sample", "5")
    assert (good.code, "5 of 5 sampled documents embedded again: median cosine 1.0000" in good.out) == (0, True)
    conn.execute("UPDATE embed_pipeline.docs__v1 SET embedding = array_fill(0.5::real, ARRAY[32])::vector WHERE doc_id = '7'")
    assert run("verify", "docs").code == 0
    bad = run("verify", "docs", "v1", "--sample", "1000", "--json")
    assert bad.code == 1
    assert list(bad.value["sample"][0]["differing"]) == ["7"]
    assert "1 document of v1 with a vector that is not its model's" in bad.err
    assert "  7: cosine" in run("verify", "docs", "--sample", "1000").out
