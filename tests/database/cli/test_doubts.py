"""A doubt that every change was seen: said by every verb that people look at, until a full comparison has passed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.database.cli.conftest import Place, Ran
from tests.database.cli.test_flow import ok

Run = Callable[..., Ran]
REASON = "the documents table has changed since capture was armed: triggers"


@pytest.fixture
def doubted(place: Place, run: Run, conn: psycopg.Connection[Any]) -> None:
    """v1 serves, v2 has passed its gate; then triggers were off for a moment and are on again."""
    ok(run("load", "docs", place.write_documents(), "--json"))
    for name in ("v1", "v2"):
        ok(run("backfill", "docs", name, "--json"))
        ok(run("gate", "docs", name, "--json"))
        if name == "v1":
            ok(run("cutover", "docs", name, "--json"))
    assert json.loads(run("status", "docs", "--json").out)["doubts"] == []
    conn.execute("ALTER TABLE docs DISABLE TRIGGER embed_pipeline_docs_update")
    conn.execute("UPDATE docs SET text = 'nobody saw this' WHERE id = '7'")
    conn.execute("ALTER TABLE docs ENABLE TRIGGER embed_pipeline_docs_update")


def test_a_doubt_is_said_until_a_full_comparison_has_passed(doubted: None, run: Run, conn: psycopg.Connection[Any]) -> None:
    # Status changes nothing, and sees what the next look will doubt.
    seen = ok(run("status", "docs", "--json"))
    assert seen["doubts"] == [REASON]
    assert seen["next"]["command"] == "embed-pipeline sync docs --full"
    assert conn.execute("SELECT count(*) FROM embed_pipeline.doubts").fetchone() == (0,)

    synced = run("sync", "docs")
    assert synced.code == 0
    assert (
        f"doubt: {REASON}. Every search checks its hits until a full comparison has passed: embed-pipeline sync docs --full"
        in synced.err
    )
    assert [each["reason"] for each in ok(run("sync", "docs", "--json"))["doubts"]] == [REASON]
    assert f"  !! doubt: Changes may have been missed, and every search checks its hits: {REASON}." in run("status", "docs").out

    for verb in ("gate", "cutover"):
        refused = run(verb, "docs", "v2", "--json")
        assert refused.code == 1
        assert REASON in refused.value["error"]
        assert refused.value["next_step"].startswith("Run: embed-pipeline sync docs --full")

    full = run("sync", "docs", "--full")
    assert full.code == 0
    assert f"there was reason to doubt it ({REASON})" in full.err
    assert "1 documents of v1 differed" in full.err
    assert ok(run("sync", "docs", "--json"))["doubts"] == []
    assert ok(run("status", "docs", "--json"))["doubts"] == []
    ok(run("gate", "docs", "v2", "--json"))
    ok(run("cutover", "docs", "v2", "--json"))


def test_a_rollback_is_not_held_up_and_says_it(doubted: None, run: Run, conn: psycopg.Connection[Any]) -> None:
    ok(run("sync", "docs", "--full", "--json"))
    ok(run("gate", "docs", "v2", "--json"))
    ok(run("cutover", "docs", "v2", "--json"))
    conn.execute("ALTER TABLE docs DISABLE TRIGGER embed_pipeline_docs_update")
    conn.execute("ALTER TABLE docs ENABLE TRIGGER embed_pipeline_docs_update")
    moved = run("rollback", "docs")
    assert moved.code == 0
    assert f"doubt: {REASON}." in moved.err
    assert ok(run("status", "docs", "--json"))["serving"]["version"] == "v1"
