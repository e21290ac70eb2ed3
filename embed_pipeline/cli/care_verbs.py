"""Verbs for manual follow-up: dead-letters, check-model, take-over."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from embed_pipeline.cli import render
from embed_pipeline.cli.verb import REFUSED, Output, Verb, as_values, one_index, with_config
from embed_pipeline.errors import CatalogError, ConfigurationError

if TYPE_CHECKING:
    from embed_pipeline.index.handle import OpenIndex
    from embed_pipeline.migrate.dead_letters import Letters
    from embed_pipeline.migrate.model_check import ModelCheck
    from embed_pipeline.spec import IndexSpec


@click.command("dead-letters", cls=Verb)
@click.argument("index")
@click.argument("version", required=False)
@click.option("--retry", is_flag=True, help="Take the letters away and queue their documents for the dual-write.")
@click.option("--limit", type=click.IntRange(0), default=100, show_default=True, help="How many of a version are listed.")
@with_config
def dead_letters(index: str, version: str | None, retry: bool, limit: int, config: Path, as_json: bool) -> None:
    """List the documents that have no vector, each with its reason; or have them tried again."""
    output = Output(as_json)
    spec = one_index(config, index)
    if retry:
        _retry(output, spec, version)
        return
    found = _letters(spec, version, limit)
    for each in found:
        for line in letter_lines(each):
            output.text(line)
    if any(each.count for each in found):
        output.text(f"next: mend the documents, or run: {_again(index, version)}")
    output.result({"index": index, "versions": [as_values(each) for each in found]})


def _letters(spec: IndexSpec, version: str | None, limit: int) -> list[Letters]:
    from embed_pipeline.migrate import dead_letters as care
    from embed_pipeline.report.look import look

    with look(spec) as seen:
        if seen.index is None or not seen.registered:
            raise CatalogError(
                f"No version of index {spec.name!r} is registered in its database yet.",
                next_step=f"Run: embed-pipeline status {spec.name}",
            )
        return care.letters(seen.index, version, limit=limit)


def letter_lines(found: Letters) -> list[str]:
    """The dead letters of one version."""
    lines = [f"{found.version} ({found.state}): {render.count(found.count, 'dead letter')}"]
    if found.shown:
        rows = [
            [
                each.doc_id,
                f"{each.since:%Y-%m-%d %H:%M:%S}",
                "as refused" if each.still_so else "changed since",
                " ".join(each.reason.split()),
            ]
            for each in found.shown
        ]
        lines += [f"  {line}" for line in render.table(["document", "at (UTC)", "text", "reason"], rows)]
    if len(found.shown) < found.count:
        lines.append(f"  and {render.number(found.count - len(found.shown))} more; see --limit")
    return lines


def _retry(output: Output, spec: IndexSpec, version: str | None) -> None:
    from embed_pipeline.migrate import dead_letters as care
    from embed_pipeline.migrate.opening import opened

    with opened(spec, register_new=False) as index:
        queued = care.retry(index, version)
    for name, number in queued.items():
        output.text(f"{name}: {render.count(number, 'document')} queued")
    if any(queued.values()):
        output.text(f"next: embed-pipeline sync {spec.name}  (a running dual-write has them already)")
    output.result({"index": spec.name, "queued": queued})


def _again(index: str, version: str | None) -> str:
    return " ".join(["embed-pipeline dead-letters", index, *([version] if version else []), "--retry"])


@click.command("check-model", cls=Verb)
@click.argument("index")
@click.argument("version", required=False)
@click.option("--accept", is_flag=True, help="Take what the model answers now for what it should answer; needs VERSION.")
@click.option("--reason", default="", help="With --accept: why; kept in the audit.")
@with_config
@click.pass_context
def check_model(
    ctx: click.Context, index: str, version: str | None, accept: bool, reason: str, config: Path, as_json: bool
) -> None:
    """Ask the models for a few kept texts again. Exit code 1 when one has changed behind its name, or does not answer.

    Without VERSION: every live version that asks a provider. With it: any live version; the first time keeps what it is compared with.
    """
    from embed_pipeline.migrate.opening import opened

    output = Output(as_json)
    if accept and version is None:
        raise ConfigurationError(
            "--accept needs a version.", next_step=f"Run: embed-pipeline check-model {index} VERSION --accept"
        )
    with opened(one_index(config, index), register_new=False) as opened_index:
        found = _checked(opened_index, version, reason if accept else None)
    for each in found:
        output.text(f"{each.version}: {each.outcome}. {each.sentence}")
    if not found:
        output.text(f"No live version of {index} asks a provider; name a version to check it all the same.")
    output.result({"index": index, "versions": [as_values(each) for each in found]})
    ctx.exit(REFUSED if any(each.outcome in ("changed", "unknown") for each in found) else 0)


def _checked(index: OpenIndex, version: str | None, accepted_for: str | None) -> list[ModelCheck]:
    from embed_pipeline.migrate import model_check

    if version is not None and accepted_for is not None:
        return [model_check.accept(index, version, accepted_for)]
    return model_check.check(index, version)


@click.command("take-over", cls=Verb)
@click.argument("index")
@click.option(
    "--confirm", required=True, metavar="INDEX", help="The same index again: the ledger that had the points can write no more."
)
@click.option(
    "--accept-loss",
    type=click.IntRange(min=1),
    metavar="N",
    help="Remove up to N documents, where reconcile.max_loss allows fewer.",
)
@with_config
def take_over(index: str, confirm: str, accept_loss: int | None, config: Path, as_json: bool) -> None:
    """Make the points of INDEX this database's, after it was restored or moved. Compares everything first."""
    from embed_pipeline.migrate import take_over as taking
    from embed_pipeline.migrate.opening import opened

    output = Output(as_json)
    with opened(one_index(config, index), register_new=False, ours=False) as opened_index:
        found = taking.take_over(opened_index, confirm, accept_loss)
    for name, whose in found.before.items():
        output.text(
            f"{name}: taken over from {whose}; {render.count(found.queued.get(name, 0), 'document')} differed and are queued"
        )
    for name in found.gone:
        output.text(f"{name}: its vectors are gone; embed-pipeline backfill {index} {name} makes it again")
    following = f"embed-pipeline sync {index} --full" if found.before else f"embed-pipeline status {index}"
    if not found.before and not found.gone:
        output.text(f"All points of {index} are this ledger's already.")
    output.text(f"next: {following}")
    output.result({**as_values(found), "next": following})


VERBS = (dead_letters, check_model, take_over)
