"""What `status` says comes next, typed until there is nothing left to do; nothing that cannot be taken back is ready to paste."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg

from tests.database.cli.conftest import Place, version
from tests.database.cli.test_flow import Run, next_of, ok


def follow(run: Run, documents: str) -> list[str]:
    """Types what comes next, until changes are all there is to wait for; returns the verbs with their versions."""
    typed: list[str] = []
    while (command := next_of(run)) != "embed-pipeline sync docs --watch":
        words = command.split()[1:]
        assert "--confirm" not in words
        typed.append(" ".join([words[0], *words[2:]]))
        assert len(typed) < 20, typed
        words = [documents if word == "FILE" else word for word in words]
        if words[0] == "retire":
            words += ["--confirm", words[2]]
        ok(run(*words, "--json"))
    return typed


def test_what_comes_next_leads_through_a_whole_migration(place: Place, run: Run) -> None:
    first = ["load FILE", "backfill v1", "gate v1", "cutover v1"]
    assert follow(run, str(place.write_documents())) == [*first, "backfill v2", "gate v2", "cutover v2", "retire v1"]


def test_what_comes_next_after_a_rollback_is_no_retire_of_what_was_left(place: Place, run: Run) -> None:
    ok(run("load", "docs", place.write_documents(), "--json"))
    for name in ("v1", "v2"):
        for verb in ("backfill", "gate", "cutover"):
            ok(run(verb, "docs", name, "--json"))
    ok(run("rollback", "docs", "--reason", "complaints", "--json"))
    shown = ok(run("status", "docs", "--json"))["next"]
    assert shown["command"] == "embed-pipeline gate docs v2"
    assert shown["why"].startswith("v2 was rolled back from at ")
    assert ": complaints; " in shown["why"]
    refused = run("cutover", "docs", "v2", "--json")
    assert (refused.code, refused.value["fields"]["reason"]) == (1, "rolled_back")
    assert follow(run, "") == ["gate v2", "cutover v2", "retire v1"]


def test_the_only_complete_version_is_not_retired_while_nothing_serves(place: Place, run: Run) -> None:
    ok(run("load", "docs", place.write_documents(), "--json"))
    ok(run("backfill", "docs", "v1", "--json"))
    refused = run("retire", "docs", "v1", "--confirm", "v1", "--json")
    assert (refused.code, refused.value["fields"]["reason"]) == (1, "only_complete")
    ok(run("backfill", "docs", "v2", "--json"))
    assert ok(run("retire", "docs", "v1", "--confirm", "v1", "--json"))["version"] == "v1"
    assert run("retire", "docs", "v2", "--confirm", "v2", "--json").value["fields"]["reason"] == "only_complete"


def test_capture_that_is_off_is_what_comes_next(place: Place, run: Run, conn: psycopg.Connection[Any]) -> None:
    ok(run("load", "docs", place.write_documents(), "--json"))
    for verb in ("backfill", "gate", "cutover"):
        ok(run(verb, "docs", "v1", "--json"))
    assert (run("health", "docs").code, run("status", "docs", "--check").code) == (0, 0)
    conn.execute("ALTER TABLE docs DISABLE TRIGGER USER")
    seen = run("status", "docs", "--check", "--json")
    assert (seen.code, seen.value["phase"], seen.value["coverage"]) == (4, "serving", 1.0)
    assert [each["code"] for each in seen.value["attention"]] == ["capture_off", "doubt"]
    assert seen.value["next"]["command"] == "embed-pipeline sync docs --full"
    assert seen.value["next"]["why"].startswith("change capture is off (public.docs.")
    sick = run("health", "--json")
    assert (sick.code, sick.value["indexes"]["docs"]["well"]) == (1, False)
    assert "!! capture_off: " in run("health", "docs").out
    ok(run(*seen.value["next"]["command"].split()[1:], "--json"))
    assert run("health", "docs").out == "docs: well; no migration is under way\n"


def test_what_comes_next_leads_out_of_whatever_went_wrong(
    place: Place, run: Run, conn: psycopg.Connection[Any], tmp_path: Path
) -> None:
    """From state to state through a whole migration: whatever is broken, what `next` or the error says, typed as it is, goes on from there."""
    down, mended = tmp_path / "down", tmp_path / "mended"
    options = {"salt": "two", "raise_while": str(down), "mended": str(mended), "fail_on": "number47"}
    place.declare(versions={"v1": version(), "v2": version(model_name="words-2", options=options)})

    def typed(command: str) -> None:
        shown = ok(run("status", "docs", "--json"))["next"]
        assert shown["command"] == f"embed-pipeline {command}", shown
        ok(run(*command.split(), "--json"))

    ok(run("load", "docs", place.write_documents(), "--json"))
    for command in ("backfill docs v1", "gate docs v1", "cutover docs v1"):
        typed(command)
    for verb in ("pause", "abort"):
        ok(run(verb, "docs", "--json"))
        typed("resume docs")
    conn.execute("ALTER TABLE docs DISABLE TRIGGER USER")
    conn.execute("UPDATE docs SET text = 'changed unseen' WHERE id = '3'")
    typed("sync docs --full")
    ok(run("sync", "docs", "--json"))
    conn.execute("DROP TABLE embed_pipeline.docs__v1 CASCADE")
    typed("backfill docs v1")

    ok(run("backfill", "docs", "v2", "--partition", "00", "--json"))
    down.touch()
    failed = run("backfill", "docs", "v2")
    assert failed.code == 1
    assert "the provider is down" in failed.err
    assert "Run the same command again once it answers. What was written is kept" in failed.err
    down.unlink()
    typed("backfill docs v2")
    judged = run("gate", "docs", "v2", "--json")
    assert (judged.code, judged.value["outcome"]) == (1, "pass")
    typed("dead-letters docs v2")
    mended.touch()
    ok(run("dead-letters", "docs", "v2", "--retry", "--json"))
    ok(run("sync", "docs", "--json"))
    assert follow(run, "") == ["cutover v2", "retire v1"]
    # That something had bypassed the triggers is said until a comparison finds nothing.
    assert [each["code"] for each in run("health", "docs", "--json").value["attention"]] == ["bypassed"]
    ok(run("sync", "docs", "--full", "--json"))
    assert run("health", "docs").code == 0
