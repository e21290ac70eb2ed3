"""Verbs about held-out sets."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from embed_pipeline.cli import render
from embed_pipeline.cli.place_verbs import VerbGroup
from embed_pipeline.cli.verb import REFUSED, Output, as_values, one_index, with_config, with_json
from embed_pipeline.errors import HoldoutError

if TYPE_CHECKING:
    from embed_pipeline.evaluate.made import MadeSet

MOMENT = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"])
out = click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The .jsonl file to write.")


@click.group(cls=VerbGroup)
def holdout() -> None:
    """The held-out set of an index: queries with judgements, on which versions are judged."""


@holdout.command()
@click.argument("index")
@with_config
@click.pass_context
def check(ctx: click.Context, index: str, config: Path, as_json: bool) -> None:
    """Say what the held-out set can prove, without judging a version. Exit code: 0 a gate would judge on it, 1 it would refuse to."""
    from embed_pipeline.migrate import holdout_check
    from embed_pipeline.report.look import open_registered

    output = Output(as_json)
    with open_registered(one_index(config, index)) as opened_index:
        found = holdout_check.check(opened_index)
    output.text(
        f"{render.count(found.queries, 'query', 'queries')}, {render.number(found.different)} different; "
        f"{render.count(found.judged_documents, 'judged document')}, {render.number(found.missing_documents)} missing."
    )
    if found.mean is not None:
        output.text(f"{found.metric} of {found.serves}, which serves: {found.mean:.3f}.")
    for each in found.findings:
        output.text(f"{'refused' if each.refuses else 'note'}: {' '.join(filter(None, [each.sentence, each.next_step]))}")
    output.text("A gate would judge on it." if found.is_usable else "A gate would refuse to judge on it.")
    output.result(as_values(found) | {"usable": found.is_usable})
    ctx.exit(0 if found.is_usable else REFUSED)


@holdout.command()
@click.argument("index")
@out
@click.option("--queries", type=click.IntRange(1, 10_000), default=300, show_default=True, help="At most so many.")
@with_config
def synthetic(index: str, out: Path, queries: int, config: Path, as_json: bool) -> None:
    """Make a provisional set: documents' own headings or first sentences as queries. A verdict on it says that it is provisional."""
    from embed_pipeline.index import held_out
    from embed_pipeline.report.look import look

    with look(one_index(config, index)) as seen:
        if seen.index is None:
            raise HoldoutError(
                f"Index {index!r} has no documents yet to make queries of.", next_step=f"Run: embed-pipeline load {index} FILE"
            )
        made = held_out.made(seen.conn, seen.index, queries)
    _write(Output(as_json), made, out)


@holdout.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@out
@click.option("--since", type=MOMENT, help="Leave out what was asked before: what a model was trained or tuned on.")
@click.option("--until", type=MOMENT, help="Leave out what was asked from then on.")
@with_json
def from_log(file: Path, out: Path, since: datetime | None, until: datetime | None, as_json: bool) -> None:
    """Make a set of a search log: .parquet, .csv or .jsonl with the columns query and doc_id, and optionally used and at."""
    from embed_pipeline.evaluate.from_log import from_log as made_of

    _write(Output(as_json), made_of(file, since=since, until=until), out)


def _write(output: Output, made: MadeSet, path: Path) -> None:
    made.write(path)
    for note in made.notes:
        output.text(note)
    output.text(
        f"Written to {path}. next: declare holdout: {{path: {path}}} in the defs.yaml, and run: embed-pipeline holdout check INDEX"
    )
    output.result({"path": path, "queries": len(made.queries), "provisional": made.provisional, "notes": made.notes})


VERBS = (holdout,)
