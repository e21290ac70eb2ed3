"""The faults of the way to the server and of the server's limits: cut connections, lost answers, statement timeouts, a full disk."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

from psycopg import sql

from tests.faults.campaign.faults import Fault, a_strike, note_paid, somewhere
from tests.faults.campaign.records import LOST
from tests.faults.campaign.scenario import Campaign, Worker
from tests.faults.campaign.workers import Strike, cut
from tests.harness.postgres.proxy import Fate
from tests.harness.postgres.small_disk import Room

# What the transaction said whose COMMIT decides a step. Else the answer of any COMMIT of the step is lost.
DECISIVE = {
    "register": [b"INSERT INTO embed_pipeline.index_versions"],
    "backfill": [b"COPY"],
    "gate": [b"INSERT INTO embed_pipeline.gate_evidence"],
    "cutover": [b"UPDATE embed_pipeline.serving_pointer"],
    "rollback": [b"UPDATE embed_pipeline.serving_pointer"],
    "retire": [b"CREATE OR REPLACE VIEW embed_pipeline.provenance", b"DROP TABLE IF EXISTS"],
}
# These go on over another connection; the others may end with a sentence.
OUTLIVE = ("backfill", "ann_index")
# These cannot do without room; the others write vectors only if the dual-write left them some.
NEED_ROOM = ("register", "backfill", "ann_index")
# Time for a worker that works on while something is short.
A_WHILE = 0.3
TIME_TO_LOOK = 2.0


@dataclass
class Cut(Fault):
    """Every session of the step's worker is ended, and of a dual-write worker beside it. Both kinds of work go on."""

    name: str = "connections cut"
    states: ClassVar[tuple[str, ...]] = LOST

    def arm(self, campaign: Campaign, step: str) -> Strike | None:
        campaign.strike_sync = lambda: a_strike(campaign, "sync", "cut")
        return a_strike(campaign, step, "cut")

    def act(self, campaign: Campaign, step: str, worker: Worker) -> None:
        if worker.task.strike is None:
            somewhere(campaign, step, worker)
            cut(campaign.load.url, worker.task.name)
        cut(campaign.load.url, campaign.a_sync().task.name)
        if step == "backfill":
            note_paid(campaign, worker)

    def judge(self, campaign: Campaign, step: str, version: str, outcome: dict[str, Any] | None) -> None:
        if step in OUTLIVE and outcome is not None and "result" not in outcome:
            campaign.problems.append(f"{step} {version} ended by a cut connection: {outcome['error']}: {outcome['text']}")


@dataclass
class LostAnswer(Fault):
    """The answer of a COMMIT does not arrive, or the COMMIT itself, or it arrives when nobody waits for it any more."""

    name: str = "answer of a COMMIT lost"
    fates: list[Fate] = field(default_factory=lambda: list(get_args(Fate)))
    counts_itself: ClassVar[bool] = True
    states: ClassVar[tuple[str, ...]] = LOST

    def act(self, campaign: Campaign, step: str, worker: Worker) -> None:
        sync = campaign.a_sync()
        assert worker.proxy is not None
        assert sync.proxy is not None
        # In turn, so that each fate meets one of the three moves of the pointer.
        fate = self.fates.pop(0)
        self.fates.append(fate)
        decisive = DECISIVE.get(step, [])
        if decisive and (step != "backfill" or campaign.chosen.random() < 0.7):
            worker.proxy.arm(fate, campaign.chosen.choice(decisive), campaign.chosen.randint(1, 3) if step == "backfill" else 1)
        else:
            worker.proxy.arm(fate, b"", campaign.chosen.randint(1, 8 if step == "backfill" else 2))
        sync.proxy.arm(campaign.chosen.choice(get_args(Fate)), b"", campaign.chosen.randint(1, 12))
        struck = worker.proxy.struck
        campaign.wait(lambda: struck.is_set() or not worker.running, f"a COMMIT of {step}")
        if struck.is_set():
            campaign.count_strike(f"{self.name}: {fate}", step)
            if step == "backfill":
                note_paid(campaign, worker)
        if fate == "delay" and step in ("cutover", "rollback"):
            # Whoever looks before the COMMIT has arrived must wait for it. Given time to look, however slow the machine is.
            until = time.monotonic() + TIME_TO_LOOK
            campaign.wait(lambda: not worker.running or time.monotonic() > until, "a look at the pointer")
        else:
            campaign.pass_time(campaign.chosen.uniform(0, A_WHILE))
        worker.proxy.release()
        sync.proxy.release()
        if sync.proxy.struck.is_set():
            campaign.count_strike(f"{self.name}, of a dual-write", step)

    def judge(self, campaign: Campaign, step: str, version: str, outcome: dict[str, Any] | None) -> None:
        text = "" if outcome is None else str(outcome.get("text"))
        if step in OUTLIVE and "error" in (outcome or {}):
            campaign.problems.append(f"{step} {version} ended by a lost answer: {text}")
        if "nothing was moved" in text and campaign.done(step, version):
            campaign.problems.append(f"{step} {version} said that nothing was moved, and it was")


@dataclass
class Hurried(Fault):
    """The database ends every statement of ours after some milliseconds, for a while in every step."""

    name: str = "statement timeout"
    states: ClassVar[tuple[str, ...]] = ("57014",)
    words: ClassVar[str] = "statement timeout"

    def arm(self, campaign: Campaign, step: str) -> Strike | None:
        milliseconds = round(40 ** campaign.chosen.random())
        _alter(campaign, sql.SQL("SET statement_timeout = {}").format(sql.Literal(f"{milliseconds}ms")))
        # A session has the timeout that it began with: the workers begin anew.
        campaign.stop_syncs()
        return None

    def act(self, campaign: Campaign, step: str, worker: Worker) -> None:
        somewhere(campaign, step, worker)
        campaign.pass_time(A_WHILE)
        _alter(campaign, sql.SQL("RESET statement_timeout"))
        campaign.finish(worker)
        campaign.stop_syncs()


@dataclass
class FullDisk(Fault):
    """No room is left under the versions' tables, for a while in every step. `room`: leaves so many megabytes."""

    name: str = "disk full"
    states: ClassVar[tuple[str, ...]] = ("53100",)
    words: ClassVar[str] = "no disk space left"
    room: Room = field(default=lambda megabytes: None)

    def arm(self, campaign: Campaign, step: str) -> Strike | None:
        self.room(0)
        return None

    def act(self, campaign: Campaign, step: str, worker: Worker) -> None:
        if step in NEED_ROOM:
            campaign.wait(lambda: not worker.running, f"the end of {step} on a full disk")
        else:
            somewhere(campaign, step, worker)
            campaign.pass_time(A_WHILE)
        if step == "ann_index":
            self._no_remains(campaign)
        self.room(ROOM_MB)

    def _no_remains(self, campaign: Campaign) -> None:
        """An index build that had no room leaves nothing behind."""
        with campaign.connect() as conn:
            row = conn.execute(
                "SELECT count(*) FROM pg_index WHERE NOT indisvalid AND indexrelid::regclass::text LIKE '%hnsw'"
            ).fetchone()
        if row != (0,):
            campaign.problems.append("a build on a full disk left an invalid index behind")

    def judge(self, campaign: Campaign, step: str, version: str, outcome: dict[str, Any] | None) -> None:
        if outcome is not None and outcome.get("state") == "53100":
            campaign.count_strike(f"{self.name}: the step was refused", step)


# Enough for the tables of a campaign.
ROOM_MB = 16


def _alter(campaign: Campaign, change: sql.Composable) -> None:
    with campaign.connect() as conn:
        conn.execute(sql.SQL("ALTER DATABASE {} {}").format(sql.Identifier(conn.info.dbname), change))
