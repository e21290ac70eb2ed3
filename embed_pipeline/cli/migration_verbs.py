"""The verbs of a migration: adopt, plan, backfill, gate, cutover, rollback, retire."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from embed_pipeline.errors import CatalogError, ConfigurationError, EmbedPipelineError

if TYPE_CHECKING:
    from embed_pipeline.catalog.route import Kind
    from embed_pipeline.index.handle import OpenIndex
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
@click.option("--partition", "partitions", metavar="KEY", multiple=True, help="Fill only this partition; may be given again.")
@click.option(
    "--first",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Embed the documents whose ids are in FILE, one a line, before the partitions.",
)
@with_config
def backfill(index: str, version: str, partitions: tuple[str, ...], first: Path | None, config: Path, as_json: bool) -> None:
    """Fill VERSION from history; registers it first. Run it again to go on: what is there is not embedded again.

    When every partition is filled the ANN index is built and the version is ready. Where its vectors are gone (somebody has dropped or emptied
    its table or collection) it says what filling them again takes, makes them again, and fills them.
    """
    from embed_pipeline.migrate import refill
    from embed_pipeline.migrate.backfill import unfilled
    from embed_pipeline.migrate.opening import opened

    output = Output(as_json)
    spec = one_index(config, index)
    wanted_first = [] if first is None else _ids(first)
    started = time.monotonic()
    with opened(spec) as opened_index:
        with opened_index.connection() as conn:
            _require_version(opened_index, conn, version)
        again = refill.make_again(opened_index, version, lambda found: output.note(found.sentence))
        with opened_index.connection() as conn:
            todo = list(dict.fromkeys(partitions)) or unfilled(conn, opened_index, version)
        _embed_first(output, opened_index, version, wanted_first)
        reports = _fill(output, opened_index, version, todo)
        if again is not None and again.by_queue:
            refill.work_off(opened_index, version)
        with opened_index.connection() as conn:
            left = unfilled(conn, opened_index, version)
        ann = None if left else _build_ann_index(output, opened_index, version)
        summary = _backfill_summary(opened_index, version, reports, left, ann, time.monotonic() - started)
    for line in summary.pop("lines"):
        output.text(line)
    output.result(summary)


def _require_version(index: OpenIndex, conn: Any, name: str) -> None:
    try:
        index.version(conn, name)
    except CatalogError:
        # Neither registered nor declared: then the declaration is what is wrong.
        index.spec.version(name)
        raise


def _ids(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8"
        raise ConfigurationError(
            f"--first: {file} cannot be read: {reason}.", next_step="Give a text file with one id a line."
        ) from None
    return [line for line in lines if line]


def _embed_first(output: Output, index: OpenIndex, version: str, doc_ids: list[str]) -> None:
    """Through the version's queue, as a change would be: partitions stay key ranges, and find these documents done."""
    from embed_pipeline.migrate import ahead

    if not doc_ids:
        return
    with index.connection() as conn:
        found = ahead.look(conn, index, version, doc_ids)
    if found.known < found.asked:
        output.note(f"{render.count(found.asked - found.known, 'id')} of --first are of no document.")
    output.note(found.sentence)
    ahead.embed(index, found, lambda reason: output.note(f"waiting: {reason}") if reason else None)


def _fill(output: Output, index: OpenIndex, version: str, todo: list[str]) -> list[Any]:
    from embed_pipeline.migrate.backfill import fill_partition, submit_ahead
    from embed_pipeline.migrate.preview import Tenths, told

    submit_ahead(index, version, todo)
    tenths = Tenths(index, version)
    reports = []
    with progress.shown(f"{index.name}.{version}") as tell:
        filling = _filling(index, version, todo, tell)
        for key in todo:
            reports.append(fill_partition(index, version, key, filling.now))
            filling.filled(reports[-1])
            try:
                curve = tenths.partition_filled()
            except EmbedPipelineError as problem:
                output.note(told(problem))
            else:
                if curve is not None:
                    output.note(render.point_line(curve))
    return reports


def _filling(index: OpenIndex, version: str, todo: list[str], tell: progress.Tell) -> progress.Filling:
    import psycopg

    from embed_pipeline.catalog import partitions
    from embed_pipeline.documents import census, queue

    def waiting() -> int:
        # The backfill outlives a database that goes away, and so does what is told of it.
        with suppress(EmbedPipelineError, psycopg.Error), index.connection() as conn:
            return queue.pending(conn, index.name, version)
        return 0

    with index.connection() as conn:
        listed = partitions.listed(conn, index.name, version)
        filled = [each.documents or 0 for each in listed if each.completed_at is not None and each.range.partition not in todo]
        return progress.Filling(tell, census.count(conn, index.source), filled, len(listed), waiting)


def _build_ann_index(output: Output, index: OpenIndex, version: str) -> Any:
    from embed_pipeline.migrate import ann_index

    with progress.shown(f"{index.name}.{version} ANN index") as tell:

        def say(phase: str, share: float) -> None:
            tell(round(100 * share), 100, phase)

        return ann_index.build(index, version, say)


def _backfill_summary(
    index: OpenIndex, name: str, reports: list[Any], left: list[str], ann: Any, seconds: float
) -> dict[str, Any]:
    from embed_pipeline.catalog import dead_letters

    with index.connection() as conn:
        version = index.version(conn, name)
        letters = dead_letters.first(conn, index.name, name)
        dead = dead_letters.count(conn, index.name, name)
        stored = index.store(version).count(conn)
    written = sum(each.written for each in reports)
    next_command = f"embed-pipeline {'backfill' if left else 'gate'} {index.name} {name}"
    if version.state not in ("building", "ready"):
        next_command = f"embed-pipeline status {index.name}"
    lines = [
        f"{index.name}.{name} is {version.state}: {render.number(written)} written now, {render.count(stored, 'document')} stored, "
        f"{version.partitions - len(left)} of {version.partitions} partitions filled, in {render.duration(seconds)}."
    ]
    if dead:
        named = "; ".join(f"{letter.doc_id}: {letter.reason}" for letter in letters)
        more = f"; and {dead - len(letters)} more" if dead > len(letters) else ""
        lines.append(f"{render.count(dead, 'document')} without a vector: {named}{more}.")
    lines += dict.fromkeys(said for each in reports for said in each.learned)
    if ann is not None:
        told = [] if ann.bytes is None else [render.size(ann.bytes)]
        lines.append(f"ANN index: {', '.join(['valid', *told])}{f' ({ann.note})' if ann.note else ''}.")
    lines.append(f"next: {next_command}")
    return {
        "lines": lines,
        "index": index.name,
        "version": name,
        "state": version.state,
        "filled": [as_values(each) for each in reports],
        "unfilled": left,
        "written": written,
        "rejected": sum(each.rejected for each in reports),
        "truncated": sum(each.truncated for each in reports),
        "stored": stored,
        "dead_letters": dead,
        "first_dead_letters": [{"doc_id": letter.doc_id, "reason": letter.reason} for letter in letters],
        "ann_index": None if ann is None else as_values(ann),
        "seconds": seconds,
        "next": next_command,
    }


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

        examined = examination.examine(opened_index, version, count) if route == "direct" else None
        found = judging.run(opened_index, version, count, route=route) if examined is None else examined.result
        curve = ef_search.curve(opened_index, version, lambda done, total: tell(done, total, "values")) if ef_curve else None
    checks = () if examined is None else examined.checks
    shown = per_query.worst(found.queries, worst)
    for line in gate_lines.lines(found, shown, curve, markdown=markdown):
        output.text(line)
    for line in render.check_lines(checks, markdown=markdown):
        output.text(line)
    values = as_values(found) | ({} if examined is None else {"checks": [as_values(each) for each in checks]})
    del values["draw"], values["table"], values["queries"]
    values |= {"worst": [per_query.as_values(row) for row in shown]} if worst else {}
    output.result(values if curve is None else values | {"ef_curve": as_values(curve), "smallest_ef_search": curve.smallest})
    if plot is not None:
        write_plot(output, plot, found.draw, kept="the evidence")
    if html is not None:
        gate_lines.write_page(output, html, found, worst, curve)
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
        f"{moved.route} serves {moved.index} (generation {moved.generation}){before}; the {move} took {render.duration(moved.seconds)}."
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


VERBS = (adopt, plan, backfill, gate, cutover, rollback, retire)
