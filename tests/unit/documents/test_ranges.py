"""Key ranges: together they hold every key there can ever be, each once."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from embed_pipeline.documents.ranges import evenly, ranges_between
from embed_pipeline.spec import partition_keys


@given(st.lists(st.integers(0, 999), unique=True, max_size=15), st.integers(1, 16), st.integers(-5, 1005))
def test_every_key_is_in_exactly_one_range(cuts: list[int], partitions: int, key: int) -> None:
    firsts = sorted(cuts)[: partitions - 1]
    ranges = ranges_between([[f"{cut:04d}"] for cut in firsts], partitions)
    assert [each.partition for each in ranges] == partition_keys(partitions)
    text = f"{max(key, 0):04d}"
    holding = [
        number
        for number, each in enumerate(ranges)
        if not each.is_empty and (each.lower is None or each.lower[0] <= text) and (each.upper is None or text < each.upper[0])
    ]
    assert holding == [bisect_right(firsts, max(key, 0))]


def test_partition_keys_sort_as_numbers() -> None:
    for count in (1, 10, 64, 100, 101, 1000):
        keys = partition_keys(count)
        assert keys == sorted(keys)
        assert len(set(keys)) == count


@given(st.integers(0, 300), st.integers(1, 40), st.integers(0, 3))
def test_keys_of_a_whole_table_are_taken_evenly(total: int, count: int, halvings: int) -> None:
    """Of a table of which every `every`-th key is known the parts are equal but for that."""
    every = 2**halvings
    kept = [[str(rank)] for rank in range(0, total, every)]
    ranks = [int(key) for (key,) in evenly(kept, every, total, count)]
    assert len(ranks) == len(set(ranks)) <= min(count, total)
    assert ranks[:1] == ([0] if total else [])
    sizes = [upper - lower for lower, upper in pairwise([*ranks, total])]
    if every == 1:
        assert len(ranks) == min(count, total)
        assert not sizes or max(sizes) - min(sizes) <= 1
    elif total >= 2 * every * count:
        assert max(sizes) - min(sizes) <= 2 * every
