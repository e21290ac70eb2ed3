"""The state machine of a version. The database enforces the same table (`check_version_change`); a test compares the two."""

from __future__ import annotations

from typing import Literal, get_args

State = Literal["building", "ready", "active", "standby", "retired"]

STATES: tuple[State, ...] = get_args(State)

TRANSITIONS: dict[State, tuple[State, ...]] = {
    "building": ("ready", "retired"),
    "ready": ("active", "retired"),
    "active": ("standby",),
    "standby": ("active", "retired"),
    "retired": (),
}

# Dual-writes reach these.
LIVE: tuple[State, ...] = ("building", "ready", "active", "standby")


def allows(current: State, target: State) -> bool:
    """Whether a version in `current` may go to `target`."""
    return target in TRANSITIONS[current]
