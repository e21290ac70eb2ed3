"""A declaration that was changed after registration, in what never changes: every verb that works with it says so, with both values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg

from tests.database.cli.conftest import Place, Ran, version

Run = Callable[..., Ran]

WORKING = [
    ("sync", "docs"),
    ("sync", "docs", "--full"),
    ("backfill", "docs", "v1"),
    ("gate", "docs", "v1"),
    ("cutover", "docs", "v1"),
    ("rollback", "docs"),
    ("retire", "docs", "v1", "--confirm", "v1"),
    ("verify", "docs"),
    ("check-model", "docs", "v1"),
    ("dead-letters", "docs", "--retry"),
]


def own(**overrides: Any) -> dict[str, Any]:
    return {"documents": {"table": "articles", "key": "id", "text": ["title", "body"]} | overrides}


def of_v1(**overrides: Any) -> dict[str, Any]:
    return {"versions": {"v1": version(**overrides)}}


FROZEN: list[tuple[dict[str, Any], str]] = [
    ({"partitions": 2}, "partitions is registered as 3 and declared as 2"),
    ({"partitions": 9}, "partitions is registered as 3 and declared as 9"),
    (own(table="others"), "documents.table is registered as public.articles and declared as public.others"),
    (own(table="nowhere"), "documents.table is registered as public.articles and declared as public.nowhere"),
    (own(key="number"), "documents.key is registered as (id) and declared as (number)"),
    (own(text=["body", "title"]), "documents.text is registered as (title, body) and declared as (body, title)"),
    ({"store": {"kind": "qdrant"}}, "store.kind is registered as pgvector and declared as qdrant"),
    (of_v1(model_name="words-9"), "versions.v1.model_name is registered as words-1 and declared as words-9"),
    (of_v1(dimensions=16), "versions.v1.dimensions is registered as 32 and declared as 16"),
    (of_v1(precision="halfvec"), "versions.v1.precision is registered as vector and declared as halfvec"),
    (of_v1(distance="l2"), "versions.v1.distance is registered as cosine and declared as l2"),
    (of_v1(chunker={"size": 100}), "versions.v1.chunker is registered as absent and declared as {"),
    (of_v1(options={"salt": "secret"}), "versions.v1.options.salt is registered with another value"),
]
FREE: list[dict[str, Any]] = [
    of_v1(batch_size=7, max_in_flight=2, hnsw={"ef_search": 50}),
    {"gate": {"min_queries": 3, "margin": 0.1}, "retire": {"soak_seconds": 5}},
]


def refused(ran: Ran, sentence: str) -> None:
    assert ran.code == 1, ran
    assert sentence in ran.err
    assert "Put the registered values back" in ran.err
    assert ran.out == ""


def test_what_is_frozen_is_refused_by_name_and_shown_by_status_and_plan(
    place: Place, run: Run, conn: psycopg.Connection[Any]
) -> None:
    for table in ("articles", "others"):
        conn.execute(f"CREATE TABLE {table} (id bigint PRIMARY KEY, number bigint UNIQUE NOT NULL, title text, body text)")  # type: ignore[arg-type]
        conn.execute(f"INSERT INTO {table} SELECT n, 100 + n, 'title', 'body ' || n FROM generate_series(1, 20) AS n")  # type: ignore[arg-type]
    conn.execute("UPDATE others SET body = 'another ' || id")
    registered = of_v1() | own()
    place.declare(**registered)
    assert run("backfill", "docs", "v1").code == 0
    for number, (change, sentence) in enumerate(FROZEN):
        place.declare(**registered | change)
        # Of the first one every verb, of the others in turn one that registers what is new and one that does not.
        for arguments in WORKING if number == 0 else [(WORKING[0], WORKING[8])[number % 2]]:
            refused(run(*arguments), sentence)
        shown = run("status", "docs", "--json")
        assert (shown.code, shown.err) == (0, "")
        assert (shown.value["versions"][0]["stored"], shown.value["documents"]) == (20, 20)
        assert any(sentence in each for each in shown.value["declared_otherwise"]), shown.value["declared_otherwise"]
        assert shown.value["next"]["why"].startswith("put the registered values back")
    place.declare(**registered | {"partitions": 2})
    assert "every working verb refuses it: partitions is registered as 3 and declared as 2" in run("status", "docs").out
    assert "partitions is registered as 3 and declared as 2: every command will refuse this" in run("plan", "docs", "v1").out
    assert run("search", "docs", "body 3", "--version", "v1").code == 0
    for change in FREE:
        place.declare(**registered | change)
        if "versions" in change:
            shown = run("status", "docs").out
            assert "  not set yet: versions.v1.hnsw.ef_search is set to 100 and declared as 50\n" in shown
            assert "the next command that works on the index sets what is declared here" in shown
            assert "hnsw.ef_search is set to 100 and declared as 50: the next command" in run("plan", "docs", "v1").out
        assert run("sync", "docs").code == 0
        assert "not set yet" not in run("status", "docs").out
    assert run("status", "docs", "--json").value["declared_otherwise"] == []
