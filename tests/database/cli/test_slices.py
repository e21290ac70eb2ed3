"""Slices of the held-out set: one that loses keeps a version from serving, and evidence is bound to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg

from tests.database.cli.conftest import Place, Ran, version

Run = Callable[..., Ran]

# Half of the words are lost under v2: with a margin of 0.9 nobody minds but the slice.
LOSING = {"v1": version(), "v2": version(model_name="words-2", options={"salt": "two", "drop": 0.5})}


def sliced(place: Place, run: Run, **slices: Any) -> None:
    """v1 serves, v2 is filled; every third query is German."""
    place.declare(versions=LOSING, gate={"min_queries": 5, "margin": 0.9, "slices": slices})
    rows = [{"query": f"number{n}", "doc_id": str(n), "lang": "en" if n % 3 else "de"} for n in range(30)]
    (place.folder / "holdout.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    run("load", "docs", place.write_documents())
    for verb in ("backfill", "gate", "cutover"):
        assert run(verb, "docs", "v1").code == 0
    assert run("backfill", "docs", "v2").code == 0


def test_a_slice_decides(place: Place, run: Run, database_url: str) -> None:
    sliced(place, run, lang={"margin": 0.01, "values": ["en"]})
    ran = run("gate", "docs", "v2")
    assert ran.code in (1, 3), ran
    assert ran.out.startswith(("fail: slice lang en: ", "undecided: slice lang en: ")), ran.out
    assert "All queries together: pass: " in ran.out
    lines = [line.split() for line in ran.out.splitlines()]
    assert ["slice", "queries", "v1", "v2", "difference", "one-sided", "bounds", "decides"] in lines
    assert ["lang", "de", "10"] in [line[:3] for line in lines]
    searches = lines.index(["search,", "ms", "searches", "p50", "p95", "p99"])
    assert lines[searches + 1][:2] == ["v1", "30"]
    measures = run("gate", "docs", "v2", "--json").value["measures"]
    for ending in ("", "_baseline"):
        assert 0 < measures[f"search_p50_ms{ending}"] <= measures[f"search_p95_ms{ending}"] <= measures[f"search_p99_ms{ending}"]
    found = measures["slices"]
    assert [(each["value"], each["queries"], each["margin"]) for each in found] == [("en", 20, 0.01), ("de", 10, None)]
    with psycopg.connect(database_url) as conn:
        kept = conn.execute(
            "SELECT slices ->> 'lang', count(DISTINCT query_id) FROM embed_pipeline.evidence_queries WHERE version = 'v2' GROUP BY 1 ORDER BY 1"
        ).fetchall()
    assert kept == [("de", 10), ("en", 20)]
    assert run("cutover", "docs", "v2").code == 1


def test_evidence_is_bound_to_the_slices(place: Place, run: Run) -> None:
    sliced(place, run, lang={})
    assert run("gate", "docs", "v2").code == 0
    place.declare(versions=LOSING, gate={"min_queries": 5, "margin": 0.9, "slices": {"lang": {"margin": 0.01}}})
    ran = run("cutover", "docs", "v2")
    assert ran.code == 1
    assert "its rule has changed: gate.slices.lang.margin was not set and is 0.01 now" in ran.err
    place.declare(versions=LOSING, gate={"min_queries": 5, "margin": 0.9, "slices": {"lang": {}}})
    text = (place.folder / "holdout.jsonl").read_text()
    (place.folder / "holdout.jsonl").write_text(text.replace('"lang": "de"', '"lang": "fr"'))
    ran = run("cutover", "docs", "v2")
    assert ran.code == 1
    assert "held-out set" in ran.err
    (place.folder / "holdout.jsonl").write_text(text)
    assert run("cutover", "docs", "v2").code == 0


def test_a_column_that_the_set_lacks(place: Place, run: Run) -> None:
    place.declare(gate={"min_queries": 2, "margin": 0.2, "slices": {"tenant": {"margin": 0.05}}})
    run("load", "docs", place.write_documents())
    assert run("backfill", "docs", "v1").code == 0
    ran = run("gate", "docs", "v1")
    assert ran.code == 1
    assert "has no column 'tenant', which gate.slices names" in ran.err
