"""What the race tests run as a process of its own. The fault campaign has its workers in tests/faults/campaign."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from embed_pipeline import signals
from embed_pipeline.migrate import adopt, backfill, dual_write
from embed_pipeline.migrate.opening import opened
from embed_pipeline.postgres import connection
from embed_pipeline.spec import IndexSpec
from embed_pipeline.stores.qdrant import adopting


def freeze_at(declaration: str, moment: str, frozen_ms: int, frozen: Path) -> None:
    """A worker that stops itself at `moment`, in the middle of its work. Exit code 3: its connection was gone when it woke, and it went on
    over another one."""
    connection.FROZEN_MS = frozen_ms
    noticed = threading.Event()

    def freeze() -> None:
        signals.forget_all()
        # Thrown out, it takes another connection and goes on there; a registration comes to the same moment once more.
        signals.listen("outage.waiting", noticed.set)
        if moment.startswith("register"):
            signals.listen(moment, noticed.set)
        frozen.touch()
        # To this thread: sent to the process, another thread might take it, and this one go on for a moment.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

    spec = IndexSpec.model_validate_json(declaration)
    if moment.startswith("register"):
        signals.listen(moment, freeze)
        with opened(spec):
            sys.exit(3 if noticed.is_set() else 0)
    with opened(spec) as index:
        signals.listen(moment, freeze)
        if moment.startswith(("insert", "capture", "store")):
            backfill.fill_partition(index, "v1", "00")
        else:
            dual_write.sync(index)
    sys.exit(3 if noticed.is_set() else 0)


def copy_and_die(declaration: str, moment: str) -> None:
    """A backfill that copies vectors, killed when it comes to `moment` for the second time."""
    left = [2]

    def die() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with opened(IndexSpec.model_validate_json(declaration), register_new=False) as index:
        signals.listen(moment, die)
        backfill.fill_partition(index, "v1", "00")


def adopt_and_die(declaration: str, moment: str) -> None:
    """An adoption in small pages, killed when it comes to `moment` for the second time."""
    adopting.MOST_POINTS = 16
    left = [2]

    def die() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with opened(IndexSpec.model_validate_json(declaration), register_new=False) as index:
        signals.listen(moment, die)
        adopt.adopt(index)
