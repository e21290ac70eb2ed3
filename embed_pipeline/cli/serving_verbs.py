"""Verbs about what serves while it serves: shadow, watch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from embed_pipeline.cli import render
from embed_pipeline.cli.verb import REFUSED, Output, Verb, as_values, one_index, with_config

if TYPE_CHECKING:
    from embed_pipeline.index.handle import OpenIndex
    from embed_pipeline.migrate.after_cutover import Looked
    from embed_pipeline.report.shadow import Quantiles, Shadowed, ShadowReport


@click.command(cls=Verb)
@click.argument("index")
@click.argument("version")
@click.option("--hours", type=click.IntRange(1, 720), default=24, show_default=True, help="How far back.")
@with_config
def shadow(index: str, version: str, hours: int, config: Path, as_json: bool) -> None:
    """Show what VERSION would have answered, as shadow reads found. Changes nothing."""
    from embed_pipeline.report.shadow import shadow_report

    output = Output(as_json)
    found = shadow_report(one_index(config, index), version, hours)
    for line in shadow_lines(found):
        output.text(line)
    output.result(as_values(found))


def shadow_lines(found: ShadowReport) -> list[str]:
    """The pairs, and the hours of each."""
    if not found.pairs:
        return [
            f"{found.index}: no search of the last {render.count(found.last_hours, 'hour')} was shadowed by {found.version}.",
            f'next: open it in the application as Searcher("{found.index}", ..., shadow="{found.version}", share=0.05)',
        ]
    lines: list[str] = []
    for pair in found.pairs:
        lines += _pair_lines(found, pair)
    rows = [
        [f"{each.hour:%Y-%m-%d %H:%M}", each.answered, render.number(each.searches), _share(each.overlap), _share(each.agreement)]
        for each in found.by_hour
    ]
    return [*lines, "", *render.table(["hour (UTC)", "answered", "searches", "overlap", "agreement"], rows)]


def _pair_lines(found: ShadowReport, pair: Shadowed) -> list[str]:
    lines = [
        f"{found.index}: {pair.answered} answered, {found.version} in its shadow, {render.count(found.last_hours, 'hour')}",
        f"  {render.count(pair.searches, 'search', 'searches')}, {render.number(pair.failed)} failed, {render.number(pair.dropped)} dropped; "
        f"overlap {_share(pair.overlap)}, rank agreement {_share(pair.agreement)}",
        f"  without a hit: {render.number(pair.answered_empty)} answers, {render.number(pair.shadow_empty)} of the shadow",
    ]
    rows = [
        ["milliseconds", pair.answered, *_cells(pair.answered_ms, 1)],
        ["", found.version, *_cells(pair.shadow_ms, 1)],
        ["score", pair.answered, *_cells(pair.answered_scores, 3)],
        ["", found.version, *_cells(pair.shadow_scores, 3)],
    ]
    lines += [f"  {line}" for line in render.table(["", "of", "p50", "p95", "p99"], rows)]
    if pair.last_failure:
        lines.append(f"  failed last: {pair.last_failure}")
    if pair.least:
        lines.append("  they agree least on:")
        lines += [f"    {each.agreement:.2f}  {each.text or each.sha256}" for each in pair.least]
    return lines


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _cells(found: Quantiles, digits: int) -> list[str]:
    return ["-" if value is None else f"{value:.{digits}f}" for value in (found.p50, found.p95, found.p99)]


@click.command(cls=Verb)
@click.argument("index")
@click.option("--once", is_flag=True, help="Look once if a look is due, and show the newest one.")
@with_config
@click.pass_context
def watch(ctx: click.Context, index: str, once: bool, config: Path, as_json: bool) -> None:
    """Watch what serves after a cutover, until its watch is over. Exit code 1 when a loss is proven."""
    from embed_pipeline.migrate import after_cutover
    from embed_pipeline.migrate.opening import opened

    output = Output(as_json)
    failed = False

    def say(found: Looked) -> None:
        for line in found.lines:
            output.text(line)
        output.result(as_values(found), indent=2 if once else None)

    with opened(one_index(config, index), register_new=False) as opened_index:
        declared = after_cutover.require_watch(opened_index)
        while True:
            found = after_cutover.look(opened_index)
            if found is not None:
                say(found)
                failed = failed or found.outcome == "fail"
            elif once:
                failed = _newest(output, opened_index)
            if once or not after_cutover.is_watched(opened_index):
                break
            time.sleep(min(declared.every_seconds, after_cutover.ASK_SECONDS))
    ctx.exit(REFUSED if failed else 0)


def _newest(output: Output, index: OpenIndex) -> bool:
    """No look is due: what the newest one found, and whether that was a loss."""
    from embed_pipeline.catalog import watch_looks

    with index.connection() as conn:
        newest = watch_looks.last(conn, index.name)
    if newest is None:
        output.text(f"{index.name}: no look is due. There are some after a cutover, for watch.for_seconds.")
        output.result({"index": index.name, "outcome": None})
        return False
    output.text(f"{index.name}: no look is due; the newest, at {newest.at:%Y-%m-%d %H:%M} UTC: {newest.sentence}")
    output.result({"index": index.name, **as_values(newest)})
    return newest.outcome == "fail"


VERBS = (shadow, watch)
