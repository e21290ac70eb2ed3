"""What `status` says comes next, typed until there is nothing left to do; nothing that cannot be taken back is ready to paste."""

from __future__ import annotations

from typing import Any

import psycopg

from tests.database.cli.conftest import Place
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
    for version in ("v1", "v2"):
        for verb in ("backfill", "gate", "cutover"):
            ok(run(verb, "docs", version, "--json"))
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
    assert run("health", "docs").out == "docs: well (serving)\n"
