"""`holdout check`: what a gate would say of the held-out set, before any version is judged."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from click.testing import CliRunner

from embed_pipeline.cli.main import cli
from tests.database.cli.conftest import Place, Ran, text_of, version
from tests.harness.html import Seen

Run = Callable[..., Ran]


def serve(place: Place, run: Run) -> None:
    run("load", "docs", place.write_documents())
    for verb in ("backfill", "gate", "cutover"):
        assert run(verb, "docs", "v1").code == 0


def test_a_good_set(place: Place, run: Run) -> None:
    serve(place, run)
    ran = run("holdout", "check", "docs")
    assert ran.code == 0, ran
    lines = ran.out.splitlines()
    assert lines[0] == "30 queries, 30 different; 30 judged documents, 0 missing."
    assert lines[1].startswith("recall@10 of v1, which serves: ")
    assert lines[2:] == ["A gate would judge on it."]
    value = run("holdout", "check", "docs", "--json").value
    assert (value["usable"], value["different"], value["findings"]) == (True, 30, [])
    assert value["mean"] > 0.5


def test_everything_that_is_wrong_is_said_at_once(place: Place, run: Run) -> None:
    """Nothing is judged and nothing is stored; the exit code is what a gate's refusal would have."""
    serve(place, run)
    rows = [{"query_id": f"q{n}", "query": f"number{n % 10}", "doc_id": str(n + 25)} for n in range(30)]
    (place.folder / "holdout.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    ran = run("holdout", "check", "docs")
    assert ran.code == 1
    lines = ran.out.splitlines()
    assert lines[0] == "30 queries, 10 different; 30 judged documents, 5 missing."
    assert (
        "refused: 5 documents of the 30 judged are not in the documents table, more than holdout.max_missing 5% allows" in ran.out
    )
    assert "note: 25 queries are 10 different ones (without case, space and punctuation), and each counts once." in ran.out
    assert lines[-1] == "A gate would refuse to judge on it."
    assert run("gate", "docs", "v2").code == 1


def test_without_a_set_or_without_enough(place: Place, run: Run) -> None:
    serve(place, run)
    place.declare(gate={"min_queries": 100, "margin": 0.2})
    ran = run("holdout", "check", "docs")
    assert ran.code == 1
    assert "refused: There are 30 queries, and the gate asks for at least 100." in ran.out
    place.declare(holdout=None)
    ran = run("holdout", "check", "docs")
    assert ran.code == 1
    assert "declares no held-out set" in ran.err


def test_the_worst_queries_are_shown_side_by_side(place: Place, run: Run) -> None:
    place.declare(versions={"v1": version(), "v2": version(model_name="words-2", options={"salt": "two", "drop": 0.5})})
    serve(place, run)
    assert run("backfill", "docs", "v2").code == 0
    ran = run("gate", "docs", "v2", "--worst", "2")
    assert ran.code == 3, "a margin of 0.2 is not decided by 30 queries"
    lines = ran.out.splitlines()
    shown = [
        number for number, line in enumerate(lines) if line.startswith("  recall@10 1.000 with v1, 0.000 with v2; relevant: ")
    ]
    assert len(shown) == 2
    assert lines[shown[0] - 1].startswith("number")
    assert lines[shown[0] + 1].split() == ["v1", "v2"]
    assert " * (" in lines[shown[0] + 2]
    value = run("gate", "docs", "v2", "--worst", "2", "--json").value
    assert [each["difference"] for each in value["worst"]] == [-1.0, -1.0]
    assert "queries" not in value


def test_the_verdict_as_markdown(place: Place, run: Run) -> None:
    serve(place, run)
    assert run("backfill", "docs", "v2").code == 0
    ran = run("gate", "docs", "v2", "--markdown", "--worst", "1")
    assert ran.code == 0
    assert ran.out.startswith("### Gate of docs v2: pass\n\npass: recall@10 of v2 ")
    assert "\n| metric | v1 | v2 | difference | one-sided 95 % bounds |\n" in ran.out
    assert "\n| rank | v1 | v2 |\n" in ran.out
    assert "\n| the best relevant hit | v2 | 30 |" in ran.out
    assert re.search(
        r"^A score threshold of -\d\.\d+, which keeps 95% of the right answers of v1, would drop \d+% of those of v2;",
        ran.out,
        re.M,
    )


def test_the_verdict_as_one_page(place: Place, run: Run) -> None:
    serve(place, run)
    assert run("backfill", "docs", "v2").code == 0
    path = place.folder / "gate.html"
    ran = run("gate", "docs", "v2", "--html", str(path), "--json")
    assert ran.code == 0
    assert f"page in {path}" in ran.err
    seen = Seen(path.read_text(encoding="utf-8"))
    for expected in (ran.value["sentence"], ran.value["threshold"], "Search, milliseconds", "Scores", "Queries that lost most"):
        assert expected in seen.text
    assert len(seen.named("h3")) == 10
    assert len(seen.named("img")) == 1
    ran = run("gate", "docs", "v2", "--html", str(place.folder / "none" / "gate.html"))
    assert ran.code == 1
    assert "The page cannot be written to" in ran.err
    assert "Name another file with --html." in ran.err


def test_a_synthetic_set_and_what_a_verdict_on_it_says(place: Place, run: Run) -> None:
    rows = [{"id": n, "text": f"{text_of(n)}\nand more of number{n}"} for n in range(60)]
    (place.folder / "long.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    run("load", "docs", str(place.folder / "long.jsonl"))
    path = place.folder / "made.jsonl"
    ran = run("holdout", "synthetic", "docs", "--out", str(path), "--queries", "40")
    assert ran.code == 0, ran
    assert ran.out.startswith("40 queries out of 40 documents.\nThe set is provisional: ")
    place.declare(holdout={"path": "made.jsonl"})
    assert run("backfill", "docs", "v1").code == 0
    ran = run("gate", "docs", "v1")
    assert ran.code == 0
    assert " on 40 queries: no other version serves" in ran.out
    assert "The held-out set is provisional: " in ran.out
    assert "note: The held-out set is provisional: " in run("holdout", "check", "docs").out
    again = run("holdout", "synthetic", "docs", "--out", str(path))
    assert again.code == 1
    assert "is not overwritten" in again.err


def test_a_set_out_of_a_log(place: Place, run: Run) -> None:
    rows = [{"query": f"number{n}", "doc_id": n, "at": f"2026-01-{n % 28 + 1:02}"} for n in range(40)]
    log, path = place.folder / "log.jsonl", place.folder / "made.jsonl"
    log.write_text("\n".join(json.dumps(row) for row in rows))
    # It asks no index, and so it takes no --config.
    ran = CliRunner().invoke(cli, ["holdout", "from-log", str(log), "--out", str(path), "--until", "2026-01-28", "--json"])
    assert ran.exit_code == 0, ran
    value = json.loads(ran.stdout)
    assert (value["queries"], value["provisional"]) == (39, False)
    assert value["notes"][1] == "1 row outside the period was left out."
    assert value["notes"][-1].startswith("What people click is what the version that served then showed them")
    place.declare(holdout={"path": "made.jsonl"})
    run("load", "docs", place.write_documents())
    assert run("backfill", "docs", "v1").code == 0
    assert "on 39 queries" in run("gate", "docs", "v1").out
