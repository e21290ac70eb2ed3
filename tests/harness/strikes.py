"""The seed and the length of a campaign, and at its end what was run of a slice and how often which fault struck.

Hooks for tests/conftest.py: with several workers, pytest's controller reads no conftest of a folder below.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar

Form = TypeVar("Form")

SEED = int(os.environ.get("SOAK_SEED", "20"))
# Seconds that a long scenario goes on for; it ends with the round that it is in.
SECONDS = float(os.environ.get("SOAK_SECONDS", "20"))
# A slice of the campaign: scenarios in an order that the seed draws, until so many seconds are over. 0: all of them.
SLICE_SECONDS = float(os.environ.get("SLICE_SECONDS", "0"))


def in_turn(forms: Sequence[Form]) -> list[Form]:
    """The one whose turn it is: seeds in a row take all of them."""
    return [forms[SEED % len(forms)]]


def pytest_report_header() -> str:
    return f"campaign: SOAK_SEED={SEED} SOAK_SECONDS={SECONDS:.0f} SLICE_SECONDS={SLICE_SECONDS:.0f}"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What was struck, how often: the runs that docs/faults.md counts."""
    total: Counter[str] = Counter()
    run = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    if SLICE_SECONDS:
        terminalreporter.section(f"slice of the campaign, SOAK_SEED={SEED}")
        for report in sorted(run, key=lambda report: report.start):
            terminalreporter.write_line(f"{report.duration:6.1f} s  {report.outcome}  {report.nodeid}")
    for report in run:
        for name, strikes in report.user_properties:
            if name == "strikes":
                total.update(strikes)
    if total:
        terminalreporter.section(f"strikes of the campaign, SOAK_SEED={SEED}")
        by_fault: dict[str, list[str]] = {}
        for key, count in total.items():
            fault, _, step = key.partition("\t")
            by_fault.setdefault(fault, []).append(f"{step} {count}")
        for fault, steps in by_fault.items():
            terminalreporter.write_line(f"{fault}: {', '.join(steps)}")
