"""Key ranges: together they hold every key there can ever be, each once."""

from __future__ import annotations

from bisect import bisect_right

from hypothesis import given
from hypothesis import strategies as st

from embed_pipeline.documents.ranges import ranges_between
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
