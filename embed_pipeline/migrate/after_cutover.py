"""The watch after a cutover: the held-out queries go through what serves again and again, and what is proven worse is told, or rolled back.

What was judged is a generation of the pointer. Nothing is told of, and nothing moved, under another one: a person who moves the pointer
during a look has the last word.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import psycopg

from embed_pipeline.catalog import judged_queries, serving, versions, watch_looks
from embed_pipeline.catalog.route import Route
from embed_pipeline.catalog.watch_looks import Outcome, Slot
from embed_pipeline.documents import shape
from embed_pipeline.errors import ConfigurationError, CutoverRefused, EmbedPipelineError, VectorsGone, VersionRetired
from embed_pipeline.evaluate import metrics
from embed_pipeline.evaluate.examine import Examined
from embed_pipeline.evaluate.measured import Measured
from embed_pipeline.evaluate.repeated import Answers, judge_look
from embed_pipeline.evaluate.statistics import share_found
from embed_pipeline.index import held_out
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import asked, cutover, dual_write
from embed_pipeline.migrate import baseline as baselines
from embed_pipeline.migrate.cutover import Moved
from embed_pipeline.postgres import failures
from embed_pipeline.signals import signal
from embed_pipeline.spec import IndexSpec, WatchSpec

# A look may end anywhere: who stops waits no longer for it.
END_SECONDS = 5.0
# How often it is asked whether a look is due.
ASK_SECONDS = 1.0


@dataclass(frozen=True)
class Looked:
    """One look. `rolled_back`: what it led to. `not_rolled_back`: why it did not, where it should have."""

    index: str
    version: str
    generation: int
    number: int
    outcome: Outcome
    sentence: str
    measures: dict[str, Any]
    rolled_back: Moved | None = None
    not_rolled_back: str = ""

    @property
    def lines(self) -> list[str]:
        """What it found and what that led to, for a person."""
        if self.outcome == "overtaken":
            return [f"{self.index}: the pointer was moved during the look; it tells nothing of what serves now."]
        lines = [f"{self.index}: {self.sentence}"]
        if self.rolled_back is not None:
            lines.append(
                f"{self.index} was rolled back: {self.rolled_back.route} serves (generation {self.rolled_back.generation})."
            )
        elif self.not_rolled_back:
            lines.append(f"{self.index} could not be rolled back: {self.not_rolled_back}")
        elif self.outcome == "fail":
            lines.append(f"next: embed-pipeline rollback {self.index}")
        return lines


@dataclass(frozen=True)
class _Before:
    """What the version that served before answers: now, or as the gate kept it."""

    answers: Answers
    who: str


def look(index: OpenIndex) -> Looked | None:
    """Look if a look is due; None where it is not: none is left of this cutover, or another watcher has it.

    ConfigurationError where the index declares no `watch`.
    """
    declared = require_watch(index)
    with index.connection() as conn:
        slot = watch_looks.take(conn, index.name, declared.for_seconds, declared.every_seconds)
        if slot is None:
            return None
        signal("watch.taken")
        try:
            with failures.as_sentences():
                outcome, sentence, measures = _judged(conn, index, slot, declared.looks)
        except EmbedPipelineError as problem:
            outcome, sentence, measures = "unknown", f"unknown: {problem.message}", {}
        signal("watch.judged")
        outcome = watch_looks.end(conn, index.name, slot, outcome, sentence, measures)
        found = Looked(index.name, slot.version, slot.generation, slot.number, outcome, sentence, measures)
        if outcome == "fail":
            _say(conn, found)
    return _roll_back(index, found) if outcome == "fail" and declared.rollback == "auto" else found


def require_watch(index: OpenIndex) -> WatchSpec:
    """What the index declares of its watch."""
    if index.spec.watch is None:
        raise ConfigurationError(
            f"Index {index.name!r} declares no watch.", next_step="Declare in its defs.yaml: watch: {rollback: alert}."
        )
    return index.spec.watch


def is_watched(index: OpenIndex) -> bool:
    """Whether looks are left of the last cutover."""
    declared = require_watch(index)
    with index.connection() as conn:
        return watch_looks.is_watched(conn, index.name, declared.for_seconds)


def is_due(conn: psycopg.Connection, spec: IndexSpec) -> bool:
    """Whether a look is due now. A few indexed reads of the catalog: what a sensor asks."""
    declared = spec.watch
    return declared is not None and watch_looks.is_due(conn, spec.name, declared.for_seconds, declared.every_seconds)


def _judged(conn: psycopg.Connection, index: OpenIndex, slot: Slot, looks: int) -> tuple[Outcome, str, dict[str, Any]]:
    if serving.read(conn, index.name).route != Route(slot.version):
        return "unknown", "unknown: only a version that serves by itself is watched.", {}
    holdout = held_out.declared(index)
    if holdout is None:
        return "unknown", "unknown: no held-out set is declared, so nothing can be asked.", {}
    version, gate = index.version(conn, slot.version), index.spec.gate
    baselines.bring_up_to(conn, index, slot.version, dual_write.distributor(index).take_mark(conn), may_lag=False)
    examined = held_out.examined(conn, index, holdout)
    held_out.require(examined)
    depth = metrics.parse_metric(gate.metric).cutoff
    vectors = asked.by_model(conn, index, version, examined.holdout)
    now = asked.answers(conn, index, version, vectors, depth, lambda searches: None)
    before = _before(conn, index, slot, examined, depth)
    if before is None:
        return "unknown", f"unknown: nothing is known of what served before {slot.version}, so it is compared with nothing.", {}
    recalls = {each: share_found({each: now.steady[each]}, now.ann, depth) for each in now.ann if now.steady[each]}
    signals = judge_look(
        before.answers,
        _answers(index, examined, now),
        list(recalls.values()) or [1.0],
        margin=gate.margin,
        min_ann_recall=gate.min_ann_recall,
        confidence=gate.confidence,
        looks=looks,
    )
    proven = [each for each in signals if each.is_proven]
    outcome: Outcome = "fail" if proven else "well"
    sentence = (
        f"{outcome}: look {slot.number + 1} of {looks}, {gate.metric} of {slot.version} against {before.who} on {examined.different} queries: "
        f"{'; '.join(map(str, proven or signals))}; all looks together err with {100 * (1 - gate.confidence):g} %."
    )
    measures = {
        "signals": [asdict(each) for each in signals],
        "queries": examined.different,
        "p50_ms": float(np.percentile(now.ann_ms, 50)),
        "p95_ms": float(np.percentile(now.ann_ms, 95)),
        "before": before.who,
    }
    return outcome, sentence, measures


def _before(conn: psycopg.Connection, index: OpenIndex, slot: Slot, examined: Examined, depth: int) -> _Before | None:
    """The version before as it answers now; where it cannot any more (retired, behind, without its model), what serves as the gate saw it."""
    if slot.previous is not None:
        try:
            return _Before(_answers(index, examined, _asked_now(conn, index, slot.previous, examined, depth)), slot.previous)
        except (EmbedPipelineError, asked.Unasked, psycopg.errors.UndefinedTable):
            pass
    rows = [] if slot.evidence_id is None else judged_queries.read(conn, slot.evidence_id)
    kept = {row.query_id: row for row in rows if examined.holdout.queries.get(row.query_id) == row.query}
    if len(kept) < len(examined.holdout.queries):
        return None
    scores = {each: kept[each].candidate for each in examined.holdout.queries}
    hits = {each: float(bool(kept[each].candidate_hits)) for each in examined.holdout.queries}
    return _Before(Answers(examined.by_cluster(scores), examined.by_cluster(hits)), f"{slot.version} as its gate saw it")


def _asked_now(conn: psycopg.Connection, index: OpenIndex, name: str, examined: Examined, depth: int) -> Measured:
    version = versions.get(conn, index.name, name)
    if not version.is_live:
        raise VersionRetired(f"{name} is retired.", next_step=f"Run: embed-pipeline status {index.name}")
    signal("watch.asks_before")
    baselines.bring_up_to(conn, index, name, dual_write.distributor(index).take_mark(conn), may_lag=False)
    vectors = asked.by_model_or_kept(conn, index, version, examined.holdout)
    found = asked.answers(conn, index, version, vectors, depth, lambda searches: None)
    if not any(found.exact.values()):
        raise VectorsGone(f"{name} finds nothing at all.", next_step=f"Run: embed-pipeline status {index.name}")
    return found


def _answers(index: OpenIndex, examined: Examined, found: Measured) -> Answers:
    scores = metrics.per_query(index.spec.gate.metric, examined.holdout.judgements, found.ann)
    hits = {each: float(bool(ranking)) for each, ranking in found.ann.items()}
    return Answers(examined.by_cluster(scores), examined.by_cluster(hits))


def _say(conn: psycopg.Connection, found: Looked) -> None:
    detail = {"generation": found.generation, "look": found.number, **found.measures}
    versions.record_event(conn, found.index, "watch fail", version=found.version, reason=found.sentence, detail=detail)


def _roll_back(index: OpenIndex, found: Looked) -> Looked:
    """Only from the generation that was judged, and to a version that is standby, current, and nothing of it doubted."""
    reason = f"watch, look {found.number} of generation {found.generation}: {found.sentence}"
    try:
        with index.connection() as conn:
            _require_way_back(conn, index, found)
        signal("watch.rolls_back")
        moved = cutover.rollback(index, reason, generation=found.generation)
        return Looked(**{**vars(found), "rolled_back": moved})
    except EmbedPipelineError as problem:
        why = problem.message
        with index.connection() as conn:
            versions.record_event(conn, index.name, "watch could not roll back", version=found.version, reason=why)
        return Looked(**{**vars(found), "not_rolled_back": why})


def _require_way_back(conn: psycopg.Connection, index: OpenIndex, found: Looked) -> None:
    pointer = serving.read(conn, index.name)
    before = None if pointer.previous is None else versions.get(conn, index.name, pointer.previous)
    if before is None or before.state != "standby":
        raise CutoverRefused(
            f"No version that served {index.name} before is standby, so there is no way back.",
            next_step=f"Run: embed-pipeline status {index.name}",
            reason="nothing_before",
        )
    if doubts := shape.look(conn, index.source, index.name):
        raise CutoverRefused(
            f"Changes of {index.source} may have been missed: {'; '.join(doubt.reason for doubt in doubts)}.",
            next_step=f"Run: embed-pipeline sync {index.name} --full; then: embed-pipeline rollback {index.name}",
            reason="doubts",
            doubts=[doubt.reason for doubt in doubts],
        )


class Looking:
    """The looks of `sync --watch`, in a thread of their own, where the index declares a watch."""

    def __init__(self, index: OpenIndex, stop: threading.Event, report: Callable[[Looked | EmbedPipelineError], None]) -> None:
        self._index = index
        self._stop = stop
        self._report = report
        self._thread: threading.Thread | None = None
        self._due = 0.0

    def begin_if_due(self) -> None:
        """Look, unless a look lasts."""
        if (
            self._index.spec.watch is None
            or time.monotonic() < self._due
            or (self._thread is not None and self._thread.is_alive())
        ):
            return
        self._due = time.monotonic() + ASK_SECONDS
        self._thread = threading.Thread(target=self._look, name="look", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait a little for a look that is nearly done."""
        if self._thread is not None:
            self._thread.join(END_SECONDS)

    def _look(self) -> None:
        try:
            with failures.as_sentences():
                found = look(self._index)
        except EmbedPipelineError as problem:
            if not self._stop.is_set():
                self._report(problem)
        else:
            if found is not None:
                self._report(found)
