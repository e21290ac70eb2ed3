"""fit, preview and backfill --first as a person and a pipeline meet them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import psycopg

from tests.database.cli.conftest import Place, Ran, version
from tests.database.cli.test_flow import ok
from tests.harness.fakes import asked_texts

Run = Callable[..., Ran]
DOCUMENTS = 340


def words(number: int) -> str:
    return " ".join(random.Random(number).sample([f"w{each}" for each in range(300)], 10))


def served(place: Place, run: Run, calls: Path) -> None:
    """v1 serves; v2 is the same in other axes, and has nothing."""
    turned = {
        "provider": "tests.harness.fakes:TurnedEmbedder",
        "model_name": "words-2",
        "dimensions": 40,
        "options": {"narrow": 32, "salt": "one", "calls_file": str(calls)},
    }
    place.declare(versions={"v1": version(), "v2": turned}, gate={"min_queries": 2, "margin": 0.9, "min_ann_recall": 0})
    rows = [{"id": str(number), "text": words(number)} for number in range(DOCUMENTS)]
    file = place.folder / "documents.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    judged = [{"query": " ".join(words(number).split()[:6]), "doc_id": str(number)} for number in range(2)]
    (place.folder / "holdout.jsonl").write_text("\n".join(map(json.dumps, judged)))
    ok(run("load", "docs", str(file), "--json"))
    for verb in ("backfill", "gate", "cutover"):
        ok(run(verb, "docs", "v1", "--json"))


def documents(calls: Path) -> int:
    known = {words(number) for number in range(DOCUMENTS)}
    return sum(each in known for each in asked_texts(calls))


def test_the_verbs_say_what_they_embed_and_ask_first(place: Place, run: Run, tmp_path: Path, conn: psycopg.Connection) -> None:
    calls = tmp_path / "calls"
    served(place, run, calls)

    refused = run("fit", "docs", "v2")
    assert (refused.code, documents(calls)) == (1, 0)
    assert "have 0 pairs of the same text" in refused.err
    assert refused.err.rstrip().endswith("embed-pipeline fit docs v2 --pairs 300")

    for verb in (("preview", "docs", "v2"), ("fit", "docs", "v2", "--pairs", "300")):
        unasked = run(*verb, "--json")
        assert (unasked.code, documents(calls)) == (2, 0), "nobody was there to be asked"
        assert unasked.value["next_step"] == "Run the same command with --yes."

    picture = tmp_path / "curve.png"
    previewed = run("preview", "docs", "v2", "--yes", "--plot", str(picture))
    assert previewed.code == 0
    assert f"will embed {documents(calls):,} of" in previewed.err
    assert "advice: " in previewed.out
    assert previewed.out.rstrip().endswith("next: embed-pipeline backfill docs v2")
    assert picture.read_bytes().startswith(b"\x89PNG")
    embedded = documents(calls)
    assert "advice: " in run("plan", "docs", "v2").out
    sampled = documents(calls) - embedded

    fitted = ok(run("fit", "docs", "v2", "--pairs", "320", "--yes", "--json"))
    assert (fitted["into"], fitted["pairs"] >= 300, fitted["unseen"]) == ("v1", True, 0)
    assert fitted["next"] == "embed-pipeline gate docs v2 --route bridge"
    assert "too few to tell" in run("status", "docs").out
    assert ok(run("fit", "docs", "v2", "--kind", "low_rank_affine", "--json"))["kind"] == "low_rank_affine"

    wanted = place.folder / "first.txt"
    wanted.write_text("7\n9\nno document\n")
    filled = run("backfill", "docs", "v2", "--first", str(wanted))
    assert filled.code == 0
    assert "1 id of --first are of no document." in filled.err
    assert "cost curve at 3 of 3 partitions" in filled.err
    assert documents(calls) == DOCUMENTS + sampled, "nobody is paid twice"
    assert run("backfill", "docs", "v2", "--first", str(tmp_path / "missing")).code == 2
