"""May I write now? The pure decision: unknown means no, and the reason is always there."""

from __future__ import annotations

import pytest

from embed_pipeline.catalog.control import Control
from embed_pipeline.migrate.throttle import Decision, Signals, decide


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        (Control("running", "", "anna"), Decision("go")),
        (Control("paused", "lunch", "anna"), Decision("wait", "paused by anna: lunch")),
        (Control("paused", "", "anna"), Decision("wait", "paused by anna")),
        (Control("aborted", "wrong model", "ben"), Decision("stop", "aborted by ben: wrong model")),
        (None, Decision("wait", "the control row could not be read")),
    ],
)
def test_decision(control: Control | None, expected: Decision) -> None:
    assert decide(Signals(control)) == expected
