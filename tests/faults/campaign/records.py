"""What the processes of the load write down: one JSON line for each transaction and each query, also for those that failed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg

Record = dict[str, Any]


class Log:
    """A file of records, one process each. A line is whole or absent: it is flushed as it is written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, **record: Any) -> None:
        self._file.write(json.dumps(record) + "\n")

    @contextmanager
    def timed(self, kind: str) -> Iterator[Record]:
        """Record what happens in the block: `start` (monotonic) and `at` (wall clock), `seconds`, and of an error the SQLSTATE.

        An error of the database or of the package ends the block, not the process: the judge of the campaign decides what it means.
        What the block puts into the yielded record is written too.
        """
        record: Record = {"kind": kind, "at": time.time(), "start": time.monotonic()}
        try:
            yield record
        except Exception as problem:
            record |= describe(problem)
        record["seconds"] = time.monotonic() - record["start"]
        self.write(**record)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


def describe(problem: BaseException) -> Record:
    """An error as a record: its class, its SQLSTATE (None where the server said none), its text."""
    state = problem.sqlstate if isinstance(problem, psycopg.Error) else None
    return {"error": type(problem).__name__, "state": state, "text": str(problem)[:500]}


def read(paths: Iterable[Path]) -> list[Record]:
    """The records of several files, by the time they started."""
    records = [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    return sorted(records, key=lambda record: record.get("start", 0.0))


# What becomes of a statement whose connection goes. An error of the client itself has no SQLSTATE, but one of these names.
LOST = ("57P01", "57P02", "57P03", "08", "lost")
LOST_NAMES = ("OperationalError", "DatabaseUnavailable", "PoolTimeout", "InterfaceError", "PoolClosed", "StoreUnavailable")


def excused(record: Record, states: tuple[str, ...]) -> bool:
    """Whether an error is what a fault does to a statement, and whoever reads it is told so in a sentence."""
    if "error" not in record or not record.get("sentence", True):
        return False
    state = record.get("state")
    if state is None:
        return "lost" in states and record["error"] in LOST_NAMES
    return str(state).startswith(states) if states else False


def named_version_refused(record: Record) -> bool:
    """A reader named a version that is not registered yet, or retired: it is told so."""
    return record.get("asked") is not None and record.get("error") == "CatalogError"
