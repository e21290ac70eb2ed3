"""The cost curve's advice, table and picture: what a person goes by before the bill."""

from __future__ import annotations

import pytest

from embed_pipeline.adapt.curve import Curve
from embed_pipeline.catalog.curve_points import Arm, Forecast, Point, Served

OLD = Served(0.60, 0.0, 0.55, 0.65)


def point(documents: int = 100, sha: str = "a", forecast: Forecast | None = None, **arms: Served) -> Point:
    served: dict[Arm, Served] = {"keep_old": OLD, **arms}  # type: ignore[typeddict-item, dict-item]
    return Point("preview", documents, 1_000, 1, 10, 0.5, 90.0, sha, "recall@10", 200, 0.95, served, forecast or Forecast())


def curve(*points: Point) -> Curve:
    found = Curve.of("docs", "v2", "v1", 0.02, points)
    assert found is not None
    return found


def served(lower: float, upper: float, *, estimated: bool = True) -> Served:
    middle = (lower + upper) / 2
    return Served(0.6 + middle, middle, lower, upper, estimated)


@pytest.mark.parametrize(
    ("full", "begins"),
    [
        (served(0.01, 0.09), "Migrate: v2 is foretold to be better (+0.050 [+0.010, +0.090]); refine while it fills"),
        (served(0.01, 0.09, estimated=False), "Migrate: v2 is measured to be better"),
        (served(-0.01, 0.05), "Migrate only for another reason than answers: v2 is foretold to be no worse"),
        (served(-0.09, -0.01), "Keep v1: v2 is foretold to be worse"),
        (served(-0.05, 0.05), "Undecided: these queries cannot tell v2 from v1"),
    ],
)
def test_the_advice_is_one_sentence(full: Served, begins: str) -> None:
    advice = curve(point(full=full)).advice
    assert advice.startswith(begins)
    assert advice.endswith(".")


def test_the_advice_goes_by_the_newest_word_and_names_the_bridge() -> None:
    found = curve(
        point(full=served(-0.09, -0.01)), point(200, full=served(0.01, 0.09), bridge=served(-0.054, 0.005, estimated=False))
    )
    assert found.advice.startswith("Migrate: ")
    assert "the bridge is refused: -0.025 [-0.054, +0.005]" in found.advice
    assert "the bridge would pass" in curve(point(full=served(0.01, 0.09), bridge=served(-0.01, 0.03))).advice


def test_points_of_another_held_out_set_belong_to_another_curve() -> None:
    found = curve(point(sha="b", full=served(0, 0.1)), point(100), point(200, refine=served(0, 0.1)))
    assert [each.documents for each in found.points] == [100, 200]
    assert Curve.of("docs", "v2", "v1", 0.02, []) is None


def test_the_forecast_is_the_newest_that_was_made() -> None:
    made = Forecast(12.5, 3_600.0)
    assert curve(point(forecast=made), point(200)).forecast == made


def test_the_table_has_a_line_for_each_arm_and_the_picture_is_one() -> None:
    found = curve(
        point(full=served(0, 0.1), forecast=Forecast(10.0, 60.0)),
        point(500, refine=served(0.0, 0.02), bridge=served(-0.1, -0.05)),
    )
    lines = found.table().splitlines()
    assert len(lines) == 2 + 2 + 3
    assert lines[3].split("|")[4:6] == [" full ", " 0.650 foretold "]
    assert found.draw().startswith(b"\x89PNG")
