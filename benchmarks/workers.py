"""Work in processes of its own: all begin when the last one is ready, and each measures itself.

A function for a worker takes a `Start` first: what it does inside `with start.measured():` is what counts, not imports and opening.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.meter import Cost, client_cpu, peak_mb, server_cpu

# Not forked: a fork would begin with its parent's memory.
SPAWN = multiprocessing.get_context("spawn")

Work = Callable[..., Any]

STOP_SECONDS = 2.0


@dataclass(frozen=True)
class Ran:
    """What one worker measured of itself."""

    started: float
    ended: float
    cpu: float
    base_mb: float
    peak_mb: float


@dataclass(frozen=True)
class Together:
    """What several workers did at once: from the first that began to the last that ended; the larger peaks; what each returned."""

    cost: Cost
    base_mb: float
    peak_mb: float
    returned: list[Any]


class Start:
    """A worker's side: it is ready, and waits to be told to go, and later to stop."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self.ran: Ran | None = None

    @contextmanager
    def measured(self) -> Iterator[None]:
        self._pipe.send("ready")
        self._pipe.recv()
        base, cpu, started = peak_mb(), client_cpu(), time.monotonic()
        yield
        self.ran = Ran(started, time.monotonic(), client_cpu() - cpu, base, peak_mb())

    def stopped(self) -> threading.Event:
        """Set when the parent says stop, or is gone."""
        stop = threading.Event()

        def listen() -> None:
            try:
                self._pipe.recv()
            except EOFError:
                pass
            finally:
                stop.set()

        threading.Thread(target=listen, daemon=True).start()
        return stop


def _child(pipe: Connection, work: Work, arguments: tuple[Any, ...]) -> None:
    start = Start(pipe)
    returned = work(start, *arguments)
    assert start.ran is not None, "a worker measures what it does"
    pipe.send((start.ran, returned))


class Worker:
    """A parent's side: `ready`, `go`, perhaps `stop`, `result`."""

    def __init__(self, work: Work, arguments: tuple[Any, ...]) -> None:
        self._pipe, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_child, args=(theirs, work, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def ready(self) -> None:
        self._said()

    def go(self) -> None:
        self._pipe.send("go")

    def ask(self) -> None:
        """Ask it to stop by itself; `result` waits for it."""
        self._pipe.send("stop")

    def stop(self) -> None:
        """Ask it to stop, and end it when it is busy with what nobody waits for."""
        self.ask()
        self._process.join(STOP_SECONDS)
        self._process.terminate()
        self._process.join()

    def result(self) -> tuple[Ran, Any]:
        ran, returned = self._said()
        self._process.join()
        return ran, returned

    def _said(self) -> Any:
        try:
            return self._pipe.recv()
        except EOFError:
            raise SystemExit("A worker has failed; it said above why.") from None


def together(postmaster: int, work: Work, arguments: Sequence[tuple[Any, ...]]) -> Together:
    """One worker for each tuple of arguments, all at once."""
    workers = [Worker(work, each) for each in arguments]
    for worker in workers:
        worker.ready()
    before = server_cpu(postmaster)
    for worker in workers:
        worker.go()
    results = [worker.result() for worker in workers]
    server = server_cpu(postmaster) - before
    ran = [each for each, _ in results]
    seconds = max(each.ended for each in ran) - min(each.started for each in ran)
    cost = Cost(seconds, sum(each.cpu for each in ran), server)
    return Together(cost, max(each.base_mb for each in ran), max(each.peak_mb for each in ran), [each for _, each in results])


@contextmanager
def beside(work: Work, *arguments: Any) -> Iterator[Worker]:
    """A worker that goes on until the block ends."""
    worker = Worker(work, arguments)
    worker.ready()
    worker.go()
    try:
        yield worker
    finally:
        worker.stop()
