"""What the index must find, while documents come and go between two questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.evaluate.measured import Measured, Searches, measure
from embed_pipeline.stores.protocol import Hit

QUERIES = {f"q{each}": np.asarray([each, 1.0], dtype=np.float32) for each in range(3)}
DEPTH = 4

World = dict[str, float]
"""Documents by their distance, the same for every query."""


def nearest(world: World) -> list[Hit]:
    return [Hit(doc_id, 0, distance) for doc_id, distance in sorted(world.items(), key=lambda each: each[1])[:DEPTH]]


class Scene:
    """Two ways to ask, each of which is shown another world at each question."""

    def __init__(self, exact: Callable[[int], World], ann: Callable[[int], World]) -> None:
        self.of_exact, self.of_ann = exact, ann
        self.exactly: list[int] = []
        self.by_index = 0
        self.counted = 0

    def ann(self, _: Vectors) -> Sequence[Hit]:
        self.by_index += 1
        return nearest(self.of_ann((self.by_index - 1) // len(QUERIES)))

    def exact(self, vectors: Vectors) -> Sequence[Sequence[Hit]]:
        self.exactly.append(len(vectors))
        return [nearest(self.of_exact(len(self.exactly) - 1)) for _ in vectors]

    def count(self, searches: int) -> None:
        self.counted += searches

    def measure(self) -> Measured:
        return measure("v2", QUERIES, Searches(self.ann, self.exact, self.count), DEPTH)


STILL: World = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4, "e": 0.5}


def without(world: World, *gone: str) -> World:
    return {doc_id: distance for doc_id, distance in world.items() if doc_id not in gone}


def test_an_index_that_finds_everything_is_asked_once() -> None:
    scene = Scene(lambda _: STILL, lambda _: STILL)
    assert scene.measure().ann_recall(DEPTH) == 1.0
    assert (scene.exactly, scene.by_index, scene.counted) == ([3], 3, 6)


def test_what_the_index_misses_is_missing() -> None:
    """Nothing has moved, so one more exact answer settles it."""
    scene = Scene(lambda _: STILL, lambda _: without(STILL, "c"))
    assert scene.measure().ann_recall(DEPTH) == pytest.approx(3 / 4)
    assert (scene.exactly, scene.by_index) == ([3, 3], 3)


def test_what_the_index_misses_beside_changes_is_missing() -> None:
    """A document that moves with every look excuses itself and no other one."""

    def world(look: int) -> World:
        return {**STILL, "b": 0.2 + 0.01 * look}

    scene = Scene(world, lambda look: without(world(look), "c"))
    assert scene.measure().ann_recall(DEPTH) == pytest.approx(2 / 3)
    assert scene.exactly == [3, 3, 3]


@pytest.mark.parametrize(
    ("exact", "ann"),
    [
        pytest.param(lambda look: STILL if look == 0 else without(STILL, "c"), lambda _: without(STILL, "c"), id="gone"),
        pytest.param(lambda look: {**STILL, "c": 0.3 if look == 0 else 0.9}, lambda _: {**STILL, "c": 0.9}, id="another text"),
        pytest.param(
            lambda look: {**STILL, "b": 0.2 + 0.01 * look},
            lambda look: without(STILL, "c") if look == 0 else STILL,
            id="away for a moment",
        ),
    ],
)
def test_what_moved_was_not_missed(exact: Callable[[int], World], ann: Callable[[int], World]) -> None:
    assert Scene(exact, ann).measure().ann_recall(DEPTH) == 1.0


def test_the_answer_that_is_judged_is_the_first_one() -> None:
    measured = Scene(
        lambda look: {**STILL, "b": 0.2 + 0.1 * look}, lambda look: without(STILL, "c") if look == 0 else STILL
    ).measure()
    assert [doc_id for doc_id, _ in measured.ann["q0"]] == ["a", "b", "d", "e"]
    assert [doc_id for doc_id, _ in measured.exact["q0"]] == ["a", "b", "c", "d"]


def test_asking_comes_to_an_end() -> None:
    """Where all moves all the time there is nothing that the index must find, and at some time nobody asks any more."""
    scene = Scene(
        lambda look: {doc_id: 0.9 - distance - 0.01 * look for doc_id, distance in STILL.items()}, lambda _: without(STILL, "c")
    )
    assert scene.measure().ann_recall(DEPTH) == 0.0
    assert scene.exactly == [3, 3]


def test_each_query_has_the_time_of_its_first_search() -> None:
    """Those that are asked again are not counted twice: they are the ones that were unlucky."""
    scene = Scene(lambda look: without(STILL, "c") if look else STILL, lambda _: without(STILL, "b"))
    found = scene.measure()
    assert scene.by_index > len(QUERIES)
    assert len(found.ann_ms) == len(QUERIES)
    assert all(taken > 0 for taken in found.ann_ms)
