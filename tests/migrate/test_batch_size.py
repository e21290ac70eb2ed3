"""Batches follow time: they grow gently, shrink at once, and stay within their bounds."""

from __future__ import annotations

from embed_pipeline.migrate.batch_size import TARGET_SECONDS, BatchSize


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
