"""`embed-pipeline demo`: one migration from first to last, on real text with two real models, under traffic."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from psycopg import sql
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from embed_pipeline.configuration import load_indexes
from embed_pipeline.demo import corpus, picture, traffic, trap
from embed_pipeline.demo.picture import Round
from embed_pipeline.demo.stage import LayoutKind, Stage, StageKind
from embed_pipeline.demo.stages import set_up
from embed_pipeline.demo.traffic import Actor, Place, queries
from embed_pipeline.documents import census
from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import ann_index, backfill, cutover, dual_write, gate, loading, retire, verify
from embed_pipeline.migrate.opening import opened
from embed_pipeline.postgres.connection import connect, resolve_url
from embed_pipeline.spec import HoldoutSpec, IndexSpec

INDEX = "docs"
# Of the standard library's docstrings: what two cores embed twice in less than two minutes, beside traffic.
DOCUMENTS = 1_200
QUERIES_HELD_OUT = 600
QUERIES_OF_THE_READER = 100
SEED = 11

# A reader that has no answer for so long is stuck.
SILENCE_SECONDS = 60.0

# The writer's edits of other documents may move one query across rank ten.
RECALL_SLACK = 0.015


@dataclass
class Story:
    """What the demo found out, told at its end and kept as JSON beside the picture."""

    started: float = field(default_factory=time.time)
    trap: list[trap.TrapPoint] = field(default_factory=list)
    documents: int = 0
    marks: list[tuple[float, str]] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)

    def mark(self, name: str) -> None:
        self.marks.append((time.time(), name))


def run(
    config: Path = Path("assets"),
    console: Console | None = None,
    *,
    store: StageKind = "pgvector",
    layout: LayoutKind = "collections",
) -> dict[str, object]:
    """Run the demo on index `docs` of `config`; returns its facts. EmbedPipelineError when any promise was broken.

    `layout` is Qdrant's. Each store has an index, a database and a folder of its own, so that the demos do not meet.
    """
    console = console or Console()
    stage = set_up(load_indexes(config)[INDEX], store, layout)
    stage.spec = spec = stage.spec.model_copy(update={"holdout": HoldoutSpec(path=stage.folder / "holdout.jsonl")})
    first = spec.model_copy(update={"versions": {"v1": spec.versions["v1"]}})
    if stage.in_one_process:
        # Backfill, dual-write and reader share this process, and each model's idle threads spin for a while.
        traffic.one_thread_each()
    place = _prepare(stage)
    story = Story(facts={"store": spec.store.place(spec.name)})
    chosen = random.Random(SEED)
    documents = corpus.read_docstrings()
    documents = chosen.sample(documents, min(DOCUMENTS, len(documents)))
    judged = chosen.sample(documents, QUERIES_HELD_OUT)
    story.documents = len(documents)
    corpus.write_jsonl(documents, place.folder / "documents.jsonl")
    corpus.write_holdout(judged, place.folder / "holdout.jsonl")

    if stage.opening:
        console.print(f"{stage.opening}\n", highlight=False)
    console.rule("[bold]1. An index that serves")
    _serve_first_version(console, stage, first, place, len(documents))
    console.rule("[bold]2. Another model, under traffic")
    watched = [(document.query, document.id) for document in judged[:QUERIES_OF_THE_READER]]
    # Not the judged ones: what the reader measures should change with the model, not with the writer's edits.
    unjudged = sorted({document.id for document in documents} - {document.id for document in judged})
    actors = traffic.start(place, stage, watched, unjudged)
    try:
        _migrate(console, stage, place, story, actors, watched)
    finally:
        traffic.stop(place, actors)
    console.print("The writers have stopped. What they left is embedded, then every vector is compared with its document ...")
    with opened(spec) as index:
        _settle(index)
        _verify(console, index, "at the end, with all writers stopped", strict=True)
    rounds = _rounds(traffic.answers(place), story)
    _tell(console, stage, place, story, rounds)
    return story.facts


def _prepare(stage: Stage) -> Place:
    """A clean database in the embedded server and a clean folder; refuses where other indexes live."""
    spec = stage.spec
    url = resolve_url(spec.database_url)
    with connect(url, autocommit=True) as conn:
        exists = conn.execute(queries("catalog_exists")).fetchone()
        if exists and exists[0]:
            others = conn.execute(queries("other_indexes"), {"index": spec.name}).fetchone()
            if others and others[0]:
                raise EmbedPipelineError(
                    "The database of the demo holds other indexes too, and the demo begins by removing everything.",
                    next_step="Set EMBED_PIPELINE_HOME to another folder and run it again.",
                )
        conn.execute(queries("drop_catalog"))
        conn.execute(queries("drop_documents", table=sql.Identifier("public", spec.name)))
    shutil.rmtree(stage.folder, ignore_errors=True)
    stage.folder.mkdir(parents=True)
    stage.declare()
    return Place(url, stage.folder)


def _serve_first_version(console: Console, stage: Stage, spec: IndexSpec, place: Place, count: int) -> None:
    console.print("Reading the docstrings of the Python standard library into a table ...")
    report = loading.load(loading.open_to_load(spec), place.folder / "documents.jsonl", full=True)
    console.print(f"Loaded {report.inserted:,} docstrings of the Python standard library; {count - report.inserted} were there.")
    with opened(spec) as index:
        _backfill(console, stage, index, "v1")
        console.print("The gate asks v1 the held-out queries ...")
        console.print(gate.run(index, "v1").sentence)
        cutover.cutover(index, "v1", "first version")
    console.print("v1 serves.")


def _show_trap(console: Console, stage: Stage, index: OpenIndex, story: Story, watched: list[tuple[str, str]]) -> None:
    """The same documents and queries, changed in place: both versions' vectors are there, so nothing is embedded for it."""
    console.print("Meanwhile, on a scratch copy: the same documents, changed in place as people do it ...")
    with index.connection() as conn:
        old, new = index.version(conn, "v1"), index.version(conn, "v2")
        ids = [doc_id for portion in index.store(old).stored_ids(conn) for doc_id in portion]
        of_old, of_new = stage.stored(conn, old, ids), stage.stored(conn, new, ids)
        vectors = {doc_id: (of_old[doc_id].vector, of_new[doc_id].vector) for doc_id in of_old.keys() & of_new.keys()}
        models = index.embedder_of(old), index.embedder_of(new)
        story.trap = trap.overwrite_in_place(stage.scratch(conn), vectors, watched, *models)
    console.print(f"{len(vectors):,} vectors overwritten by the new model's. Every request succeeds:")
    console.print("  overwritten   recall@10, old query model   new query model   both, refined")
    for point in story.trap:
        console.print(
            f"  {point.share:>10.0%}   {point.old_queries:>26.3f}   {point.new_queries:>15.3f}   {point.refined:>13.3f}"
        )


def _migrate(
    console: Console, stage: Stage, place: Place, story: Story, actors: list[Actor], watched: list[tuple[str, str]]
) -> None:
    console.print("A reader asks v1, round after round, and a writer begins to edit ...")
    _await_rounds(place, 1)
    story.mark("declare v2")
    with opened(stage.spec) as index:
        console.print("v2 is declared and registered: every write reaches both versions from here on.")
        actors.append(traffic.start_dual_write(place, stage))
        _backfill(console, stage, index, "v2", halfway=lambda: _refine(console, index, place, story))
        _verify(console, index, "after the backfill")
        story.mark("gate")
        console.print("The gate compares v2 with v1 on the held-out queries ...")
        result = gate.run(index, "v2")
        console.print(result.sentence)
        story.facts["gate"] = result.sentence
        _show_trap(console, stage, index, story, watched)
        for step in ("cutover", "rollback", "cutover"):
            console.print(f"{step} ...")
            moved = cutover.rollback(index) if step == "rollback" else cutover.cutover(index, "v2", "demo", again=True)
            story.mark(step)
            console.print(
                f"{step}: {moved.route or moved.version} serves, generation {moved.generation}, in {moved.seconds:.2f} s."
            )
            _print_told(console, stage, index)
            _await_rounds(place, 1)
            _verify(console, index, f"after the {step}, with edits since")
        console.print(f"Nobody reads v1 any more; retire waits until that is {index.spec.retire.unread_seconds} s ago ...")
        time.sleep(index.spec.retire.unread_seconds + 1)
        freed = retire.retire(index, "v1", "v1", "demo").freed_bytes
        story.mark("retire v1")
        console.print(f"retire: v1 is gone, {freed / 1e6:.1f} MB freed.")
        _print_told(console, stage, index)
        _await_rounds(place, 1)


def _refine(console: Console, index: OpenIndex, place: Place, story: Story) -> None:
    """What is there of v2 puts in order what v1 finds, while the rest is still being embedded."""
    console.print("Half of v2 is there. The gate asks whether it may put in order already what v1 finds ...")
    result = gate.run(index, "v2", route="refine")
    console.print(result.sentence)
    story.facts["refine_gate"] = result.sentence
    moved = cutover.cutover(index, "v2", "demo", route="refine")
    story.mark("refine")
    console.print(f"cutover --route refine: {moved.route} serves, generation {moved.generation}. The backfill goes on ...")
    _await_rounds(place, 1)


def _print_told(console: Console, stage: Stage, index: OpenIndex) -> None:
    told = stage.told(index)
    if told:
        console.print(f"  {told}", highlight=False)


def _backfill(console: Console, stage: Stage, index: OpenIndex, name: str, halfway: Callable[[], None] | None = None) -> None:
    console.print(f"Embedding every document with {name}'s model ...")
    columns = (TextColumn("backfill " + name), BarColumn(), MofNCompleteColumn(), TextColumn("documents"), TimeRemainingColumn())
    started = time.monotonic()
    with Progress(*columns, console=console) as bar, index.connection() as conn:
        total = census.count(conn, index.source)
        task = bar.add_task(name, total=total)
        done = 0
        keys = backfill.unfilled(conn, index, name)
        for number, key in enumerate(keys):
            before = done
            if halfway is not None and number == len(keys) // 2:
                halfway()

            def show(progress: backfill.Progress, before: int = before) -> None:
                bar.update(task, completed=before + progress.written + progress.rejected)

            report = backfill.fill_partition(index, name, key, show)
            done = before + report.documents
            bar.update(task, completed=done, total=max(total, done))
    console.print(f"Building the ANN index of {name} ...")
    ann_index.build(index, name)
    seconds = time.monotonic() - started
    console.print(f"{name}: {done:,} documents in {seconds:.1f} s, {done / seconds:.0f} documents/s; {stage.ann_words}.")


def _verify(console: Console, index: OpenIndex, when: str, *, strict: bool = False) -> None:
    """Compare every vector with its document; a difference that no queued change explains ends the demo."""
    for name, coverage in verify.verify(index).items():
        if coverage.differences or (strict and coverage.pending):
            raise EmbedPipelineError(
                f"verify of {name} {when} found {coverage.differences} differences: {'; '.join(coverage.samples)}.",
                next_step=f"Run: embed-pipeline verify {index.name}",
            )
        console.print(
            f"verify {name} {when}: {coverage.documents:,} documents, 0 differences ({coverage.pending} changes on their way)."
        )


def _settle(index: OpenIndex) -> None:
    for result in dual_write.sync(index):
        if result.error or result.pending:
            raise EmbedPipelineError(f"{result.version}: {result.pending} changes stayed pending. {result.error}")


def _await_rounds(place: Place, count: int) -> None:
    """Wait until the reader has been through all its queries `count` more times."""
    notes = place.notes("reader")

    def answers() -> int:
        return notes.read_text().count("\n") if notes.exists() else 0

    seen = answers()
    wanted = seen + count * QUERIES_OF_THE_READER
    deadline = time.monotonic() + SILENCE_SECONDS
    while time.monotonic() < deadline:
        now = answers()
        if now >= wanted:
            return
        if now > seen:
            # However slow the machine is: it does get ahead.
            seen, deadline = now, time.monotonic() + SILENCE_SECONDS
        time.sleep(0.1)
    raise EmbedPipelineError("The demo's reader does not get ahead.", next_step=f"Look at {notes}.")


def _rounds(answers: list[dict[str, object]], story: Story) -> list[Round]:
    """Recall of each full round of the reader; a failed request counts as not found."""
    story.facts["answers"] = len(answers)
    story.facts["errors"] = [answer["error"] for answer in answers if "error" in answer]
    story.facts["mixed_answers"] = sum(1 for answer in answers if not answer.get("one_space", True))
    rounds = []
    for start in range(0, len(answers) - QUERIES_OF_THE_READER + 1, QUERIES_OF_THE_READER):
        part = answers[start : start + QUERIES_OF_THE_READER]
        found = sum(bool(answer.get("found")) for answer in part) / len(part)
        versions = tuple(sorted({str(answer.get("version")) for answer in part}))
        is_refined = all(answer.get("route") == "refine" for answer in part)
        rounds.append(Round(float(str(part[-1]["at"])) - story.started, found, versions, is_refined))
    return rounds


def _tell(console: Console, stage: Stage, place: Place, story: Story, rounds: list[Round]) -> None:
    before = [each.recall for each in rounds if each.versions == ("v1",)]
    refined = [each.recall for each in rounds if each.is_refined]
    after = [each.recall for each in rounds if each.versions == ("v2",)]
    lowest = min(each.recall for each in rounds)
    written = json.loads(place.notes("writer").read_text())
    path = place.folder / "recall.png"
    picture.draw(story.trap, rounds, story.documents, path)
    story.facts |= {
        "documents": story.documents,
        "recall_v1": before[0],
        "recall_refined": refined[-1] if refined else None,
        "recall_lowest": lowest,
        "recall_v2": after[-1],
        "trap": [asdict(point) for point in story.trap],
        "trap_lowest": min(point.old_queries for point in story.trap),
        "writes": written,
        "seconds": time.time() - story.started,
        "steps": [(round(at - story.started, 1), name) for at, name in story.marks],
        "rounds": [(round(each.at, 1), each.recall, each.versions) for each in rounds],
    }
    (place.folder / "facts.json").write_text(json.dumps(story.facts, indent=2))
    console.rule("[bold]What happened")
    errors = story.facts["errors"]
    console.print(
        f"While it migrated, a writer made {sum(written.values())} changes ({written['inserted']} inserts, {written['edited']} edits, "
        f"{written['deleted']} deletes) and a reader asked {story.facts['answers']} queries.\n"
        f"Requests that failed: {len(errors) if isinstance(errors, list) else errors}. "
        f"Answers ranked in more than one space: {story.facts['mixed_answers']}.\n"
        f"recall@10 on the same {QUERIES_OF_THE_READER} queries: {before[0]:.2f} at first, "
        f"{f'{refined[-1]:.2f} refined by what was there of v2, ' if refined else ''}{lowest:.2f} at the lowest, {after[-1]:.2f} at the end. "
        f"The naive way fell to {story.facts['trap_lowest']:.2f}.\n"
    )
    if errors or story.facts["mixed_answers"]:
        raise EmbedPipelineError(
            f"The demo broke a promise; first failure: {errors or 'a mixed answer'}.", next_step=f"Look at {place.folder}."
        )
    if lowest < before[0] - RECALL_SLACK:
        raise EmbedPipelineError(
            f"Recall fell to {lowest:.2f} during the migration, below v1's {before[0]:.2f}.", next_step=f"Look at {place.folder}."
        )
    console.print(f"Next:\n{stage.next_steps()}\n", highlight=False, soft_wrap=True)
    console.print(
        f"The model of a live index was changed under {sum(written.values())} writes and {story.facts['answers']} searches: none failed, "
        f"and recall went from {before[0]:.2f} to {after[-1]:.2f} without a dip. Picture: {path}",
        highlight=False,
        soft_wrap=True,
    )
