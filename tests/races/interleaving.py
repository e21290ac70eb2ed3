"""Every order in which a few actors can take their steps, one at a time, against a real PostgreSQL.

An actor is a piece of code in a thread of its own. It runs only when it is given the turn, and gives it back at its next point: a
writer after each statement, a worker at each named moment (`embed_pipeline.signals`). An actor that waits for a lock in the database
keeps its turn open; the others go on, and it goes on when the lock is free. So one order of turns gives one interleaving, again and
again, and a failure is replayed by its trace.

All orders with at most so many preemptions are tried, where a preemption takes the turn from an actor that could have gone on: most
races need one or two (Musuvathi and Qadeer, "Iterative context bounding for systematic testing of multithreaded programs", PLDI 2007).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import psycopg

from embed_pipeline import signals

Point = Callable[[str], None]
Body = Callable[[Point], None]

# A worker that looks again and again for somebody else's progress comes here: it is passed over until another one has moved.
WAITING = ("drain.waiting", "outage.waiting")
MOMENTS = (
    *WAITING,
    "inbox.distributing",
    "inbox.announced",
    "inbox.known",
    "dual_write.claimed",
    "dual_write.read",
    "dual_write.embedded",
    "settle.locked",
    "replace.locked",
    "replace.written",
    "store.committed",
    "reject.locked",
    "backfill.read",
    "backfill.embedded",
    "backfill.opened",
    "insert_new.held",
    "insert_new.by_rows",
    "insert_new.inserted",
    "insert_new.written",
    "backfill.closed",
    "backfill.compared",
    "register.cut",
    "register.registering",
    "cutover.marked",
    "cutover.drained",
    "cutover.covered",
)
PATIENCE_SECONDS = 60.0


@dataclass
class Actor:
    """`at` is the point where it stands; empty while it runs or waits for a lock."""

    name: str
    at: str = "start"
    finished: bool = False
    error: BaseException | None = None
    moved: int = 0
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))


@dataclass(frozen=True)
class Choice:
    """One turn: who could have had it, who had it, and who had the one before."""

    could: tuple[str, ...]
    chosen: str
    before: str | None


class Interleaving:
    """One run of the actors in one order."""

    def __init__(self, watch: psycopg.Connection, bodies: Mapping[str, Body]) -> None:
        self._watch = watch
        self._changed = threading.Condition()
        self.actors = {name: Actor(name) for name in bodies}
        self._by_thread: dict[int, Actor] = {}
        self._threads = [threading.Thread(target=self._act, args=(name, body), daemon=True) for name, body in bodies.items()]
        self.choices: list[Choice] = []

    def run(self, order: Sequence[str]) -> None:
        """Give turns in this order, and after its end to whoever had the last one, as long as that one can go on."""
        for moment in MOMENTS:
            signals.listen(moment, lambda moment=moment: self._arrive(moment))  # type: ignore[misc]
        for thread in self._threads:
            thread.start()
        self._until_all_stand()
        last: str | None = None
        stuck = 0
        while not all(actor.finished for actor in self.actors.values()):
            could = self._could_go(last)
            if not could:
                # Everybody waits for time to pass (a lock timeout, an open transaction's end).
                stuck += 1
                assert stuck < 2_000, f"nobody can go on: {self.trace}"
                for actor in self.actors.values():
                    actor.moved = 1
                self._until_all_stand(patience=0.05)
                continue
            position = len(self.choices)
            if position < len(order):
                chosen = order[position]
                assert chosen in could, f"{chosen} cannot go on after {self.trace}: the run is not the one that was recorded"
            else:
                chosen = last if last in could else could[0]
            self.choices.append(Choice(tuple(could), chosen, last))
            self._give(self.actors[chosen])
            last = chosen
            self._until_all_stand()
        signals.forget_all()

    @property
    def trace(self) -> str:
        """The order of turns, to be given to `run` again."""
        return " ".join(choice.chosen for choice in self.choices)

    def _could_go(self, last: str | None) -> list[str]:
        standing = [actor for actor in self.actors.values() if actor.at and not actor.finished]
        return [actor.name for actor in standing if actor.at not in WAITING or actor.moved]

    def _give(self, actor: Actor) -> None:
        with self._changed:
            actor.at, actor.moved = "", 0
        for other in self.actors.values():
            if other is not actor:
                other.moved += 1
        actor.turn.release()

    def _act(self, name: str, body: Body) -> None:
        actor = self.actors[name]
        self._by_thread[threading.get_ident()] = actor
        try:
            actor.turn.acquire()
            body(lambda point: self._stand(actor, point))
        except BaseException as problem:
            actor.error = problem
        with self._changed:
            actor.finished = True
            self._changed.notify_all()

    def _arrive(self, moment: str) -> None:
        actor = self._by_thread.get(threading.get_ident())
        # A backfill writes in a thread of its own pool; no other actor has threads that come to a moment.
        self._stand(actor or self.actors["backfill"], moment)

    def _stand(self, actor: Actor, point: str) -> None:
        with self._changed:
            actor.at = point
            self._changed.notify_all()
        actor.turn.acquire()

    def _until_all_stand(self, patience: float = PATIENCE_SECONDS) -> None:
        """Wait until nobody runs: everybody stands at a point, has finished, or waits for a lock of somebody who stands."""
        deadline = time.monotonic() + patience
        blocked_before = False
        while True:
            with self._changed:
                if not any(self._running()):
                    self._changed.wait_for(lambda: True, timeout=0)
                    return
                self._changed.wait_for(lambda: not any(self._running()), timeout=0.004)
                running = sum(self._running())
            if running == 0:
                return
            blocked = self._waiting_for_locks() >= running
            if blocked and blocked_before:
                return
            blocked_before = blocked
            if time.monotonic() > deadline:
                assert patience < PATIENCE_SECONDS, f"an actor runs for ever after {self.trace}"
                return

    def _running(self) -> Iterator[bool]:
        return (not actor.finished and not actor.at for actor in self.actors.values())

    def _waiting_for_locks(self) -> int:
        # Who has been given its lock and was not scheduled yet still says that it waits; nobody blocks it any more.
        row = self._watch.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
            "AND cardinality(pg_blocking_pids(pid)) > 0"
        ).fetchone()
        return int(row[0]) if row else 0


def preemptions(choices: Sequence[Choice]) -> int:
    return sum(
        choice.before is not None and choice.before in choice.could and choice.chosen != choice.before for choice in choices
    )


def explore(attempt: Callable[[Sequence[str]], Interleaving], *, bound: int, most: int, seconds: float, seed: int) -> int:
    """Try orders with at most `bound` preemptions, at most `most` of them, for at most `seconds`; returns how many.

    `attempt` runs one order from a fresh state, checks what must hold, and hands back the run. Which orders come first is drawn by
    `seed`; with `most` and `seconds` large enough all are tried, each once.
    """
    chosen = random.Random(seed)
    open_orders: list[tuple[str, ...]] = [()]
    tried = 0
    deadline = time.monotonic() + seconds
    while open_orders and tried < most and time.monotonic() < deadline:
        order = open_orders.pop(chosen.randrange(len(open_orders)))
        run = attempt(order)
        tried += 1
        for position in range(len(order), len(run.choices)):
            turn = run.choices[position]
            before = [each.chosen for each in run.choices[:position]]
            for other in turn.could:
                candidate = [*run.choices[:position], Choice(turn.could, other, turn.before)]
                if other != turn.chosen and preemptions(candidate) <= bound:
                    open_orders.append((*before, other))
    return tried
