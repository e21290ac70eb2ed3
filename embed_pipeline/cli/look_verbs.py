"""Verbs that look and change nothing: status, health, metrics, history."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embed_pipeline.cli import status_lines
from embed_pipeline.cli.verb import (
    NEEDS_A_PERSON,
    REFUSED,
    Output,
    Verb,
    as_values,
    one_index,
    terminal_width,
    until_signalled,
    with_config,
)
from embed_pipeline.errors import EmbedPipelineError

if TYPE_CHECKING:
    from embed_pipeline.report.index_status import IndexStatus

    Shown = Callable[[IndexStatus], list[str]]


# A terminal is drawn anew so often, and a log is told so often.
REDRAWN_SECONDS, LINE_SECONDS = 2.0, 10.0


class _Screen(Output):
    """Holds what is said, and then shows it at once: the terminal is never seen half drawn."""

    def __init__(self) -> None:
        super().__init__(as_json=False)
        self._lines: list[str] = []

    def text(self, line: str) -> None:
        self._lines.append(line)

    def note(self, line: str) -> None:
        self._lines.append(line)

    def show(self) -> None:
        height = shutil.get_terminal_size().lines - 1
        cut = [*self._lines[: height - 1], "..."] if len(self._lines) > height else self._lines
        click.clear()
        click.echo("\n".join(cut))


@click.command(cls=Verb)
@click.argument("index", required=False)
@click.option("--check", is_flag=True, help="Exit code 4 when something needs a person.")
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C; a line now and then where there is no terminal.")
@click.option("--all", "everything", is_flag=True, help="Retired versions too, and what let the version that serves pass.")
@with_config
@click.pass_context
def status(
    ctx: click.Context, index: str | None, check: bool, watch: bool, everything: bool, config: Path, as_json: bool
) -> None:
    """Show what serves, how far each version is, what needs a person, and the next command. Changes nothing."""
    output = Output(as_json)

    def lines(found: IndexStatus) -> list[str]:
        return status_lines.status_lines(found, terminal_width(), everything=everything)

    if watch and check:
        raise click.UsageError("--check is of one look, and --watch never ends.")
    if watch:
        _watch(output, index, config, lines)
        return
    found, failed = _look(output, index, config, lines, as_values)
    wrong = check and not all(each.is_well for each in found)
    ctx.exit(REFUSED if failed else NEEDS_A_PERSON if wrong else 0)


def _watch(output: Output, index: str | None, config: Path, lines: Shown) -> None:
    """A look each few seconds; documents are counted by each, so it takes at most a tenth of the time."""
    redrawn = sys.stdout.isatty() and not output.as_json
    every = REDRAWN_SECONDS if redrawn else LINE_SECONDS
    with until_signalled() as stop:
        while not stop.is_set():
            began = time.monotonic()
            shown = _Screen() if redrawn else output
            try:
                _look(shown, index, config, lines if redrawn else lambda found: [status_lines.summary_line(found)], as_values)
            except EmbedPipelineError as problem:
                shown.note(f"error: {' '.join(str(problem).split())}")  # It may answer at the next look.
            if isinstance(shown, _Screen):
                shown.show()
            stop.wait(max(every, 9 * (time.monotonic() - began)))


@click.command(cls=Verb)
@click.argument("index", required=False)
@with_config
@click.pass_context
def health(ctx: click.Context, index: str | None, config: Path, as_json: bool) -> None:
    """Say whether INDEX (or each declared index) is well. Exit code 0 when it is, 1 with the reasons when it is not."""

    def lines(found: IndexStatus) -> list[str]:
        return status_lines.health_lines(found, terminal_width())

    found, failed = _look(Output(as_json), index, config, lines, _health)
    ctx.exit(REFUSED if failed or not all(each.is_well for each in found) else 0)


@click.command(cls=Verb)
@click.option("--listen", default="127.0.0.1:9464", show_default=True, metavar="HOST:PORT", help="Where Prometheus asks.")
@with_config
def metrics(listen: str, config: Path, as_json: bool) -> None:
    """Serve Prometheus metrics of all declared indexes over HTTP, until SIGINT or SIGTERM. Changes nothing."""
    from embed_pipeline.configuration import read_indexes
    from embed_pipeline.report.exporter import serving_metrics

    output = Output(as_json)
    declared = read_indexes(config)
    for unreadable in declared.unreadable:
        output.note(f"error: {' '.join(str(unreadable).split())}")
    with until_signalled() as stop, serving_metrics(list(declared.indexes.values()), listen) as url:
        output.result({"url": url, "indexes": list(declared.indexes)}, indent=None)
        output.note(f"metrics on {url}; stop with Ctrl-C or SIGTERM.")
        stop.wait()


@click.command(cls=Verb)
@click.argument("index")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="So many of the last steps.")
@click.option("--all", "everything", is_flag=True, help="Each wait of a throttle and each full comparison too.")
@with_config
def history(index: str, limit: int, everything: bool, config: Path, as_json: bool) -> None:
    """Show what happened to INDEX, oldest first: who moved what, when, why, from where to where, on what evidence."""
    from embed_pipeline.report.history import history as steps_of

    output = Output(as_json)
    found = steps_of(one_index(config, index), everything=everything)
    shown = found[-limit:]
    if len(shown) < len(found):
        output.text(f"({len(found) - len(shown)} earlier; see --limit)")
    _say(output, status_lines.history_lines(shown, terminal_width()) or [f"nothing has happened to {index} yet"])
    output.result({"index": index, "earlier": len(found) - len(shown), "steps": [as_values(each) for each in shown]})


def _health(found: IndexStatus) -> dict[str, Any]:
    return {
        "index": found.index,
        "well": found.is_well,
        "phase": found.phase,
        "coverage": found.coverage,
        "attention": as_values(found.attention),
    }


def _look(
    output: Output, index: str | None, config: Path, lines: Shown, values: Callable[[IndexStatus], Any]
) -> tuple[list[IndexStatus], bool]:
    """Show the one index, or all that are declared; returns them, and whether one could not be looked at."""
    from embed_pipeline.configuration import read_indexes
    from embed_pipeline.report.status import status_of

    if index is not None:
        one = status_of(one_index(config, index))
        _say(output, lines(one))
        output.result(values(one))
        return [one], False
    declared = read_indexes(config)
    shown: dict[str, Any] = {}
    found: list[IndexStatus] = []
    for name, spec in declared.indexes.items():
        try:
            each = status_of(spec)
        except EmbedPipelineError as problem:
            # One unreachable database must not hide the other indexes.
            output.note(f"error: {name}: {' '.join(str(problem).split())}")
            shown[name] = problem.as_values()
            continue
        if found:
            output.text("")
        _say(output, lines(each))
        found.append(each)
        shown[name] = values(each)
    for unreadable in declared.unreadable:
        output.note(f"error: {' '.join(str(unreadable).split())}")
    output.result({"indexes": shown, "unreadable": [each.as_values() for each in declared.unreadable]})
    return found, len(found) < len(declared.indexes) or bool(declared.unreadable)


def _say(output: Output, lines: list[str]) -> None:
    for line in lines:
        output.text(line)


VERBS = (status, health, metrics, history)
