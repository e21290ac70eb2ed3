"""The other verbs of a migration: adopt, plan, gate, cutover, rollback, retire."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from embed_pipeline.cli import gate_lines, progress, render
from embed_pipeline.cli.status_lines import fitted
from embed_pipeline.cli.verb import (
    REFUSED,
    UNDECIDED,
    Output,
    Verb,
    as_values,
    one_index,
    terminal_width,
    with_config,
    write_plot,
)
from embed_pipeline.report.ages import duration

if TYPE_CHECKING:
    from embed_pipeline.catalog.route import Kind
    from embed_pipeline.migrate.adopt import Adopted
    from embed_pipeline.migrate.cutover import Moved


STALE_NAMED = 5

by_route = click.option(
    "--route",
    type=click.Choice(["direct", "refine", "bridge"]),
    default="direct",
    show_default=True,
    help="direct: VERSION serves. refine: it puts in order what is found in the version that serves, as far as it is filled. bridge: its "
    "queries are mapped into the vectors of the version that serves.",
)


@click.command(cls=Verb)
@click.argument("index")
@with_config
def adopt(index: str, config: Path, as_json: bool) -> None:
    """Make the vectors that store.adopt names a version; embeds a sample of documents to compare.

    Points of Qdrant become the version where they are, and their texts come into the documents table. Vectors of PostgreSQL are looked at, and
    `backfill` copies them. Run it again to go on.
    """
    from embed_pipeline.migrate import adopt as adopting
    from embed_pipeline.migrate.opening import opened

    output = Output(as_json)
    with opened(one_index(config, index), register_new=False) as opened_index, progress.shown(f"adopt {index}") as tell:
        found = adopting.adopt(opened_index, tell)
    for line in _adopted_lines(found):
        output.text(line)
    output.result({**as_values(found), "next": f"embed-pipeline backfill {index} {found.version}"})


def _adopted_lines(found: Adopted) -> list[str]:
    if found.to_copy:
        return _copied_lines(found)
    lines = [
        f"{found.index}.{found.version}: {render.count(found.documents, 'document')} found, {render.number(found.adopted)} adopted now."
    ]
    if found.sample_median is not None and found.sample_lowest is not None:
        lines.append(
            f"{render.number(found.sampled)} of them embedded to compare: median cosine {found.sample_median:.3f}, "
            f"lowest {found.sample_lowest:.3f}."
        )
    if found.differing:
        named = ", ".join(found.first_differing)
        lines.append(
            f"{render.count(found.differing, 'document')} with another text in the documents table, or changed meanwhile "
            f"(first: {named}): the table counts, and they will be embedded."
        )
    if found.without_text:
        lines.append(f"{render.count(found.without_text, 'document')} without text: no other version can have vectors of them.")
    if found.without_vector:
        lines.append(f"{render.count(found.without_vector, 'point')} without this vector: left alone, no documents of the index.")
    if found.queued:
        lines.append(f"{render.count(found.queued, 'document')} queued for the dual-write.")
    lines.append(f"next: embed-pipeline backfill {found.index} {found.version}")
    return lines


def _copied_lines(found: Adopted) -> list[str]:
    lines = [
        f"{found.index}.{found.version}: {render.count(found.to_copy, 'document')} of {render.number(found.documents)} with a vector to copy."
    ]
    if found.agreement:
        lines.append(f"{found.agreement}.")
    if found.first_differing:
        lines.append(f"They do not: {', '.join(found.first_differing)}.")
    if found.without_vector:
        lines.append(f"{render.count(found.without_vector, 'document')} without a vector of its text: queued, and embedded.")
    lines.append(f"next: embed-pipeline backfill {found.index} {found.version}")
    return lines


@click.command(cls=Verb)
@click.argument("index")
@click.argument("version")
@with_config
def plan(index: str, version: str, config: Path, as_json: bool) -> None:
    """Estimate the time, disk, cost and locks of a migration to VERSION. Changes nothing; embeds up to 64 documents to measure."""
    from embed_pipeline.report import plan as planning

    output = Output(as_json)
    found = planning.plan(one_index(config, index), version)
    for line in fitted(render.plan_lines(found), render.PLAN_HANG, terminal_width()):
        output.text(line)
    output.result(as_values(found))


@click.command(cls=Verb)
@click.argument("index")
@click.argument("version")
@by_route
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Write the picture of the metrics to this PNG.")
@click.option(
    "--worst",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Show the N queries that lost most, both answers side by side.",
)
@click.option("--markdown", is_flag=True, help="Print the verdict as Markdown, for a pull request.")
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the verdict to this file as one page: picture, tables, and the queries of --worst (10 without it).",
)
@click.option(
    "--ef-curve", is_flag=True, help="Measure other values of hnsw.ef_search too: what they find, and how long they take."
)
@with_config
@click.pass_context
def gate(
    ctx: click.Context,
    index: str,
    version: str,
    route: Kind,
    plot: Path | None,
    worst: int,
    markdown: bool,
    html: Path | None,
    ef_curve: bool,
    config: Path,
    as_json: bool,
) -> None:
    """Judge VERSION: is it complete, and not worse than what serves on the held-out set? Exit code: 0 pass, 1 fail, 3 undecided.

    The four checks are those of the Dagster asset: coverage, provenance, ann_recall, held_out_recall. 0 where all of them pass, 3 where nothing but
    more queries is wanted. With --route there is one, the held-out set's.
    """
    from embed_pipeline.evaluate import per_query
    from embed_pipeline.migrate import ef_search, examination
    from embed_pipeline.migrate import gate as judging
    from embed_pipeline.migrate.opening import opened

    if ef_curve and route != "direct":
        raise click.UsageError("--ef-curve is of the version's own ANN index, which only --route direct searches.")
    output = Output(as_json)
    with opened(one_index(config, index)) as opened_index, progress.shown(f"gate of {index}.{version}") as tell:
        if ef_curve:
            ef_search.require(opened_index)

        def count(done: int, total: int) -> None:
            tell(done, total, "searches")

        examined = examination.examine(opened_index, version, count, ef_curve=ef_curve) if route == "direct" else None
        found = judging.run(opened_index, version, count, route=route) if examined is None else examined.result
    checks = () if examined is None else examined.checks
    shown = per_query.worst(found.queries, worst)
    width = None if markdown else terminal_width()
    for line in fitted(gate_lines.lines(found, shown, markdown=markdown), 0, width):
        output.text(line)
    for line in fitted(render.check_lines(checks, markdown=markdown), render.CHECK_HANG, width):
        output.text(line)
    values = as_values(found) | ({} if examined is None else {"checks": [as_values(each) for each in checks]})
    del values["draw"], values["table"], values["queries"]
    values |= {"worst": [per_query.as_values(row) for row in shown]} if worst else {}
    output.result(values)
    if plot is not None:
        write_plot(output, plot, found.draw, kept="the evidence")
    if html is not None:
        gate_lines.write_page(output, html, found, worst)
    failed = any(not each.passed and each.name != examination.HELD_OUT_RECALL for each in checks)
    ctx.exit(REFUSED if failed else {"pass": 0, "fail": REFUSED, "undecided": UNDECIDED}[found.outcome])


@click.command(cls=Verb)
@click.argument("index")
@click.argument("version")
@by_route
@click.option("--anyway", is_flag=True, help="Leave behind the processes that search and lack its model; the audit names them.")
@click.option("--again", is_flag=True, help="Serve it although somebody has rolled back from it and no gate has judged it since.")
@click.option("--reason", default="", help="Kept in the audit.")
@with_config
def cutover(index: str, version: str, route: Kind, anyway: bool, again: bool, reason: str, config: Path, as_json: bool) -> None:
    """Serve VERSION from now on. Needs fresh, passing evidence and complete coverage.

    With --route refine the version that serves goes on to, and VERSION, complete or not, puts in order what is found in it; with --route bridge
    queries are VERSION's, mapped by the adapter that was fitted last. Each needs passing evidence of gate with the same --route. To name the
    version that serves takes that back.
    """
    from embed_pipeline.migrate import cutover as moving
    from embed_pipeline.migrate.opening import opened

    with opened(one_index(config, index)) as opened_index:
        moved = moving.cutover(opened_index, version, reason, anyway=anyway, again=again, route=route)
        _say_moved(Output(as_json), moved, "cutover")


@click.command(cls=Verb)
@click.argument("index")
@click.option(
    "--accept-stale",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Serve it even where up to N documents could not be brought up to date; the audit names them.",
)
@click.option("--to", metavar="VERSION", help="What it is to return to; must be said where the last move was a rollback itself.")
@click.option("--reason", default="", help="Kept in the audit.")
@with_config
def rollback(index: str, accept_stale: int, to: str | None, reason: str, config: Path, as_json: bool) -> None:
    """Serve what served before, by the same route. It was written to all along, so nothing is lost."""
    from embed_pipeline.migrate import cutover as moving
    from embed_pipeline.report.look import open_registered

    with open_registered(one_index(config, index)) as opened_index:
        _say_moved(Output(as_json), moving.rollback(opened_index, reason, accept_stale=accept_stale, to=to), "rollback")


def _say_moved(output: Output, moved: Moved, move: str) -> None:
    before = f", {moved.previous} is standby" if moved.previous not in (None, moved.version) else f", {moved.before} did before"
    if moved.before is None:
        before = ""
    output.text(
        f"{moved.route} serves {moved.index} (generation {moved.generation}){before}; the {move} took {duration(moved.seconds)}."
    )
    if moved.stale:
        named = ", ".join(moved.stale[:STALE_NAMED]) + (", ..." if len(moved.stale) > STALE_NAMED else "")
        output.note(
            f"{render.count(len(moved.stale), 'document')} of {moved.version} could not be brought up to date first: {named}. "
            f"They stay queued; the audit names them all."
        )
    refines = None if moved.route is None else moved.route.other
    for each in moved.left_behind:
        left = (
            f"not on that route, without the model of {refines}"
            if refines
            else f"left behind, without the model of {moved.version}"
        )
        output.note(f"{left}: {each}")
    for reason in moved.doubts:
        output.note(f"doubt: {reason}. {render.DOUBTED}: embed-pipeline sync {moved.index} --full")
    output.result({"move": move, **as_values(moved)})


@click.command(cls=Verb)
@click.argument("index")
@click.argument("version")
@click.option("--confirm", default="", metavar="VERSION", help="The same version again: its vectors cannot be brought back.")
@click.option("--reason", default="", help="Kept in the audit.")
@click.option(
    "--accept-unseen-reads", is_flag=True, help="Somebody has looked at the readers on standbys, whose reads are not noted."
)
@with_config
def retire(index: str, version: str, confirm: str, reason: str, accept_unseen_reads: bool, config: Path, as_json: bool) -> None:
    """Stop writing to VERSION and drop its vectors, once nothing reads it any more."""
    from embed_pipeline.migrate import retire as retiring
    from embed_pipeline.migrate.opening import opened

    output = Output(as_json)
    with opened(one_index(config, index)) as opened_index:
        done = retiring.retire(opened_index, version, confirm, reason, accept_unseen_reads=accept_unseen_reads)
    output.text(f"{done.version} of {index} is retired; {render.size(done.freed_bytes)} freed.")
    output.result({"index": index, **as_values(done)})


VERBS = (adopt, plan, gate, cutover, rollback, retire)
