"""The curve of ef_search: what is tried, and which value is enough."""

from __future__ import annotations

import pytest

from embed_pipeline.evaluate.ef_curve import EfCurve, EfPoint, point, values
from embed_pipeline.evaluate.latency import Latency
from embed_pipeline.evaluate.measured import Measured


def curve(recalls: dict[int, float], declared: int = 40) -> EfCurve:
    points = (EfPoint(ef, recall, Latency("v2", 100, 1.0, 2.0, 3.0)) for ef, recall in recalls.items())
    return EfCurve("v2", 10, declared, 0.95, tuple(points))


def test_what_is_tried() -> None:
    assert values(10, 100) == [10, 20, 40, 80, 100, 160, 320, 640, 1000]
    assert values(50, 20) == [50, 80, 160, 320, 640, 1000], "fewer than the hits that are asked for are never looked at"


@pytest.mark.parametrize(("recalls", "smallest"), [
    ({10: 0.7, 20: 0.95, 40: 0.99}, 20),
    ({10: 0.96, 20: 0.97}, 10),
    ({10: 0.7, 20: 0.94}, None),
    ({10: 0.96, 20: 0.94, 40: 0.99}, 40),
])  # fmt: skip
def test_the_smallest_that_is_enough_and_stays_so(recalls: dict[int, float], smallest: int | None) -> None:
    assert curve(recalls).smallest == smallest


def test_what_is_said() -> None:
    assert curve({20: 0.95, 40: 0.99}).sentence == (
        "The smallest ef_search tried that finds 0.950 of the exact top 10 in v2 is 20; 40 is declared."
    )
    assert curve({20: 0.5, 1000: 0.9}).sentence == (
        "No ef_search up to 1000 finds 0.950 of the exact top 10 in v2: build its index with a larger hnsw.m or hnsw.ef_construction."
    )
    assert curve({20: 0.95, 40: 0.99}).markdown_table().splitlines()[2:] == [
        "| 20 | 0.9500 | 1.00 | 2.00 | 3.00 |",
        "| 40 (declared) | 0.9900 | 1.00 | 2.00 | 3.00 |",
    ]


def test_a_point() -> None:
    exact = {"q": [("a", -0.1), ("b", -0.2)]}
    found = point(40, Measured("v2", {"q": [("a", -0.1), ("c", -0.9)]}, exact, exact, (5.0,)), 2)
    assert found == EfPoint(40, 0.5, Latency("v2", 1, 5.0, 5.0, 5.0))
