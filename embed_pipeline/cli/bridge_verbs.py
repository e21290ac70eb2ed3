"""Verbs around what leads from one space into another: fit, preview."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from embed_pipeline.cli import progress, render
from embed_pipeline.cli.verb import Output, Verb, as_values, one_index, with_config, write_plot
from embed_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from embed_pipeline.index.handle import OpenIndex
    from embed_pipeline.migrate.ahead import Ahead
    from embed_pipeline.migrate.fit import Fitted

# As embed_pipeline.embedders.maps has them: `--help` must not wait for numpy.
KINDS = ("procrustes", "procrustes_centred", "low_rank_affine")

with_yes = click.option("--yes", is_flag=True, help="Do not ask before documents are embedded and paid for.")


@click.command(cls=Verb)
@click.argument("index")
@click.argument("version")
@click.option("--kind", type=click.Choice(KINDS), help="Fit this kind of map, instead of the better of the two rotations.")
@click.option(
    "--pairs",
    type=click.IntRange(300),
    metavar="N",
    help="First have VERSION embed up to N documents of what serves; says what that takes, and asks.",
)
@with_yes
@with_config
def fit(index: str, version: str, kind: str | None, pairs: int | None, yes: bool, config: Path, as_json: bool) -> None:
    """Fit the map that takes VERSION's queries into the index that serves, from documents that both have."""
    from embed_pipeline.migrate import fit as fitting
    from embed_pipeline.migrate.opening import opened

    output = Output(as_json)
    with opened(one_index(config, index)) as opened_index:
        if pairs is not None:
            embed_ahead(output, opened_index, fitting.lacking(opened_index, version, pairs), yes)
        found = fitting.fit(opened_index, version, kind)  # type: ignore[arg-type]  # one of KINDS
    for line in _fitted_lines(found):
        output.text(line)
    following = f"embed-pipeline gate {index} {version} --route bridge"
    output.text(f"next: {following}")
    output.result({**as_values(found), "next": following})


def ask(output: Output, found: Ahead, sentence: str, yes: bool) -> None:
    """Say what is to be embedded, and ask unless `yes`. ConfigurationError where nobody can be asked."""
    output.note(sentence)
    if not found.todo or yes:
        return
    if output.as_json or not sys.stdin.isatty():
        raise ConfigurationError(
            f"{render.count(len(found.todo), 'document')} would be embedded by {found.index}.{found.version}, and nobody is here to be asked.",
            next_step="Run the same command with --yes.",
        )
    click.confirm("Embed them?", abort=True, err=True)


def embed_ahead(output: Output, index: OpenIndex, found: Ahead, yes: bool) -> None:
    """Ask, and have the documents embedded."""
    from embed_pipeline.migrate import ahead

    ask(output, found, found.sentence, yes)
    with progress.shown(f"{index.name}.{found.version} ahead of its backfill") as tell:
        ahead.embed(index, found, told_by(tell, len(found.todo)))


def told_by(tell: progress.Tell, total: int) -> Callable[[str], None]:
    """Says why the work waits."""

    def waiting(reason: str) -> None:
        tell(0, total, f"waiting: {reason}" if reason else "")

    return waiting


def _fitted_lines(found: Fitted) -> list[str]:
    rows = [
        [kind, *(f"{value:.3f}" for value in (each.neighbours, each.keep_old, each.cosine, each.itself))]
        for kind, each in found.agreements.items()
    ]
    header = ["kind", "new model's neighbours found", f"by {found.into} itself", "cosine", "nearest is itself"]
    return [f"adapter {found.adapter_id}: {found.sentence}", *(f"  {line}" for line in render.table(header, rows))]


@click.command(cls=Verb)
@click.argument("index")
@click.argument("version")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Write the picture of the cost curve to this PNG.")
@with_yes
@with_config
def preview(index: str, version: str, plot: Path | None, yes: bool, config: Path, as_json: bool) -> None:
    """Foretell what VERSION is worth: embed what the held-out queries find now, at most 100 documents for each, and judge.

    Says how many and what they cost, and asks. They are paid for once: the backfill finds them done.
    """
    from embed_pipeline.migrate import preview as previewing
    from embed_pipeline.migrate.opening import opened

    output = Output(as_json)
    with opened(one_index(config, index)) as opened_index:
        pool = previewing.pool(opened_index, version)
        ask(output, pool.ahead, pool.sentence, yes)
        with progress.shown(f"{index}.{version} preview") as tell:
            found = previewing.preview(opened_index, pool, told_by(tell, len(pool.ahead.todo)))
    output.text(found.sentence)
    for line in render.curve_lines(found.curve):
        output.text(line)
    following = f"embed-pipeline backfill {index} {version}"
    output.text(f"next: {following}")
    output.result({**as_values(found), "next": following})
    if plot is not None:
        write_plot(output, plot, found.curve.draw, kept="the curve")


VERBS = (fit, preview)
