"""How many rows a statement may read: what it took the last time decides."""

from __future__ import annotations

import pytest

from embed_pipeline.documents import slices
from embed_pipeline.documents.slices import LEAST, LONGEST_SECONDS, TARGET_SECONDS, SliceSize
from tests.harness.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock.of(slices, monkeypatch)


def took(size: SliceSize, clock: Clock, seconds: float) -> int:
    with size.timed():
        clock.now += seconds
    return size.rows


def test_a_statement_that_took_too_long_counts_at_once(clock: Clock) -> None:
    size = SliceSize(500)
    assert took(size, clock, TARGET_SECONDS) == 500
    assert took(size, clock, 10 * LONGEST_SECONDS) == 250
    assert took(size, clock, 10 * LONGEST_SECONDS) == 125


def test_one_that_a_busy_machine_held_up_counts_little(clock: Clock) -> None:
    size = SliceSize(500)
    took(size, clock, TARGET_SECONDS)
    assert took(size, clock, 2 * TARGET_SECONDS) == pytest.approx(450, abs=1)
    assert took(size, clock, 450 / 500 * TARGET_SECONDS) == pytest.approx(500, abs=2)


def test_it_goes_up_gently(clock: Clock) -> None:
    assert took(SliceSize(500), clock, TARGET_SECONDS / 100) == 2_000


def test_it_settles_at_what_it_aims_for(clock: Clock) -> None:
    """A row that takes 0.05 ms, whatever it begins with: below what an application may have to wait."""
    for first in (64, 500, 20_000):
        size = SliceSize(first)
        for _ in range(20):
            took(size, clock, size.rows * 5e-5)
        assert size.rows * 5e-5 == pytest.approx(TARGET_SECONDS, rel=0.05)
    assert TARGET_SECONDS < LONGEST_SECONDS


def test_it_has_a_least_and_a_most(clock: Clock) -> None:
    size = SliceSize(500, most=600)
    assert took(size, clock, 0.0) == 600
    for _ in range(20):
        took(size, clock, 1000.0)
    assert size.rows == LEAST, "a slice of nothing would never end"


def test_what_fails_teaches_nothing(clock: Clock) -> None:
    size = SliceSize(500)

    def fail() -> None:
        with size.timed():
            clock.now += 100
            raise ValueError("no answer")

    with pytest.raises(ValueError, match="no answer"):
        fail()
    assert size.rows == 500
