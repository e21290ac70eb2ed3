"""Sizes, times and columns as people read them."""

from __future__ import annotations

import sys

import pytest

from embed_pipeline.cli import progress, render
from embed_pipeline.migrate.backfill import PartitionReport, Progress
from embed_pipeline.report.ages import duration
from tests.harness.clock import Clock


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
    assert duration(seconds) == words


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


def test_the_first_word_and_a_wait_are_told_at_once_and_the_rest_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown("docs.v1") as tell:
        tell(1, 10, "5/s")
        tell(2, 10, "5/s")
        tell(2, 10, "waiting: paused by ada")
        tell(2, 10, "waiting: paused by ada")
        tell(3, 10, "5/s")
    assert capsys.readouterr().err.splitlines() == [
        "docs.v1: 10 %, 1 of 10, 5/s",
        "docs.v1: 20 %, 2 of 10, waiting: paused by ada",
        "docs.v1: 30 %, 3 of 10, 5/s",
    ]


def test_a_terminal_shows_no_share_of_what_is_not_counted_yet(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with progress.shown("gate of docs.v2"):
        pass
    begun = capsys.readouterr().err
    assert "gate of docs.v2" in begun
    assert "%" not in begun
    assert "0/0" not in begun
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.shown("gate of docs.v2") as tell:
        tell(1, 3, "searches")
    assert "33.3 % 1/3 searches" in capsys.readouterr().err


def test_partitions_are_told_as_one_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock.of(progress, monkeypatch)
    told: list[tuple[int, int, str]] = []
    filling = progress.Filling(
        lambda done, total, words: told.append((done, total, words)), documents=100, filled=[20, 0], partitions=4, queue=lambda: 7
    )
    clock.sleep(10.0)
    filling.now(Progress("02", 30, written=9, rejected=1, truncated=2))
    filling.filled(PartitionReport("02", 30, 9, 1, 2, 10.0))
    filling.now(Progress("03", 50, waiting="paused by ada"))
    assert told == [
        (30, 100, "1/s, 1 min 10 s left, part 3/4, queue 7, 1 rejected, 2 truncated"),
        (50, 100, "1/s, 50 s left, part 4/4, queue 7, 1 rejected, 2 truncated"),
        (50, 100, "waiting: paused by ada, part 4/4, queue 7, 1 rejected, 2 truncated"),
    ]
