"""Verbs about held-out sets."""

from __future__ import annotations

from pathlib import Path

import click

from embed_pipeline.cli import render
from embed_pipeline.cli.place_verbs import VerbGroup
from embed_pipeline.cli.verb import REFUSED, Output, as_values, one_index, with_config


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


VERBS = (holdout,)
