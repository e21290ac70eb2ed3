"""A worker process as the supervisor sees it."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from typing import Any

from tests.faults.campaign.workers import STACKS, Task
from tests.harness.postgres.proxy import Proxy

# A worker that stands still writes it at once; one that is stopped never does.
STACKS_SECONDS = 2.0


@dataclass
class Worker:
    """A running task and where it says how it ended. `proxy`: its own way to the server, where answers are lost."""

    process: ForkServerProcess
    task: Task
    proxy: Proxy | None = None

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def begun(self) -> bool:
        return self.task.outcome.with_suffix(".begun").exists()

    @property
    def running(self) -> bool:
        return self.process.is_alive()

    @property
    def held(self) -> int:
        """How many of its threads stand at the moment where it is held."""
        held = self.task.outcome.with_suffix(".held")
        return len(held.read_text().splitlines()) if held.exists() else 0

    def let_go(self) -> None:
        self.task.outcome.with_suffix(".go").touch()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def stacks(self) -> str:
        """Where each of its threads stands now; empty when it does not say so."""
        stacks = self.task.outcome.with_suffix(".stacks")
        deadline = time.monotonic() + STACKS_SECONDS
        with suppress(ProcessLookupError):
            os.kill(self.pid, STACKS)
            while time.monotonic() < deadline and not (stacks.exists() and stacks.stat().st_size):
                time.sleep(0.02)
        return stacks.read_text() if stacks.exists() else ""

    def reports(self) -> list[str]:
        """What a dual-write worker said about versions that failed."""
        errors = self.task.outcome.with_suffix(".errors")
        return errors.read_text().splitlines() if errors.exists() else []

    def outcome(self) -> dict[str, Any] | None:
        """How it ended; None when it was killed first."""
        self.process.join()
        return json.loads(self.task.outcome.read_text()) if self.task.outcome.exists() else None
