"""May I write now? One pure decision over signals, with the reason; and the loop that waits for it.

The first signal is what a person says in the control row. Unknown means no.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import psycopg

from embed_pipeline.catalog import control
from embed_pipeline.catalog.control import Control
from embed_pipeline.errors import Stopped

Answer = Literal["go", "wait", "stop"]

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Signals:
    """What is known at one moment. A signal that could not be read is None."""

    control: Control | None


@dataclass(frozen=True)
class Decision:
    answer: Answer
    reason: str = ""


def decide(signals: Signals) -> Decision:
    """The first reason not to write, or go. Pure."""
    if signals.control is None:
        return Decision("wait", "the control row could not be read")
    who = f" by {signals.control.changed_by}" + (f": {signals.control.reason}" if signals.control.reason else "")
    if signals.control.state == "aborted":
        return Decision("stop", f"aborted{who}")
    if signals.control.state == "paused":
        return Decision("wait", f"paused{who}")
    return Decision("go")


def read_signals(conn: psycopg.Connection, index: str) -> Signals:
    try:
        return Signals(control=control.read(conn, index))
    except psycopg.Error:
        if conn.closed:
            raise  # Nothing will ever be read on it again: waiting for that would be waiting for ever.
        return Signals(control=None)


def wait_until_allowed(conn: psycopg.Connection, index: str, waiting: Callable[[str], None] | None = None) -> None:
    """Return when writing is allowed; tell `waiting` the reason while it is not; raise Stopped when it never will be."""
    while True:
        decision = decide(read_signals(conn, index))
        if decision.answer == "go":
            return
        if decision.answer == "stop":
            raise Stopped(
                f"Index {index!r} is {decision.reason}. What is done is kept.", next_step=f"Run: embed-pipeline resume {index}"
            )
        if waiting is not None:
            waiting(decision.reason)
        time.sleep(POLL_SECONDS)
