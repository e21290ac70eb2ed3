"""What a struck backfill costs: nothing that was stored is asked for again, and no more was in flight than declared."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from tests.faults.campaign import held, oracle

# A document that was locked when the first backfill came may be asked for by the second one.
ASKED_TWICE = 20


@dataclass(frozen=True)
class Kill:
    """What was stored, and what the documents said, when a backfill worker had just died, or (`alive`) lost its connections."""

    pid: int
    asked: int
    stored: frozenset[str]
    current: frozenset[str]
    alive: bool = False


@dataclass
class Paid:
    """The calls of one version's model, against what was stored at every kill. `at_once`: several backfills ran at the same time."""

    calls_file: Path
    in_flight: int
    workers: set[int] = field(default_factory=set)
    kills: list[Kill] = field(default_factory=list)
    at_once: bool = False

    def note_kill(self, conn: psycopg.Connection, version: str, pid: int, *, alive: bool = False) -> None:
        stored = frozenset(digest.hex() for digest in held.hashes(conn, version).values())
        current = frozenset(_hash(text) for text in oracle.texts(conn).values())
        self.kills.append(Kill(pid, len(self._calls()), stored, current, alive))

    def problems(self, moved: set[str]) -> list[str]:
        """`moved`: texts that came to another key or lost their vector meanwhile, and so were paid for twice with good reason."""
        calls = self._calls()
        excused = {_hash(text) for text in moved}
        found = []
        for kill in self.kills:
            again = {digest for pid, digest in calls[kill.asked :] if pid in self.workers} & kill.stored - excused
            if kill.alive:
                # What it had read already it may ask for once, though a dual-write was faster.
                again &= {digest for pid, digest in calls[: kill.asked] if pid in self.workers}
            if again:
                found.append(f"{len(again)} texts that were stored when {kill.pid} was struck were asked for again")
            by_pid: dict[int, set[str]] = defaultdict(set)
            for pid, digest in calls[: kill.asked]:
                by_pid[pid].add(digest)
            lost = (by_pid[kill.pid] & kill.current) - kill.stored - excused
            if len(lost) > self.in_flight:
                found.append(f"{len(lost)} texts were in flight when {kill.pid} was struck, more than {self.in_flight}")
        if self.at_once:
            by_text: dict[str, set[int]] = defaultdict(set)
            for pid, digest in calls:
                if pid in self.workers:
                    by_text[digest].add(pid)
            twice = {digest for digest, pids in by_text.items() if len(pids) > 1} - excused
            if len(twice) > ASKED_TWICE:
                found.append(f"{len(twice)} texts were asked for by several backfills at once")
        return found

    def _calls(self) -> list[tuple[int, str]]:
        if not self.calls_file.exists():
            return []
        lines = self.calls_file.read_text(encoding="utf-8").splitlines()
        return [(pid, _hash(text)) for pid, _, text in map(json.loads, lines)]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
