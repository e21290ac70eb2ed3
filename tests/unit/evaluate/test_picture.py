"""The picture of a verdict: what a person decides by is on it, and it is small enough to stand inline."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embed_pipeline.catalog.judged_queries import QueryRow
from embed_pipeline.evaluate import picture
from embed_pipeline.evaluate.picture import Picture
from embed_pipeline.evaluate.report import MetricRow
from embed_pipeline.evaluate.slices import Slice

DIFFERENCES: list[float] = np.clip(np.random.default_rng(0).normal(0.05, 0.3, 400), -1, 1).round(1).tolist()
BETTER = MetricRow("recall@10", 0.734, 0.612, 0.122, 0.085, 0.159)
OPEN = MetricRow("nDCG@10", 0.5, 0.50004, -0.00004, -0.03, 0.03)
LOST = MetricRow("RR@10", 0.4, 0.5, -0.1, -0.12, -0.08)


def lost(query: str) -> QueryRow:
    return QueryRow("q7", query, "q7", {"7": 1}, 0.0, (), 1.0, (), {})


FOUND = Picture(
    "pass: recall@10 of v2 0.734 against v1 0.612 on 400 queries: difference +0.122, one-sided 95 % lower bound +0.085, margin 0.020.",
    "recall@10",
    [OPEN, BETTER],
    0.02,
    "v2",
    "v1",
    differences=DIFFERENCES,
)
SLICES = [
    Slice("lang", "de", 120, 0.95, 0.975, 0.5, 0.5, 0.0, -0.03, 0.03, 0.05, "pass"),
    Slice("lang", "pl", 0, 0.95, 0.975, margin=0.05, outcome="undecided"),
]


def colours(png: bytes) -> set[str]:
    found: Any = Image.open(io.BytesIO(png)).convert("RGB").getcolors(maxcolors=100_000) or []
    return {f"#{r:02X}{g:02X}{b:02X}" for _, (r, g, b) in found}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every line of text that is put beside the intervals."""
    lines: list[str] = []
    inner = picture._write

    def write(figure: Any, some: list[str], *more: Any, **named: Any) -> None:
        lines.extend(some)
        inner(figure, some, *more, **named)

    monkeypatch.setattr(picture, "_write", write)
    return lines


def test_each_interval_has_the_colour_of_what_it_proves() -> None:
    """Not worse than the margin, worse than it, and neither: three colours beside the shaded side."""
    assert [each.colour for each in replace(FOUND, rows=[BETTER, OPEN, LOST])._intervals()] == ["#0072B2", "#555555", "#D55E00"]
    assert "#0072B2" in colours(FOUND.png())
    with_loss = replace(FOUND, metric="RR@10", rows=[BETTER, LOST]).png()
    assert len(with_loss) < 30_000
    # The line at the margin has it too, and is one pixel wide.
    wide = np.asarray(Image.open(io.BytesIO(with_loss)).convert("RGB")) == (0xD5, 0x5E, 0x00)
    assert wide.all(axis=2).sum(axis=1).max() > 20


def test_the_verdict_the_ties_and_what_lost_are_said(written: list[str]) -> None:
    png = replace(FOUND, slices=SLICES, worst=[lost("how $1 is\nspent"), lost("\N{CJK UNIFIED IDEOGRAPH-6587}")]).png()
    assert len(png) < 40_000
    assert written[0] == "pass: v2 against v1"
    assert written[1].startswith("recall@10 of v2 0.734 against v1 0.612")
    better, worse = sum(each > 0 for each in DIFFERENCES), sum(each < 0 for each in DIFFERENCES)
    assert f"recall@10 per query: {better} better, {400 - better - worse} equal, {worse} worse." in written
    assert [line.split("   ")[-1] for line in written[-2:]] == ["how $1 is spent", "query q7"]


def test_the_metric_that_decides_is_first_and_slices_have_margins_of_their_own() -> None:
    found = replace(FOUND, slices=SLICES)._intervals()
    assert [(each.name, each.decides) for each in found] == [
        ("recall@10", True),
        ("nDCG@10", False),
        ("lang de (120)", True),
        ("lang pl (0)", True),
    ]
    assert (found[0].lower, found[2].lower) == (pytest.approx(4.25), pytest.approx(-0.6))
    assert found[3].said == "no queries"


@pytest.mark.parametrize("floor", [None, 0.7])
def test_a_first_version(floor: float | None) -> None:
    alone = Picture("pass: it is the first.", "recall@10", [MetricRow("recall@10", 0.75)], 0.02, "v1", floor=floor).png()
    assert alone.startswith(b"\x89PNG")
    assert len(colours(alone)) > 2


def test_the_same_numbers_give_the_same_bytes() -> None:
    assert FOUND.png() == FOUND.png()
