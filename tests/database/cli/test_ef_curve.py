"""`gate --ef-curve`: each value is what its searches were made with."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from embed_pipeline.configuration import load_indexes
from embed_pipeline.migrate.evidence_of import evidence
from embed_pipeline.migrate.opening import opened
from tests.database.cli.conftest import Place, Ran, text_of, version

Run = Callable[..., Ran]
DOCUMENTS = 2_000


def test_a_poor_graph_finds_more_with_more_candidates(place: Place, run: Run) -> None:
    """Two neighbours for each vector: with ten candidates a search is lost in it."""
    poor = version(hnsw={"m": 2, "ef_construction": 4, "ef_search": 60})
    place.declare(versions={"v1": poor}, gate={"min_ann_recall": 0.0})
    rows = [{"id": n, "text": text_of(n)} for n in range(DOCUMENTS)]
    (place.folder / "many.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    place.write_holdout(120)
    run("load", "docs", str(place.folder / "many.jsonl"))
    assert run("backfill", "docs", "v1").code == 0
    page = place.folder / "gate.html"
    ran = run("gate", "docs", "v1", "--ef-curve", "--json", "--html", str(page))
    assert ran.code == 0, ran
    points = ran.value["measures"]["ef_curve"]["points"]
    assert [each["ef_search"] for each in points] == [10, 20, 40, 60, 80, 160, 320, 640, 1000]
    recalls = [each["recall"] for each in points]
    assert recalls[0] < recalls[-1], recalls
    assert all(each["took"]["searches"] == 120 for each in points)
    declared = next(each["recall"] for each in points if each["ef_search"] == 60)
    assert abs(declared - ran.value["measures"]["ann_recall"]) < 1e-9, "the gate's own searches again"
    assert ran.value["measures"]["ef_curve"]["smallest"] == 10, "min_ann_recall 0 is met by any"
    with opened(load_indexes(place.config)["docs"]) as index:
        kept = evidence(index, "v1")
    assert kept.id == ran.value["evidence_id"]
    assert kept.ef_curve is not None, "the evidence has it"
    assert [(each.ef_search, each.recall) for each in kept.ef_curve.points] == [
        (each["ef_search"], each["recall"]) for each in points
    ]
    assert re.search(r"What ef_search buys(.|\n)*60 \(declared\)", page.read_text())
    shown = run("gate", "docs", "v1", "--ef-curve").out
    assert re.search(r"^60 \(declared\) +\d\.\d{4} ", shown, re.MULTILINE)
    assert "The smallest ef_search tried that finds 0.000 of the exact top 10 in v1 is 10; 60 is declared." in shown

    place.declare(versions={"v1": poor}, gate={"min_ann_recall": 1.0})
    refused = run("gate", "docs", "v1")
    assert refused.code == 1
    assert refused.out.startswith("fail: the ANN index of v1 finds 0.")
    assert "raise hnsw.ef_search (gate --ef-curve shows how far). Relevance: pass: " in refused.out


def test_where_there_is_no_graph_of_its_own(place: Place, run: Run) -> None:
    ran = run("gate", "docs", "v2", "--ef-curve", "--route", "refine")
    assert ran.code == 2
    assert "only --route direct searches" in ran.err


def test_without_a_held_out_set(place: Place, run: Run) -> None:
    place.declare(holdout=None)
    run("load", "docs", place.write_documents())
    assert run("backfill", "docs", "v1").code == 0
    ran = run("gate", "docs", "v1", "--ef-curve")
    assert ran.code == 1
    assert "declares no held-out set, so there are no queries to measure ef_search by" in ran.err
    assert "gate pass" not in run("status", "docs", "--json").out, "and no gate was run and kept unseen"
