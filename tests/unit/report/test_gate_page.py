"""The page of a gate: it is HTML that holds together, loads nothing, and takes no text of an application for markup."""

from __future__ import annotations

import base64
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from embed_pipeline.catalog.judged_queries import QueryRow
from embed_pipeline.migrate.verdicts import GateResult
from embed_pipeline.report.gate_page import page
from tests.harness.html import Seen

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
AT = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
HOSTILE = """</td><script src="https://evil.example/x.js">alert('1')</script><img src=x onerror="y"> & \x07\u202e"""
PNG = b"\x89PNG\r\n\x1a\n of a picture"


def row(query: str = "open a file", relevant: str = "doc-1") -> QueryRow:
    hits = ((relevant, -0.1), ("other", -0.25))
    return QueryRow("q1", query, "q1", {relevant: 1}, 0.0, (("other", -0.2),), 1.0, hits)


def result(**changed: object) -> GateResult:
    line = {"candidate": 0.5, "baseline": 0.75, "difference": -0.25, "lower": -0.3, "upper": -0.2}
    measures = {
        "metric": "recall@10",
        "confidence": 0.95,
        "rows": [{"metric": "recall@10", **line}],
        "slices": [
            {
                "column": "lang",
                "value": "de",
                "queries": 120,
                "confidence": 0.95,
                "loss_confidence": 0.975,
                "margin": 0.05,
                "outcome": "fail",
                **line,
            },
            {
                "column": "lang",
                "value": HOSTILE,
                "queries": 3,
                "confidence": 0.975,
                "loss_confidence": 0.975,
                "margin": None,
                "outcome": None,
                **line,
            },
        ],
        **{f"search_{at}_ms{ending}": 1.5 for at in ("p50", "p95", "p99") for ending in ("", "_baseline")},
        "scores": {
            "versions": [{"version": "v2", "right": {"count": 9, "low": -0.5, "middle": -0.25, "high": -0.125}, "wrong": None}]
        },
        "ann_recall": 0.987654,
    }
    found = GateResult("docs", "v2", "v1", "fail", "fail: it lost.", 7, measures, "", lambda: PNG, (), "A threshold of 1.")
    return replace(found, **changed)  # type: ignore[arg-type]


def test_everything_is_on_it() -> None:
    seen = Seen(page(result(), [row()], AT))
    for expected in (
        "Gate of docs v2: fail",
        "fail: it lost.",
        "v2 was compared with v1; evidence 7; page of 2026-03-01 09:30 UTC.",
        "A threshold of 1.",
        "lang de120",
        "margin 0.05: fail",
        "97.5 %",
        "-0.300 to -0.200",
        "v11.501.501.50",
        "best relevant hitv29-0.500-0.250-0.125",
        "open a file",
        "recall@10 1.000 with v1; recall@10 0.000 with v2; relevant: doc-1",
        "doc-1 ★ (-0.100)",
        "ann_recall0.9877",
    ):
        assert expected in seen.text, expected
    assert [each["class"] for each in seen.named("td") if each.get("class") == "relevant"] == ["relevant"]
    assert [each["src"] for each in seen.named("img")] == [f"data:image/png;base64,{base64.b64encode(PNG).decode()}"]
    assert "@media print" in seen.text


def test_it_loads_and_runs_nothing() -> None:
    seen = Seen(page(result(), [row()], AT))
    policy = [each["content"] for each in seen.named("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert not {tag for tag, _ in seen.tags} & {"script", "link", "iframe", "object", "base", "form", "a"}
    assert "@import" not in seen.text
    assert "url(" not in seen.text


@pytest.mark.parametrize("place", ["sentence", "version", "baseline", "threshold", "query", "document", "slice"])
def test_a_text_of_the_application_is_no_markup(place: str) -> None:
    plain = [(tag, attributes.get("class")) for tag, attributes in Seen(page(result(), [row()], AT)).tags]
    changed = {place: HOSTILE} if place in ("sentence", "version", "baseline", "threshold") else {}
    query = row(query=HOSTILE) if place == "query" else row(relevant=HOSTILE) if place == "document" else row()
    seen = Seen(page(result(**changed), [query], AT))
    assert [(tag, attributes.get("class")) for tag, attributes in seen.tags] == plain
    assert "<script src=" in seen.text, "it is shown as it is"
    if place in ("query", "document", "slice", "sentence"):
        assert "\x07" not in seen.text


def test_a_first_version_without_a_held_out_set() -> None:
    found = GateResult("docs", "v1", None, "pass", "pass: v1 is the first version.", 1, {}, "", None)
    seen = Seen(page(found, [], AT))
    assert "v1 was compared with nothing; evidence 1;" in seen.text
    assert not seen.named("img")
    assert not seen.named("table")


def test_without_a_baseline_there_is_one_answer() -> None:
    line = {"candidate": 0.5, "baseline": None, "difference": None, "lower": None, "upper": None}
    measures = {"metric": "recall@10", "confidence": 0.95, "rows": [{"metric": "recall@10", **line}]}
    alone = replace(row(), baseline=None, baseline_hits=None)
    seen = Seen(page(result(baseline=None, measures=measures), [alone], AT))
    assert "Queries that found least" in seen.text
    assert "None" not in seen.text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is on the PATH")
def test_in_a_browser(tmp_path: Path) -> None:
    """Nothing of an application's text runs, what a person should read is there, and the page prints."""
    script = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"
    written = tmp_path / "gate.html"
    written.write_text(page(result(sentence=script), [row(query=script, relevant=script)], AT), encoding="utf-8")
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}"]

    def browse(*what: str) -> str:
        command = [str(CHROMIUM), *quiet, *what, written.as_uri()]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

    seen = Seen(browse("--dump-dom"))
    assert "Gate of docs v2: fail" in seen.text
    assert "document.title = 'run'" in seen.text
    assert not seen.named("script")
    assert len(seen.named("img")) == 1
    browse(f"--print-to-pdf={tmp_path / 'gate.pdf'}")
    assert (tmp_path / "gate.pdf").read_bytes().startswith(b"%PDF")
