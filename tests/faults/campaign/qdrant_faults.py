"""The faults of Qdrant and of the way to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from tests.faults.campaign.faults import Fault, note_paid
from tests.faults.campaign.records import LOST
from tests.faults.campaign.scenario import Campaign, Worker
from tests.harness.qdrant.loopback import Loopback

# What one request may meet. The application's searches are POSTs, and are let through.
WRITES = "^PUT$"
POINTS = "/points"
STRANGE: list[dict[str, Any]] = [
    {"kind": "lost"},
    {"kind": "cut"},
    {"kind": "error", "status": 429, "retry_after": 1},
    {"kind": "error", "status": 503},
    {"kind": "error", "status": 503, "after": True},
    {"kind": "late", "seconds": 0.3},
]


@dataclass
class Away(Fault):
    """Qdrant is killed and started again a moment later, with what it had written."""

    server: Loopback = field(default_factory=Loopback)
    name: str = "Qdrant killed and restarted"
    states: ClassVar[tuple[str, ...]] = LOST
    # A dual-write says what failed, and goes on.
    words: ClassVar[str] = "Qdrant at"

    def act(self, campaign: Campaign, step: str, worker: Worker) -> None:
        campaign.wait(lambda: worker.begun or not worker.running, f"the beginning of {step}")
        campaign.pass_time(campaign.chosen.uniform(0.0, 0.4))
        self.server.kill()
        campaign.pass_time(campaign.chosen.uniform(0.1, 0.6))
        self.server.start()
        if step == "backfill":
            note_paid(campaign, worker)


@dataclass
class Strange(Fault):
    """A part of the writes is refused, late, cut before they are carried out, or carried out and not answered."""

    server: Loopback = field(default_factory=Loopback)
    name: str = "writes of points lost, cut, late, refused"
    states: ClassVar[tuple[str, ...]] = LOST
    words: ClassVar[str] = "Qdrant at"

    def act(self, campaign: Campaign, step: str, worker: Worker) -> None:
        for rule in STRANGE:
            seed = campaign.chosen.randrange(2**31)
            self.server.fail(**rule, method=WRITES, path=POINTS, share=0.04, seed=seed, times=4)
        campaign.wait(lambda: not worker.running, f"the end of {step}")
        self.server.clear()
