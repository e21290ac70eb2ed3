"""The time as one module sees it, turned by a test. The process's own clock is left alone: threads of other tests go by it, too."""

from __future__ import annotations

import time
from types import ModuleType
from typing import Any

import pytest


class Clock:
    """Stands in for the module `time` where one module of ours has imported it. Sleeping turns it on, and takes no time."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    @classmethod
    def of(cls, module: ModuleType, monkeypatch: pytest.MonkeyPatch, now: float = 0.0) -> Clock:
        """The clock that `module`, and no other, goes by until the test ends."""
        assert module.__dict__["time"] is time
        made = cls(now)
        monkeypatch.setattr(module, "time", made)
        return made

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)
