"""The demo's picture: every line is there, and its title says what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from embed_pipeline.demo import picture
from embed_pipeline.demo.picture import Round
from embed_pipeline.demo.trap import TrapPoint

TRAP = [TrapPoint(0.0, 0.69, 0.25, 0.69), TrapPoint(0.5, 0.36, 0.40, 0.72), TrapPoint(1.0, 0.26, 0.78, 0.79)]
ROUNDS = [Round(1.0, 0.69, ("v1",)), Round(2.0, 0.68, ("v1", "v2")), Round(3.0, 0.78, ("v2",))]


def test_in_place_and_ours_stand_in_one_panel_by_the_share_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    lines = picture._draw_lines
    monkeypatch.setattr(picture, "_draw_lines", lambda axes, trap: (drawn.append(axes), lines(axes, trap)))
    picture.draw(TRAP, ROUNDS, 1_203, tmp_path / "recall.png")
    (axes,) = drawn
    shown = {str(line.get_label()).split(":")[-1].strip(): list(zip(*line.get_data(), strict=True)) for line in axes.lines}
    assert shown == {
        "v1's answers in v2's order (refine)": [(0, 0.69), (50, 0.72), (100, 0.79)],
        "v1 answers until the cutover, then v2": [(0, 0.69), (50, 0.69), (100, 0.69), (100, 0.78)],
        "overwritten in place, queries by the new model": [(0, 0.25), (50, 0.40), (100, 0.78)],
        "overwritten in place, queries by the old model": [(0, 0.69), (50, 0.36), (100, 0.26)],
    }
    title = " ".join(axes.get_title(loc="left").split())
    assert title.startswith("1,203 documents")
    assert "from 0.69 to 0.78, at no time below 0.68" in title
    assert title.endswith("0.26.")
    assert (tmp_path / "recall.png").read_bytes().startswith(b"\x89PNG")
