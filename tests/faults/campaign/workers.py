"""What the campaign runs as processes of its own, to be killed, stopped and woken at any instant.

A process performs one verb of the package and writes down how it ended; one that is killed writes nothing.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psycopg

import embed_pipeline
from embed_pipeline import errors, signals
from embed_pipeline.catalog import versions
from embed_pipeline.documents import inbox, queue
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import ann_index, backfill, cutover, dual_write, follow_changes, gate, model_check, retire, verify
from embed_pipeline.migrate.opening import opened
from embed_pipeline.postgres import connection, failures
from embed_pipeline.postgres.session import Line
from embed_pipeline.spec import IndexSpec
from tests.faults.campaign.records import describe
from tests.harness.fakes import append_lines

# Long enough for a batch, short enough that a test can wait for it to run out.
LEASE_SECONDS = 0.7
# The same of what a worker that watches does in seconds: look for the dead and for doubts, ask a provider again, compare again; and how often
# it moves the place from which it looks.
ROUND_SECONDS, RETRY_SECONDS, COMPARE_AGAIN_SECONDS, FLOOR_SECONDS = 0.2, 0.3, 1.0, 0.05

# The signal at which a worker writes down where each of its threads stands.
STACKS = signal.SIGUSR1

# Nobody is held for longer than a step may last.
HELD_SECONDS = 90.0

# All moments but those that come for each row of a COPY, or while nobody works.
PRESSED = (
    *("inbox.distributing", "inbox.announced", "inbox.known"),
    *("dual_write.claimed", "dual_write.read", "dual_write.embedded", "settle.locked", "reject.locked", "embed.split"),
    *("replace.locked", "replace.first", "replace.deleted", "replace.written", "store.committed"),
    *("backfill.opened", "backfill.read", "backfill.embedded", "backfill.closed", "backfill.compared", "capture.canary"),
    *("insert_new.held", "insert_new.inserted", "insert_new.written", "compare.slice"),
    *("register.cut", "register.registering", "hnsw.building", "retire.detached"),
    *("cutover.marked", "cutover.drained", "cutover.covered", "cutover.half_moved", "cutover.flipped"),
)


@dataclass(frozen=True)
class Strike:
    """At the `nth` time that a named moment of the code is reached, the process sends itself a signal, has its sessions ended, or stands
    there until it is let go (`hold`): that thread, and every other one that comes there meanwhile."""

    moment: str
    deed: signal.Signals | Literal["cut", "hold"]
    nth: int = 1


@dataclass(frozen=True)
class Task:
    """One verb on one version. `name`: the application_name of its sessions. `package`: where the library must come from, so that no
    other copy of it is tested by mistake. `pressure`: a seed for being held up at moments of the code. `lease_seconds`: of a dual-write."""

    step: str
    name: str
    declaration: str
    version: str
    outcome: Path
    package: str
    strike: Strike | None = None
    pressure: int | None = None
    frozen_ms: int = 30_000
    lease_seconds: float = LEASE_SECONDS
    argument: str = ""


def run(task: Task) -> None:
    """The target of every worker process."""
    assert embed_pipeline.__file__ == task.package, f"{embed_pipeline.__file__} is loaded instead of {task.package}"
    queue.LEASE_SECONDS = task.lease_seconds
    inbox.FLOOR_SECONDS = FLOOR_SECONDS
    follow_changes.ROUND_SECONDS = ROUND_SECONDS
    follow_changes.RETRY_SECONDS = RETRY_SECONDS
    follow_changes.COMPARE_AGAIN_SECONDS = COMPARE_AGAIN_SECONDS
    connection.FROZEN_MS = task.frozen_ms
    if task.pressure is not None:
        _press(task.pressure)
    spec = IndexSpec.model_validate_json(task.declaration)
    # Open as long as the process: the supervisor asks for it where a step does not end.
    faulthandler.register(STACKS, task.outcome.with_suffix(".stacks").open("w"))
    if task.strike is not None:
        _arm(task.strike, str(spec.database_url), task)
    outcome: dict[str, Any] = {"pid": os.getpid()}
    # Whole or not there: who looks for it reads it (`locks.py`).
    begun = task.outcome.with_suffix(".begun")
    begun.with_suffix(".beginning").write_text(str(os.getpid()))
    begun.with_suffix(".beginning").rename(begun)
    try:
        with opened(spec, register_new=task.step == "register") as index:
            outcome["result"] = STEPS[task.step](index, task)
    except Exception as problem:
        outcome |= describe(problem)
        outcome["sentence"] = not isinstance(problem, psycopg.Error) or failures.sentence(problem) is not None
        outcome["refused"] = isinstance(problem, errors.EmbedPipelineError)
    unfinished = task.outcome.with_suffix(".part")
    unfinished.write_text(json.dumps(outcome))
    unfinished.rename(task.outcome)


def cut(url: str, name: str) -> int:
    """End the sessions of one worker, as an administrator or a failing network does; returns how many there were."""
    with psycopg.connect(url, autocommit=True, application_name="cutter") as admin:
        query = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s AND datname = current_database()"
        )
        return len(admin.execute(query, (name,)).fetchall())


def _arm(strike: Strike, url: str, task: Task) -> None:
    left = strike.nth

    def reached() -> None:
        nonlocal left
        left -= 1
        if strike.deed == "hold":
            if left <= 0:
                _stand(task)
        elif left == 0 and strike.deed == "cut":
            cut(url, task.name)
        elif left == 0:
            assert strike.deed != "cut"
            # To this thread: sent to the process, another thread might take it, and this one go on for a moment.
            signal.pthread_kill(threading.get_ident(), strike.deed)

    signals.listen(strike.moment, reached)


def _stand(task: Task) -> None:
    """Say that a thread has come to its moment, and wait there until somebody says that it may go on."""
    go = task.outcome.with_suffix(".go")
    if go.exists():
        return
    append_lines(task.outcome.with_suffix(".held"), ["held"])
    deadline = time.monotonic() + HELD_SECONDS
    while not go.exists() and time.monotonic() < deadline:
        time.sleep(0.005)


def _press(seed: int) -> None:
    """At every moment of the code this process may be held for a little, or for longer than its lease: windows that are open for
    microseconds are then met often."""
    chosen = random.Random(seed)

    def hold() -> None:
        drawn = chosen.random()
        if drawn < 0.01:
            time.sleep(LEASE_SECONDS + 0.2)
        elif drawn < 0.3:
            time.sleep(chosen.uniform(0, 0.03))

    for moment in PRESSED:
        signals.listen(moment, hold)


def _register(index: OpenIndex, task: Task) -> str:
    return "registered"


def _fill(index: OpenIndex, task: Task) -> int:
    """Every unfilled partition, or the one that is named."""
    written = 0
    with index.connection() as conn:
        keys = [task.argument] if task.argument else backfill.unfilled(conn, index, task.version)
    for key in keys:
        written += backfill.fill_partition(index, task.version, key).written
    return written


def _sync(index: OpenIndex, task: Task) -> str:
    """A dual-write worker that never stops by itself; a version that fails is noted and tried again."""
    follow_changes.follow_changes(index, threading.Event(), lambda results: _note_errors(task, results))
    return "stopped"


def _sync_once(index: OpenIndex, task: Task) -> int:
    """What was there when it began is worked off, for so many seconds at most; how many documents were written, removed or set aside."""
    results = dual_write.sync(index, budget_seconds=float(task.argument))
    _note_errors(task, results)
    return sum(each.written + each.settled + each.rejected for each in results)


def _one_batch(index: OpenIndex, task: Task) -> int:
    """One batch of each version and no more, where `sync_once` would go on to what came meanwhile."""
    with Line(index) as line:
        line.repeat(dual_write.distributor(index).distribute)
        for version in line.repeat(lambda conn: versions.live_versions(conn, index.name)):
            dual_write.Work(line, index, version, dual_write.VersionSync(version.name)).batch()
    return 0


def _distribute(index: OpenIndex, task: Task) -> int:
    """What the inbox holds is handed to the versions, and nothing more."""
    with Line(index) as line:
        return line.repeat(dual_write.distributor(index).distribute)


def _note_errors(task: Task, results: list[dual_write.VersionSync]) -> None:
    append_lines(task.outcome.with_suffix(".errors"), [f"{each.version}: {each.error}" for each in results if each.error])


def _gate(index: OpenIndex, task: Task) -> str:
    """With the reason: a gate that goes on failing is a step that is never done."""
    result = gate.run(index, task.version)
    return f"{result.outcome}: {result.sentence}"


def _cutover(index: OpenIndex, task: Task) -> int:
    # Its story goes forth and back on one piece of evidence.
    return cutover.cutover(index, task.version, again=True).generation


def _cutover_refine(index: OpenIndex, task: Task) -> int:
    """Judged and moved in one step: the dual-write fills the version too, and evidence is stale by a tenth."""
    gate.run(index, task.version, route="refine")
    return cutover.cutover(index, task.version, route="refine", again=True).generation


def _rollback(index: OpenIndex, task: Task) -> int:
    return cutover.rollback(index).generation


def _retire(index: OpenIndex, task: Task) -> str:
    return retire.retire(index, task.version, task.version).version


def _ann(index: OpenIndex, task: Task) -> int:
    return ann_index.build(index, task.version).oid


def _check_model(index: OpenIndex, task: Task) -> str:
    (found,) = model_check.check(index, task.version)
    return found.outcome


def _accept_model(index: OpenIndex, task: Task) -> str:
    return model_check.accept(index, task.version, "its provider says so").outcome


def _reconcile(index: OpenIndex, task: Task) -> dict[str, int]:
    return verify.reconcile(index).queued


STEPS: dict[str, Callable[[OpenIndex, Task], Any]] = {
    "register": _register,
    "backfill": _fill,
    "sync": _sync,
    "sync_once": _sync_once,
    "one_batch": _one_batch,
    "distribute": _distribute,
    "ann_index": _ann,
    "gate": _gate,
    "cutover": _cutover,
    "cutover_direct": _cutover,
    "cutover_refine": _cutover_refine,
    "rollback": _rollback,
    "retire": _retire,
    "check_model": _check_model,
    "accept_model": _accept_model,
    "reconcile": _reconcile,
}
