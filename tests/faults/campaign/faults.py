"""The faults: what is done to the workers, the server and the model at every step of a migration."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from embed_pipeline.postgres import embedded
from tests.faults.campaign import models
from tests.faults.campaign.declared import faults_file
from tests.faults.campaign.records import LOST
from tests.faults.campaign.scenario import Campaign, Worker
from tests.faults.campaign.workers import LEASE_SECONDS, Strike

# Where a worker of a step can be struck exactly. Other steps, and every second strike, are struck after a random time.
MOMENTS = {
    "register": ["register.cut", "register.registering"],
    "backfill": [
        "backfill.opened",
        "backfill.read",
        "backfill.embedded",
        "store.copying",
        "insert_new.held",
        "insert_new.written",
        "store.committed",
        "backfill.closed",
        "compare.slice",
        "backfill.compared",
    ],
    "sync": [
        "inbox.distributing",
        "inbox.announced",
        "dual_write.claimed",
        "dual_write.read",
        "dual_write.embedded",
        "settle.locked",
        "replace.locked",
        "replace.written",
        "store.committed",
    ],
    "ann_index": ["hnsw.building"],
    "cutover": ["cutover.marked", "cutover.drained", "cutover.covered", "cutover.half_moved", "cutover.flipped"],
    "rollback": ["cutover.marked", "cutover.drained", "cutover.covered", "cutover.half_moved", "cutover.flipped"],
    "retire": ["retire.detached"],
}
# Another route is a cutover like any other.
MOMENTS |= {"cutover_direct": MOMENTS["cutover"], "cutover_refine": MOMENTS["cutover"]}
# The same where vectors are points.
POINTS = {
    "backfill": ["backfill.read", "backfill.embedded", "points.read", "points.decided", "qdrant.inserted", "store.committed"],
    "sync": [
        "dual_write.claimed",
        "dual_write.embedded",
        "points.read",
        "points.decided",
        "qdrant.written",
        "reject.emptied",
        "store.committed",
    ],
    "cutover": [*MOMENTS["cutover"], "qdrant.seen"],
    "rollback": [*MOMENTS["rollback"], "qdrant.seen"],
}
# About as long as a step takes with the documents of a campaign: a random strike falls anywhere into it.
STEP_LASTS = {"backfill": 0.8, "register": 0.4, "ann_index": 0.4, "gate": 0.5, "cutover": 0.5, "rollback": 0.5, "retire": 0.4}


@dataclass
class Fault:
    """No fault: what every other one is compared with.

    `states` and `words`: what it does to workers and is no defect (`Campaign`). `counts_itself`: it may miss, and counts what it hit.
    """

    name: str = "none"
    counts_itself: ClassVar[bool] = False
    states: ClassVar[tuple[str, ...]] = ()
    words: ClassVar[str] = ""

    def arm(self, campaign: Campaign, step: str) -> Strike | None:
        """A strike that the step's worker carries out itself, at a moment of the code."""
        return None

    def act(self, campaign: Campaign, step: str, worker: Worker) -> None:
        """What is done from outside while the step's worker runs."""

    def judge(self, campaign: Campaign, step: str, version: str, outcome: dict[str, Any] | None) -> None:
        """What this fault has to say about how the worker ended."""


def migrate(campaign: Campaign, fault: Fault, *, until: int | None = None) -> None:
    """One migration, v1 to v2: forward, back, forward again, v1 retired; the fault strikes at every step.

    `until`: the first so many steps only. It ends when something is known to be wrong.
    """
    campaign.versions = ["v1", "v2"]
    for step, version in STEPS[:until]:
        struck(campaign, fault, step, version)
        campaign.pass_time(BETWEEN)
        if campaign.disturbed():
            return


# The load goes on for a moment between two steps.
BETWEEN = 0.1

STEPS = [
    ("register", "v2"),
    ("backfill", "v2"),
    ("ann_index", "v2"),
    ("gate", "v2"),
    ("cutover", "v2"),
    ("rollback", "v1"),
    ("cutover", "v2"),
    ("retire", "v1"),
]


def struck(campaign: Campaign, fault: Fault, step: str, version: str) -> None:
    """Strike a step once while it runs, and then see it done."""
    if not fault.counts_itself:
        campaign.count_strike(fault.name, step)
    worker = campaign.start(step, version, fault.arm(campaign, step))
    fault.act(campaign, step, worker)
    outcome = campaign.finish(worker)
    if outcome is None and step == "backfill":
        note_paid(campaign, worker)
    fault.judge(campaign, step, version, outcome)
    campaign.complete(step, version)


def note_paid(campaign: Campaign, worker: Worker) -> None:
    """From here on no text that is stored now may be paid for again by a backfill."""
    with campaign.connect() as conn:
        campaign.paid_for(worker.task.version).note_kill(conn, worker.task.version, worker.pid, alive=worker.running)


def a_strike(campaign: Campaign, step: str, kind: signal.Signals | Literal["cut"]) -> Strike | None:
    moments = MOMENTS | (POINTS if campaign.store["kind"] == "qdrant" else {})
    if step not in moments or campaign.chosen.random() < 0.4:
        return None
    nth = campaign.chosen.randint(1, 6) if step in ("backfill", "sync") else 1
    return Strike(campaign.chosen.choice(moments[step]), kind, nth)


def somewhere(campaign: Campaign, step: str, worker: Worker) -> None:
    """Wait until the worker has begun, and then for a random part of what a step lasts."""
    campaign.wait(lambda: worker.begun or not worker.running, f"the start of {step}")
    until = time.monotonic() + campaign.chosen.uniform(0, STEP_LASTS.get(step, 0.3))
    campaign.wait(lambda: time.monotonic() > until or not worker.running, "a part of a second")


@dataclass
class Kill(Fault):
    """SIGKILL of the step's worker, and of a dual-write worker beside it."""

    name: str = "kill -9"

    def arm(self, campaign: Campaign, step: str) -> Strike | None:
        campaign.strike_sync = lambda: a_strike(campaign, "sync", signal.SIGKILL)
        return a_strike(campaign, step, signal.SIGKILL)

    def act(self, campaign: Campaign, step: str, worker: Worker) -> None:
        campaign.a_sync().kill()
        if worker.task.strike is None:
            somewhere(campaign, step, worker)
            worker.process.kill()


@dataclass
class KillChunked(Kill):
    """The same for a version that splits its texts: documents grow and shrink while their writers die."""

    name: str = "kill -9, chunked"


@dataclass
class Freeze(Fault):
    """SIGSTOP of the step's worker or of a dual-write worker, past every lease, then SIGCONT."""

    name: str = "SIGSTOP past the lease"
    # Its transaction was ended meanwhile: it goes on over another connection, or says so.
    states: ClassVar[tuple[str, ...]] = ("25P03", "57014", "lost")
    words: ClassVar[str] = "statement timeout|idle-in-transaction timeout"

    def arm(self, campaign: Campaign, step: str) -> Strike | None:
        return a_strike(campaign, step, signal.SIGSTOP)

    def act(self, campaign: Campaign, step: str, worker: Worker) -> None:
        if worker.task.strike is None:
            somewhere(campaign, step, worker)
            self._stop(worker)
        campaign.wait(lambda: stopped(worker) or not worker.running, f"the stop of {step}")
        # Only now: one that is stopped in its transaction holds a lock that the step may be waiting for.
        zombies = [worker, campaign.a_sync()]
        self._stop(zombies[1])
        campaign.pass_time(LEASE_SECONDS + 0.8)
        for zombie in zombies:
            if zombie.running:
                os.kill(zombie.pid, signal.SIGCONT)

    def _stop(self, worker: Worker) -> None:
        if worker.running:
            os.kill(worker.pid, signal.SIGSTOP)


@dataclass
class Pressure(Freeze):
    """No strike from outside: every worker is held up at moments of the code, some for longer than their lease."""

    name: str = "held up at moments of the code"

    def arm(self, campaign: Campaign, step: str) -> Strike | None:
        campaign.pressed = True
        return None

    def act(self, campaign: Campaign, step: str, worker: Worker) -> None:
        campaign.finish(campaign.start("backfill" if step == "backfill" else step, worker.task.version))


def stopped(worker: Worker) -> bool:
    """Whether the process is stopped, as /proc says."""
    try:
        return Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (FileNotFoundError, ProcessLookupError):
        # Linux says the second of a process that ends between the opening and the reading.
        return False


@dataclass
class Twins(Fault):
    """The same step twice at once."""

    name: str = "two at once"

    def act(self, campaign: Campaign, step: str, worker: Worker) -> None:
        version = worker.task.version
        twins = [campaign.start(step, version)]
        if step == "backfill":
            campaign.paid_for(version).at_once = True
            twins += [campaign.start(step, version, argument=key) for key in ("00", "00")]
        for twin in twins:
            campaign.finish(twin)


@dataclass
class BadModel(Fault):
    """The provider is slow, down, fails for some, or answers wrongly, for a while in every step."""

    name: str = "bad model"
    words: ClassVar[str] = "."
    kinds: list[str] = field(default_factory=lambda: [kind for kind in models.FAULTS if kind != "reordered"])

    def arm(self, campaign: Campaign, step: str) -> Strike | None:
        self._kind = campaign.chosen.choice(self.kinds)
        faults_file(campaign.place).write_text(self._kind)
        campaign.count_strike(f"{self.name}: {self._kind}", step)
        return None

    def act(self, campaign: Campaign, step: str, worker: Worker) -> None:
        somewhere(campaign, step, worker)
        campaign.pass_time(0.3)
        faults_file(campaign.place).unlink(missing_ok=True)


@dataclass
class Restart(Fault):
    """PostgreSQL dies at once (immediate shutdown) and is started again."""

    name: str = "server restarted"
    states: ClassVar[tuple[str, ...]] = LOST
    words: ClassVar[str] = "."
    home: Path = field(default_factory=Path)
    settings: dict[str, str] = field(default_factory=dict)

    def act(self, campaign: Campaign, step: str, worker: Worker) -> None:
        somewhere(campaign, step, worker)
        restart(self.home, self.settings)


def restart(home: Path, settings: dict[str, str]) -> None:
    """Immediate shutdown, and start with crash recovery."""
    data = embedded.status(home).data_dir
    os.kill(int((data / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
    deadline = time.monotonic() + 30
    while (data / "postmaster.pid").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    embedded.ensure_running(home, settings=settings)
