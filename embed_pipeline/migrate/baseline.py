"""The version that serves, as the gate can measure it: by its model, by vectors that were kept, or not at all when its model is gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psycopg

from embed_pipeline.catalog.evidence import Texts
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import queue
from embed_pipeline.errors import EmbedPipelineError, GateRefused
from embed_pipeline.evaluate.holdout import Holdout
from embed_pipeline.evaluate.measured import Measured
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import asked, dual_write


@dataclass(frozen=True)
class Behind:
    """Documents of a version that wait for ever, since its model embeds no more. None of them: it is up to date."""

    doc_ids: tuple[str, ...] = ()
    problem: EmbedPipelineError | None = None


@dataclass(frozen=True)
class Baseline:
    """What the version that serves answered. `notes`: sentences for the verdict.

    `alone`: why it could not be measured, so that the floor alone decides; empty where it was, or where no version serves.
    """

    measured: Measured | None = None
    notes: tuple[str, ...] = ()
    alone: str = ""


def bring_up_to(conn: psycopg.Connection, index: OpenIndex, name: str, mark: int, *, may_lag: bool) -> Behind:
    """Both versions are judged on the documents of one moment: a version that lacks changes would look worse, or better, than it is.

    `may_lag`: where its model fails, what waits is returned instead; the caller decides whether it can be measured like that.
    """
    drained = dual_write.drain(index, name, mark)
    if not drained.left:
        return Behind()
    if may_lag and drained.problem is not None:
        return Behind(tuple(queue.ids_up_to(conn, index.name, name, mark)), drained.problem)
    held = "; ".join(map(str, queue.held_up(conn, index.name, name, mark)))
    why = "" if drained.problem is None else f", and it cannot embed them: {drained.problem.message.rstrip('.')}"
    mend = None if drained.problem is None else drained.problem.next_step
    raise GateRefused(
        f"{drained.left} documents of {name} have waited since before the gate began{why}. First: {held}. Nothing was judged.",
        next_step=mend or f"Run: embed-pipeline sync {index.name}",
        reason="documents_wait",
        version=name,
        waiting=drained.left,
    )


def ask(
    conn: psycopg.Connection,
    index: OpenIndex,
    serves: Version,
    behind: Behind,
    texts: Texts,
    documents: int,
    holdout: Holdout,
    depth: int,
    counted: Callable[[int], None],
) -> Baseline:
    """Measure it, if need be by what is left of it. GateRefused where that cannot be done and gate.floor may not decide alone."""
    unable, notes = _too_far_behind(index, serves.name, behind, texts, documents), []
    if not unable:
        if behind.doc_ids:
            notes.append(
                f"{len(behind.doc_ids)} documents, none of them judged, wait for {serves.name}, whose model does not answer."
            )
        try:
            queries = asked.by_model_or_kept(conn, index, serves, holdout)
        except asked.Unasked as problem:
            unable = problem.sentence
        else:
            if queries.problem is not None:
                notes.append(
                    f"The model of {serves.name} does not answer ({queries.problem.message.rstrip('.')}): its vectors of these queries were "
                    f"used as they were kept {_age(queries.seconds)} ago."
                )
            return Baseline(asked.answers(conn, index, serves, queries, depth, counted), tuple(notes))
    if not index.spec.gate.floor_alone:
        raise GateRefused(
            f"{serves.name} serves {index.name} and cannot be measured: {unable}. Nothing was judged.",
            next_step=f"Mend its model and run the gate again, or let the floor decide alone: declare gate.floor and gate.floor_alone: true in "
            f"the defs.yaml of {index.name}.",
            reason="baseline_cannot_be_measured",
            version=serves.name,
            waiting=len(behind.doc_ids),
        )
    return Baseline(notes=(f"{serves.name} serves and cannot be measured: {unable}. The floor alone decided.",), alone=unable)


def _too_far_behind(index: OpenIndex, name: str, behind: Behind, texts: Texts, documents: int) -> str:
    """Why documents that wait for it keep it from being measured: by what evidence may differ from the documents, it may."""
    if behind.problem is None:
        return ""
    judged = sum(doc_id in texts.judged for doc_id in behind.doc_ids)
    allowed = index.spec.gate.max_row_change
    if not judged and len(behind.doc_ids) <= allowed * documents:
        return ""
    return (
        f"{len(behind.doc_ids)} documents wait for it, {judged} of them judged, and it cannot embed them "
        f"({behind.problem.message.rstrip('.')})"
    )


def _age(seconds: float) -> str:
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            whole = int(seconds // length)
            return f"{whole} {unit}{'' if whole == 1 else 's'}"
    return f"{int(seconds)} s"
