"""Verbs that look and change nothing: status, health."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embed_pipeline.cli import render
from embed_pipeline.cli.verb import ATTENTION, REFUSED, Output, Verb, as_values, one_index, with_config
from embed_pipeline.errors import EmbedPipelineError

if TYPE_CHECKING:
    from embed_pipeline.report.index_status import IndexStatus

    Shown = Callable[[IndexStatus], list[str]]


@click.command(cls=Verb)
@click.argument("index", required=False)
@click.option("--check", is_flag=True, help="Exit code 4 when something needs a person.")
@with_config
@click.pass_context
def status(ctx: click.Context, index: str | None, check: bool, config: Path, as_json: bool) -> None:
    """Show what serves, how far each version is, what needs a person, and the next command. Changes nothing."""
    output = Output(as_json)
    found, failed = _look(output, index, config, render.status_lines, as_values)
    wrong = check and not all(each.is_well for each in found)
    ctx.exit(REFUSED if failed else ATTENTION if wrong else 0)


@click.command(cls=Verb)
@click.argument("index", required=False)
@with_config
@click.pass_context
def health(ctx: click.Context, index: str | None, config: Path, as_json: bool) -> None:
    """Say whether INDEX (or each declared index) is well. Exit code 0 when it is, 1 with the reasons when it is not."""
    found, failed = _look(Output(as_json), index, config, render.health_lines, _health)
    ctx.exit(REFUSED if failed or not all(each.is_well for each in found) else 0)


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


VERBS = (status, health)
