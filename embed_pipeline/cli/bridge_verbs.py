"""Verbs around what leads from one space into another: fit, preview."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from embed_pipeline.cli import progress, render
from embed_pipeline.cli.verb import Output, Verb, as_values, one_index, with_config
from embed_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from embed_pipeline.adapt.fit import Fitted
    from embed_pipeline.migrate.ahead import Ahead
    from embed_pipeline.migrate.open_index import OpenIndex

# As embed_pipeline.adapt.maps has them: `--help` must not wait for numpy.
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
    from embed_pipeline.adapt import fit as fitting
    from embed_pipeline.migrate.open_index import opened

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


def embed_ahead(output: Output, index: OpenIndex, found: Ahead, yes: bool) -> None:
    """Say what is to be embedded, ask unless `yes`, and have it done. ConfigurationError where nobody can be asked."""
    from embed_pipeline.migrate import ahead

    output.note(found.sentence)
    if not found.todo:
        return
    if not yes:
        if output.as_json or not click.get_text_stream("stdin").isatty():
            raise ConfigurationError(
                f"{render.count(len(found.todo), 'document')} would be embedded by {index.name}.{found.version}, and nobody is here to be asked.",
                next_step="Run the same command with --yes.",
            )
        click.confirm("Embed them?", abort=True, err=True)
    with progress.shown(f"{index.name}.{found.version} ahead of its backfill") as tell:

        def waiting(reason: str) -> None:
            tell(0, len(found.todo), f"waiting: {reason}" if reason else "")

        ahead.embed(index, found, waiting)


def _fitted_lines(found: Fitted) -> list[str]:
    rows = [
        [kind, *(f"{value:.3f}" for value in (each.neighbours, each.keep_old, each.cosine, each.itself))]
        for kind, each in found.agreements.items()
    ]
    header = ["kind", "new model's neighbours found", f"by {found.into} itself", "cosine", "nearest is itself"]
    return [f"adapter {found.adapter_id}: {found.sentence}", *(f"  {line}" for line in render.table(header, rows))]


VERBS = (fit,)
