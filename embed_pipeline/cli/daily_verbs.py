"""Verbs of daily operation: load, sync, verify, search, pause, resume, abort."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from embed_pipeline.cli import progress, render
from embed_pipeline.cli.verb import REFUSED, Output, Verb, as_values, one_index, until_signalled, with_config
from embed_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from embed_pipeline.catalog.control import ControlState
    from embed_pipeline.documents.shape import Doubt
    from embed_pipeline.index.handle import OpenIndex
    from embed_pipeline.migrate.dual_write import VersionSync
    from embed_pipeline.search import Answer
    from embed_pipeline.spec import IndexSpec

SNIPPET = 80

accepting_loss = click.option(
    "--accept-loss",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --full: remove up to N documents at once, where reconcile.max_loss allows fewer.",
)


def _require_full(full: bool, accept_loss: int | None) -> None:
    if accept_loss is not None and not full:
        raise ConfigurationError("--accept-loss is about what --full removes.", next_step="Give --full as well, or leave it out.")


@click.command(cls=Verb)
@click.argument("index")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--full", is_flag=True, help="Delete documents that are not in FILE.")
@accepting_loss
@with_config
def load(index: str, file: Path, full: bool, accept_loss: int | None, config: Path, as_json: bool) -> None:
    """Load documents from FILE (.parquet, .csv, .jsonl), all of them or none. Only rows that changed are written."""
    from embed_pipeline.migrate import loading

    _require_full(full, accept_loss)
    output = Output(as_json)
    opened_index = loading.open_to_load(one_index(config, index))
    with progress.shown(f"load {file.name}") as tell:
        report = loading.load(opened_index, file, full=full, accept_loss=accept_loss, progress=lambda rows: tell(rows, 0, "rows"))
    output.text(
        f"{opened_index.source}: {render.number(report.inserted)} inserted, {render.number(report.updated)} updated, "
        f"{render.number(report.unchanged)} unchanged, {render.number(report.deleted)} deleted."
    )
    if report.blank:
        output.text(
            f"{render.count(report.blank, 'document')} without title and text: stored, and dead letters of every version."
        )
    output.result({"index": index, "table": str(opened_index.source), **as_values(report)})


@click.command(cls=Verb)
@click.argument("index")
@click.option("--watch", is_flag=True, help="Go on as changes arrive, until SIGINT or SIGTERM.")
@click.option("--full", is_flag=True, help="First compare everything and queue what differs; arms change capture again.")
@accepting_loss
@click.option("--metrics", metavar="HOST:PORT", help="With --watch: serve Prometheus metrics of INDEX there.")
@with_config
@click.pass_context
def sync(
    ctx: click.Context,
    index: str,
    watch: bool,
    full: bool,
    accept_loss: int | None,
    metrics: str | None,
    config: Path,
    as_json: bool,
) -> None:
    """Dual-write: bring every live version up to date with the documents' changes."""
    from embed_pipeline.documents import shape
    from embed_pipeline.migrate import dual_write, verify
    from embed_pipeline.migrate.follow_changes import follow_changes
    from embed_pipeline.migrate.opening import opened

    _require_full(full, accept_loss)
    if metrics is not None and not watch:
        raise click.UsageError("--metrics is of --watch: what ends at once cannot be scraped.")
    output = Output(as_json)
    spec = one_index(config, index)
    with opened(spec) as opened_index, _measured(output, spec, metrics):
        compared = verify.reconcile(opened_index, accept_loss) if full else None
        queued = None if compared is None else compared.queued
        if compared is not None and compared.found:
            output.note(compared.sentence)
        elif queued is not None:
            output.note(", ".join(f"{name}: {render.count(number, 'difference')} queued" for name, number in queued.items()))
        if not watch:
            results = dual_write.sync(opened_index, waiting=_Outages(output).tell)
            _say_synced(output, results, quiet=False)
            with opened_index.connection() as conn:
                doubts = shape.open_doubts(conn, index)
            _Doubted(output, index).tell(doubts)
            output.result(
                {
                    "index": index,
                    "queued": queued,
                    "versions": [as_values(each) for each in results],
                    "doubts": [as_values(each) for each in doubts],
                }
            )
            ctx.exit(REFUSED if any(each.error for each in results) else 0)

        said = _Doubted(output, index)

        def doubted(doubts: list[Doubt]) -> None:
            if said.tell(doubts):
                output.result({"index": index, "doubts": [as_values(each) for each in doubts]}, indent=None)

        def report(results: list[VersionSync]) -> None:
            _say_synced(output, results, quiet=True)
            output.result({"index": index, "versions": [as_values(each) for each in results]}, indent=None)

        with until_signalled() as stop:
            output.note(f"watching {index}; stop with Ctrl-C or SIGTERM.")
            follow_changes(opened_index, stop, report, _Outages(output).tell, doubted)


@contextmanager
def _measured(output: Output, spec: IndexSpec, listen: str | None) -> Iterator[None]:
    """With metrics over HTTP beside what is done, where that is asked for."""
    if listen is None:
        yield
        return
    from embed_pipeline.report.exporter import serving_metrics

    with serving_metrics([spec], listen) as url:
        output.note(f"metrics on {url}")
        yield


class _Outages:
    """A line when PostgreSQL stops answering and one when it answers again, whichever of the workers notices."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._away = False

    def tell(self, reason: str) -> None:
        if bool(reason) != self._away:
            self._away = bool(reason)
            self._output.note(f"waiting: {reason}" if reason else "PostgreSQL answers again.")


class _Doubted:
    """A line for each doubt about change capture, once, and one when none is left."""

    def __init__(self, output: Output, index: str) -> None:
        self._output = output
        self._index = index
        self._open: set[int] = set()

    def tell(self, doubts: list[Doubt]) -> bool:
        """Say what is new; whether anything was."""
        now = {doubt.id for doubt in doubts}
        for doubt in doubts:
            if doubt.id not in self._open:
                self._output.note(f"doubt: {doubt.reason}. {render.DOUBTED}: embed-pipeline sync {self._index} --full")
        if self._open and not doubts:
            self._output.note("a full comparison has passed: nothing is doubted any more.")
        changed, self._open = now != self._open, now
        return changed


def _say_synced(output: Output, results: list[VersionSync], *, quiet: bool) -> None:
    for each in results:
        if each.error:
            output.note(f"error: {each.version}: {' '.join(each.error.split())}")
        if quiet and not (each.written or each.settled or each.rejected):
            continue
        output.text(
            f"{each.version}: {render.number(each.written)} written, {render.number(each.settled)} unchanged, "
            f"{render.number(each.rejected)} rejected, {render.number(each.pending)} pending"
        )


@click.command(cls=Verb)
@click.argument("index")
@click.argument("version", required=False)
@click.option(
    "--sample",
    type=click.IntRange(1),
    metavar="N",
    help="Also embed up to N random documents of a version again, and compare vectors.",
)
@with_config
@click.pass_context
def verify(ctx: click.Context, index: str, version: str | None, sample: int | None, config: Path, as_json: bool) -> None:
    """Compare every document with every vector. Exit code 1 when anything differs that no queued change explains."""
    from embed_pipeline.migrate import sample as sampling
    from embed_pipeline.migrate import verify as verifying
    from embed_pipeline.migrate.opening import opened

    output = Output(as_json)
    with opened(one_index(config, index)) as opened_index:
        found = verifying.verify(opened_index, version)
        mend = _how_to_mend(opened_index, [name for name, each in found.items() if each.differences])
        sampled = [] if sample is None else sampling.sample(opened_index, version, sample)
    _say(output, render.coverage_lines(found))
    _say(output, [line for each in sampled for line in render.sample_lines(index, each)])
    output.result(
        {
            "index": index,
            "versions": {
                name: {**as_values(each), "differences": each.differences, "share": each.share} for name, each in found.items()
            },
            **({} if sample is None else {"sample": [as_values(each) for each in sampled]}),
        }
    )
    differences = sum(each.differences for each in found.values())
    if differences:
        output.note(f"{render.count(differences, 'difference')}; to mend them, run: {'; '.join(mend)}")
    foreign = {each.version: list(each.differing) for each in sampled if each.differing}
    for name, ids in foreign.items():
        output.note(
            f"{render.count(len(ids), 'document')} of {name} with a vector that is not its model's; to mend that, delete what is stored of "
            f"them from the store and run: embed-pipeline sync {index} --full  (if most differ: embed-pipeline check-model {index} {name})"
        )
    ctx.exit(REFUSED if differences or foreign else 0)


def _how_to_mend(index: OpenIndex, differing: list[str]) -> list[str]:
    """The commands: what history has not filled yet is the backfill's, the rest is the full comparison's."""
    from embed_pipeline.migrate.backfill import unfilled

    with index.connection() as conn:
        building = [name for name in differing if unfilled(conn, index, name)]
    commands = [f"embed-pipeline backfill {index.name} {name}" for name in building]
    return commands if len(building) == len(differing) else [*commands, f"embed-pipeline sync {index.name} --full"]


@click.command(cls=Verb)
@click.argument("index")
@click.argument("text")
@click.option("--version", help="Search this live version instead of the serving one.")
@click.option("-k", "k", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many documents.")
@click.option("--where", "conditions", metavar="COLUMN=VALUE", multiple=True, help="Only documents with this value; may repeat.")
@click.option("--exact", is_flag=True, help="Compare with every vector instead of using the ANN index.")
@with_config
def search(
    index: str, text: str, version: str | None, k: int, conditions: tuple[str, ...], exact: bool, config: Path, as_json: bool
) -> None:
    """Find the documents nearest to TEXT, with the serving version's model among the serving version's vectors."""
    from embed_pipeline.postgres.connection import resolve_url
    from embed_pipeline.search import Searcher

    output = Output(as_json)
    spec = one_index(config, index)
    where = dict(_condition(each) for each in conditions)
    url = resolve_url(spec.database_url, start=False)
    # The files of this machine are where its declaration says, wherever another one has declared them.
    own = {name: declared.local_paths() for name, declared in spec.versions.items() if declared.local_paths()}
    with Searcher(index, url, max_connections=2, models=own) as searcher:
        answer = searcher.search(
            text, k, version=version, where=where or None, exact=exact, with_documents=False if output.as_json else ()
        )
    _say_answer(output, answer)
    output.result({"index": index, **as_values(answer)})


def _condition(given: str) -> tuple[str, str]:
    column, equals, value = given.partition("=")
    if not equals or not column:
        raise ConfigurationError(f"--where {given!r} is not of the form COLUMN=VALUE.", next_step="Write --where column=value.")
    return column, value


def _say_answer(output: Output, answer: Answer) -> None:
    rows = [
        [
            str(rank),
            hit.doc_id,
            f"{hit.distance:.4f}",
            # The passage of a document with several; the whole of one that is a single vector.
            " ".join(hit.document.text[hit.start : hit.end].split())[:SNIPPET] if hit.document else "",
        ]
        for rank, hit in enumerate(answer.hits, start=1)
    ]
    placed = f", {answer.placed} of {len(answer.hits)} placed by {answer.route.refine}" if answer.route.refine else ""
    output.text(f"{answer.route} (fingerprint {answer.fingerprint[:12]}, generation {answer.generation}{placed})")
    if answer.note:
        output.note(f"not by the serving route: {answer.note}")
    _say(output, render.table(["rank", "document", "distance", "text"], rows) if rows else ["nothing found"])


def _say(output: Output, lines: list[str]) -> None:
    for line in lines:
        output.text(line)


def _set_control(index: str, config: Path, as_json: bool, state: ControlState, reason: str, consequence: str) -> None:
    from embed_pipeline.catalog import control
    from embed_pipeline.report.look import catalog_connection

    output = Output(as_json)
    with catalog_connection(one_index(config, index)) as conn:
        control.set_state(conn, index, state, reason)
    output.text(f"{index} is {state}: {consequence}")
    output.result({"index": index, "control": state, "reason": reason})


@click.command(cls=Verb)
@click.argument("index")
@click.option("--reason", default="", help="Shown to everybody who waits, and kept in the audit.")
@with_config
def pause(index: str, reason: str, config: Path, as_json: bool) -> None:
    """Make every backfill of INDEX wait, wherever it runs. Dual-writes go on: what serves stays true."""
    _set_control(index, config, as_json, "paused", reason, "backfills wait until embed-pipeline resume.")


@click.command(cls=Verb)
@click.argument("index")
@click.option("--reason", default="", help="Kept in the audit.")
@with_config
def resume(index: str, reason: str, config: Path, as_json: bool) -> None:
    """Let backfills go on after pause or abort."""
    _set_control(index, config, as_json, "running", reason, "backfills may write.")


@click.command(cls=Verb)
@click.argument("index")
@click.option("--reason", default="", help="Shown by every backfill that stops, and kept in the audit.")
@with_config
def abort(index: str, reason: str, config: Path, as_json: bool) -> None:
    """Stop every backfill of INDEX, wherever it runs. What is done is kept."""
    _set_control(index, config, as_json, "aborted", reason, "backfills stop until embed-pipeline resume.")


VERBS = (load, sync, verify, search, pause, resume, abort)
