"""What a test turns is one module's time."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import pytest

from embed_pipeline.stores import patience
from tests.harness.clock import Clock

TESTS = Path(__file__).resolve().parents[1]
OF_THE_PROCESS = re.compile(r"""setattr\(\s*(time,|["'](\w+\.)*time\.)""")


def test_other_modules_go_by_the_process_s_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock.of(patience, monkeypatch)
    patience.wait(3_600.0)
    assert clock.now == 3_600.0
    assert time.monotonic is not clock.monotonic
    assert threading.Event().wait(0.001) is False


def test_no_test_turns_the_clock_of_the_whole_process() -> None:
    """The listener of a searcher that another test has left behind goes by it, and ends in an exception of that test's making."""
    found = [str(path.relative_to(TESTS)) for path in TESTS.rglob("*.py") if OF_THE_PROCESS.search(path.read_text("utf-8"))]
    assert found == []
