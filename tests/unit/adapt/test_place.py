"""The laws of slots, for every list, every share of it that the other version has, and every two orders."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embed_pipeline.adapt.place import places

IDS = st.lists(st.text(max_size=3), unique=True, max_size=30)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@st.composite
def half_filled(draw: st.DrawFn) -> tuple[list[str], dict[str, float]]:
    """A list, and distances of some of its documents."""
    listed = draw(IDS)
    held = draw(st.lists(st.sampled_from(listed), unique=True)) if listed else []
    return listed, {doc_id: draw(NUMBERS) for doc_id in held}


def placed(listed: list[str], distances: dict[str, float]) -> list[str]:
    return [listed[place] for place in places(listed, distances)]


@given(IDS, st.dictionaries(st.text(min_size=4), NUMBERS))
def test_nothing_filled_leaves_the_list(listed: list[str], others: dict[str, float]) -> None:
    """Distances of documents that are not listed bring none in."""
    assert placed(listed, others) == listed


@given(IDS, st.data())
def test_all_filled_is_the_other_order(listed: list[str], data: st.DataObject) -> None:
    distances = {doc_id: data.draw(NUMBERS) for doc_id in listed}
    assert placed(listed, distances) == sorted(listed, key=lambda doc_id: distances[doc_id])


@given(half_filled())
def test_what_the_other_has_not_stays_where_it_is(given_: tuple[list[str], dict[str, float]]) -> None:
    listed, distances = given_
    after = placed(listed, distances)
    assert [doc_id for doc_id in after if doc_id in distances] == sorted(
        [doc_id for doc_id in listed if doc_id in distances], key=lambda doc_id: distances[doc_id]
    )
    assert all(
        before == now for before, now in zip(listed, after, strict=True) if before not in distances or now not in distances
    )


@given(half_filled())
def test_every_document_once(given_: tuple[list[str], dict[str, float]]) -> None:
    """So k documents are k different ones, none comes and none goes: what was filtered out or hidden is so still."""
    listed, distances = given_
    assert sorted(placed(listed, distances)) == sorted(listed)


@given(half_filled(), st.data())
def test_any_increasing_function_of_the_distances_changes_nothing(
    given_: tuple[list[str], dict[str, float]], data: st.DataObject
) -> None:
    """Only the order of the distances counts. Those of the list are not even asked for."""
    listed, distances = given_
    levels = sorted(set(distances.values()))
    steps = data.draw(
        st.lists(st.floats(min_value=0.001, max_value=1e6), min_size=len(levels), max_size=len(levels)), label="steps"
    )
    start = data.draw(st.floats(min_value=-1e6, max_value=1e6), label="start")
    other = dict(zip(levels, np.cumsum([start, *steps])[1:].tolist(), strict=True))
    assert placed(listed, {doc_id: other[distance] for doc_id, distance in distances.items()}) == placed(listed, distances)


def test_equals_keep_the_order_of_the_list() -> None:
    assert placed(["a", "b", "c", "d"], {"d": 1.0, "a": 1.0, "b": 0.5}) == ["b", "a", "c", "d"]


def test_what_has_no_distance_stays() -> None:
    assert placed(["a", "b", "c"], {"a": 2.0, "b": math.nan, "c": 1.0}) == ["c", "b", "a"]
