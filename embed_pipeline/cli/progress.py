"""Progress on stderr: bars on a terminal, otherwise a plain line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from embed_pipeline.cli.render import number

if TYPE_CHECKING:
    from embed_pipeline.migrate.backfill import Progress

# A log file wants to know that it goes on, not how each batch went.
SECONDS_BETWEEN_LINES = 5.0

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


def partition_words(progress: Progress) -> str:
    """What a filling partition has to say, beside how far it is."""
    if progress.waiting:
        return f"waiting: {progress.waiting}"
    parts = [f"{progress.rate:.1f} documents/s"]
    if progress.rejected:
        parts.append(f"{number(progress.rejected)} rejected")
    if progress.truncated:
        parts.append(f"{number(progress.truncated)} truncated")
    return ", ".join(parts)


class _Lines:
    """A line when the work changes what it says about waiting, and else every few seconds."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._last = time.monotonic()
        self._waiting = ""

    def tell(self, done: int, total: int, words: str) -> None:
        now = time.monotonic()
        # What is waited for, without the figures behind it, which move all the time.
        waiting = ": ".join(words.split(": ")[:2]) if words.startswith("waiting") else ""
        if now - self._last < SECONDS_BETWEEN_LINES and waiting == self._waiting:
            return
        self._last, self._waiting = now, waiting
        share = f"{number(done)} of {number(total)}" if total else number(done)
        click.echo(f"{self._title}: {share}{f', {words}' if words else ''}", err=True)


@contextmanager
def _bar(title: str) -> Iterator[Tell]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TextColumn("{task.fields[words]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=0, words="")

        def tell(done: int, total: int, words: str) -> None:
            bars.update(task, completed=done, total=total or done, words=words)

        yield tell
