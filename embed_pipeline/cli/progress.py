"""Progress on stderr: one line for the whole, drawn again on a terminal, otherwise a plain line every ten seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from embed_pipeline.cli.render import number, share
from embed_pipeline.report.ages import duration

if TYPE_CHECKING:
    from embed_pipeline.migrate.backfill import PartitionReport, Progress

# A log file wants to know that it goes on, not how each batch went.
SECONDS_BETWEEN_LINES = 10.0
# The queue is asked for at most so often, however often there is something to tell.
SECONDS_BETWEEN_QUEUES = 2.0

Tell = Callable[[int, int, str], None]
"""(done, total, what there is to say): the state of one piece of work. A total of 0 is an unknown one."""


@contextmanager
def shown(title: str) -> Iterator[Tell]:
    """Show the progress of `title` while the block runs."""
    if sys.stderr.isatty():
        with _bar(title) as tell:
            yield tell
    else:
        yield _Lines(title).tell


class Filling:
    """A backfill of many partitions as one piece of work: what is told of a partition counts for the whole."""

    def __init__(self, tell: Tell, documents: int, filled: Sequence[int], partitions: int, queue: Callable[[], int]) -> None:
        """`documents`: of the whole index; `filled`: how many each partition has that is filled already; `partitions`: of the version."""
        self._tell, self._documents, self._partitions, self._queue = tell, documents, partitions, queue
        self._filled, self._there = len(filled), sum(filled)
        self._embedded, self._rejected, self._truncated = 0, 0, 0
        self._started = time.monotonic()
        self._asked, self._queued = float("-inf"), 0

    def now(self, progress: Progress) -> None:
        """What the partition that is being filled says."""
        self._say(progress.written + progress.rejected, progress.waiting, progress.rejected, progress.truncated)

    def filled(self, report: PartitionReport) -> None:
        """A partition is filled: now it is known how many documents it has, those that were there before too."""
        self._filled += 1
        self._there += report.documents
        self._embedded += report.written + report.rejected
        self._rejected += report.rejected
        self._truncated += report.truncated
        self._say(0, "", 0, 0)

    def _say(self, embedded: int, waiting: str, rejected: int, truncated: int) -> None:
        if not waiting and time.monotonic() - self._asked >= SECONDS_BETWEEN_QUEUES:
            self._asked, self._queued = time.monotonic(), self._queue()
        done = self._there + embedded
        parts = [f"waiting: {waiting}"] if waiting else self._speed(embedded, done)
        parts += [f"part {min(self._filled + 1, self._partitions)}/{self._partitions}", f"queue {number(self._queued)}"]
        if self._rejected + rejected:
            parts.append(f"{number(self._rejected + rejected)} rejected")
        if self._truncated + truncated:
            parts.append(f"{number(self._truncated + truncated)} truncated")
        # Documents that came meanwhile are more than there were when they were counted.
        self._tell(done, max(self._documents, done), ", ".join(parts))

    def _speed(self, embedded: int, done: int) -> list[str]:
        seconds = time.monotonic() - self._started
        rate = (self._embedded + embedded) / seconds if seconds > 0 else 0.0
        left = [f"{duration(max(self._documents - done, 0) / rate)} left"] if rate > 0 else []
        return [f"{rate:,.0f}/s", *left]


class _Lines:
    """A line at once, another when the work changes what it says about waiting, and else every ten seconds."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._last = float("-inf")
        self._waiting = ""

    def tell(self, done: int, total: int, words: str) -> None:
        now = time.monotonic()
        # What is waited for, without the figures behind it, which move all the time.
        waiting = ": ".join(words.split(": ")[:2]) if words.startswith("waiting") else ""
        if now - self._last < SECONDS_BETWEEN_LINES and waiting == self._waiting:
            return
        self._last, self._waiting = now, waiting
        how_far = f"{share(done / total)}, {number(done)} of {number(total)}" if total else number(done)
        click.echo(f"{self._title}: {how_far}{f', {words}' if words else ''}", err=True)


@contextmanager
def _bar(title: str) -> Iterator[Tell]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        TextColumn("{task.fields[how_far]}", markup=False),
        TextColumn("{task.fields[words]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        # Without a total the bar goes to and fro: something is done, and nobody knows yet how much of it there is.
        task = bars.add_task(title, total=None, how_far="", words="")

        def tell(done: int, total: int, words: str) -> None:
            how_far = f"{share(done / total)} {number(done)}/{number(total)}" if total else number(done)
            bars.update(task, completed=done, total=total or None, how_far=how_far, words=words)

        yield tell
