"""Batches follow time: they grow gently, shrink at once, and stay within their bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from embed_pipeline.index.batch_size import TARGET_SECONDS, BatchSize


def test_grows_to_the_limit_with_a_fast_embedder() -> None:
    size = BatchSize(100, 1000)
    seen = []
    for _ in range(6):
        size.took(size.size, 0.001)
        seen.append(size.size)
    assert seen == [200, 400, 800, 1000, 1000, 1000]


def test_shrinks_at_once_and_not_below_the_embedders_batch() -> None:
    size = BatchSize(10, 1000)
    for _ in range(6):
        size.took(size.size, 0.001)
    size.took(size.size, TARGET_SECONDS * 4)
    assert size.size == 640 // 4
    for _ in range(10):
        size.took(size.size, 100.0)
    assert size.size == 10


def test_a_batch_that_was_not_full_says_nothing() -> None:
    size = BatchSize(100, 1000)
    size.took(3, 0.001)
    assert size.size == 100


def test_writing_holds_the_size_down_too() -> None:
    size = BatchSize(100, 1000)
    for _ in range(4):
        size.took(size.size, 0.001)
    assert size.size == 1000
    size.wrote(1000, TARGET_SECONDS * 10)
    assert size.size == 100
    size = BatchSize(100, 1000, first=1000)
    size.wrote(1000, TARGET_SECONDS * 100)
    assert size.size == 10, "a server that is that slow gets less than the embedder's own batch"
    size.took(10, 0.001)
    assert size.size == 10, "the faster of the two does not decide"
    size.wrote(10, 0.001)
    assert size.size == 20, "gently up again"


def test_a_write_without_documents_says_nothing() -> None:
    size = BatchSize(100, 1000)
    size.wrote(0, 100.0)
    assert size.size == 100


def test_a_slow_batch_that_was_not_full_counts() -> None:
    size = BatchSize(100, 1000)
    size.wrote(50, TARGET_SECONDS * 5)
    assert size.size == 10
    size = BatchSize(100, 1000)
    for _ in range(20):
        size.wrote(size.size, 1000.0 * size.size)
    assert size.size == 1


def test_what_any_write_takes_makes_no_batch_smaller() -> None:
    """A store at the other end of a network: a second for a write, and a millisecond for each document."""
    size = BatchSize(10, 1000, first=100)
    for _ in range(30):
        size.took(size.size, 0.001)
        size.wrote(size.size, 1.0 + 0.001 * size.size)
    assert size.size > 200
    # Documents that take long themselves do.
    for _ in range(30):
        size.wrote(size.size, 1.0 + 0.1 * size.size)
    assert size.size < 20


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 100)), max_size=60))
def test_no_batch_is_larger_than_either_measured_speed_allows(measured: list[tuple[bool, float]]) -> None:
    size = BatchSize(10, 1000)
    for is_write, seconds in measured:
        before = size.size
        (size.wrote if is_write else size.took)(before, seconds)
        assert 1 <= size.size <= min(1000, max(2 * before, 10))
        if not is_write and seconds > TARGET_SECONDS:
            assert size.size <= max(before * TARGET_SECONDS / seconds, 10)
