"""The verb backfill: fills a version, with what it says while it does and afterwards."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embed_pipeline.cli import progress, render
from embed_pipeline.cli.verb import Output, Verb, as_values, one_index, with_config
from embed_pipeline.errors import CatalogError, ConfigurationError, EmbedPipelineError
from embed_pipeline.report.ages import duration

if TYPE_CHECKING:
    from embed_pipeline.index.handle import OpenIndex


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
        f"{version.partitions - len(left)} of {version.partitions} partitions filled, in {duration(seconds)}."
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


VERBS = (backfill,)
