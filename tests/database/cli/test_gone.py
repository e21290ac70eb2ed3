"""A version whose table was dropped by hand, and points that are taken over, from the command line."""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from tests.database.cli.conftest import DOCUMENTS, Place, Ran

Run = Callable[..., Ran]


def test_it_is_said_and_filled_again(place: Place, run: Run, database_url: str) -> None:
    assert run("load", "docs", place.write_documents()).code == 0
    assert run("backfill", "docs", "v1").code == 0
    assert run("gate", "docs", "v1").code == 0
    assert run("cutover", "docs", "v1").code == 0
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("DROP TABLE embed_pipeline.docs__v1 CASCADE")
    said = run("sync", "docs")
    assert (said.code, "gone" in said.err, "it is active, and serves" in said.err) == (1, True, True)
    shown = run("status", "docs")
    assert "its table embed_pipeline.docs__v1 is not there" in shown.out
    assert "next: embed-pipeline backfill docs v1" in shown.out
    again = run("backfill", "docs", "v1", "--json")
    assert again.code == 0, again.err
    assert f"They are made again: {DOCUMENTS} documents to embed" in again.err
    assert again.value["stored"] == DOCUMENTS
    assert run("verify", "docs", "v1").code == 0
    assert run("search", "docs", "number7").code == 0


def test_there_is_nothing_to_take_over_in_tables(place: Place, run: Run) -> None:
    assert run("load", "docs", place.write_documents()).code == 0
    refused = run("take-over", "docs", "--confirm", "docs")
    assert (refused.code, "No version of index 'docs' is registered" in refused.err) == (1, True)
    assert run("backfill", "docs", "v1").code == 0
    assert run("take-over", "docs", "--confirm", "dogs").code == 2
    taken = run("take-over", "docs", "--confirm", "docs", "--json")
    assert (taken.code, taken.value["before"], taken.value["queued"], taken.value["gone"]) == (0, {}, {}, [])
