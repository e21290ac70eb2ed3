"""Sizes, times and columns as people read them."""

from __future__ import annotations

import pytest

from embed_pipeline.cli import progress, render
from embed_pipeline.migrate.backfill import Progress


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "40 ms"),
        (2.46, "2.5 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (86_400 * 3 + 3600 * 4, "3 d 4 h"),
    ],
)
def test_duration(seconds: float, words: str) -> None:
    assert render.duration(seconds) == words


@pytest.mark.parametrize(("count", "words"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 kB"), (3 * 2**40, "3.0 TB")])
def test_size(count: int, words: str) -> None:
    assert render.size(count) == words


def test_table_aligns_numbers_to_the_right_and_words_to_the_left() -> None:
    rows = [["a", "5", "2024-01-01 10:00"], ["long", "12 MB", "2024-01-02"]]
    assert render.table(["name", "size", "at"], rows) == [
        "name   size  at",
        "a         5  2024-01-01 10:00",
        "long  12 MB  2024-01-02",
    ]


def test_a_wait_is_told_at_once_and_ordinary_progress_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown("docs.v1") as tell:
        tell(1, 10, "5.0 documents/s")
        tell(2, 10, "waiting: paused by ada")
        tell(2, 10, "waiting: paused by ada")
        tell(3, 10, "5.0 documents/s")
    assert capsys.readouterr().err == "docs.v1: 2 of 10, waiting: paused by ada\ndocs.v1: 3 of 10, 5.0 documents/s\n"


def test_a_partition_says_what_was_left_out() -> None:
    filling = Progress("00", 10, written=4, rejected=1, truncated=2)
    assert progress.partition_words(filling).endswith("documents/s, 1 rejected, 2 truncated")
