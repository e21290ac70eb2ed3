"""Named points in the code where a test can pause or fail the process. In production each costs a look-up in an empty dictionary.

Race tests wait for a moment and act in it, instead of sleeping and hoping.
"""

from __future__ import annotations

from collections.abc import Callable

_listeners: dict[str, Callable[[], None]] = {}


def signal(moment: str) -> None:
    """Say that `moment` is reached; whoever listens runs now, in this thread."""
    listener = _listeners.get(moment)
    if listener is not None:
        listener()


def listen(moment: str, action: Callable[[], None]) -> None:
    """Run `action` at every `moment` until `forget_all`. For tests."""
    _listeners[moment] = action


def forget_all() -> None:
    """Remove every listener."""
    _listeners.clear()
