"""The gate: judge one version against the serving one on the held-out set, and keep the evidence.

Every query is searched through the store's real ANN path and exactly, in each version with that version's own query vectors. The ANN path
decides, since that is what will be served; exact search beside it tells what the index costs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import psycopg

from embed_pipeline.catalog import evidence, judged_queries, serving, versions
from embed_pipeline.catalog.evidence import Present, Texts
from embed_pipeline.catalog.judged_queries import QueryRow
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import shape
from embed_pipeline.errors import HoldoutError, IllegalTransition
from embed_pipeline.evaluate import metrics, per_query, report
from embed_pipeline.evaluate import scores as scores_of
from embed_pipeline.evaluate.examine import Examined
from embed_pipeline.evaluate.measured import Measured, Ranking
from embed_pipeline.evaluate.statistics import overlap_at_k
from embed_pipeline.evaluate.verdict import GateRule, Outcome, judge
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import asked, dual_write, held_out, judged, verify
from embed_pipeline.migrate import baseline as baselines
from embed_pipeline.migrate.baseline import Baseline, Behind

# Shown beside the metric that decides.
REPORTED = ("recall@10", "nDCG@10", "RR@10")


@dataclass(frozen=True)
class GateResult:
    """The verdict with everything that a person or a pipeline wants to see of it.

    `queries`: what each held-out query found, which is kept with the evidence.
    `threshold`: what a threshold on scores that was tuned on the version that serves would do to this one; empty where that is not known.
    `draw`: makes the picture of it as a PNG, for those who show one; None when no held-out set was used.
    """

    index: str
    version: str
    baseline: str | None
    outcome: Outcome
    sentence: str
    evidence_id: int
    measures: dict[str, Any]
    table: str
    draw: Callable[[], bytes] | None
    queries: tuple[QueryRow, ...] = ()
    threshold: str = ""


def run(index: OpenIndex, name: str, progress: Callable[[int, int], None] | None = None) -> GateResult:
    """Judge `name` now and store the evidence. IllegalTransition when it is not complete, HoldoutError when the set cannot judge,
    GateRefused when documents wait, or what serves cannot be measured."""
    with index.connection() as conn:
        # As it is searched here, which is what is judged.
        version = index.space(index.version(conn, name)).version
        _require_complete(conn, index, version)
        _refuse_doubts(conn, index)
        serves = serving.read(conn, index.name).version
        mark = dual_write.distributor(index).take_mark(conn)
        baselines.bring_up_to(conn, index, name, mark, may_lag=False)
        behind = Behind() if serves in (None, name) else baselines.bring_up_to(conn, index, str(serves), mark, may_lag=True)
        # What a cutover has to compare after this is what has changed since.
        verify.compare_all(conn, index, version, whole=True)
        holdout = held_out.declared(index)
        # Before the first search: a document that changes under it is another one than was judged.
        documents, texts = judged.texts(conn, index, [] if holdout is None else holdout.document_ids())
        now = judged.present(conn, index, version, documents)
        if holdout is None:
            return _without_holdout(conn, index, version, now, texts)
        examined = held_out.examined(conn, index, holdout, documents)
        held_out.require(examined)
        counter = _Counter(progress, 2 * len(examined.holdout.queries) * (2 if now.baseline_version else 1))
        depth = max(metrics.parse_metric(each).cutoff for each in _names(index))
        queries = asked.by_model(conn, index, version, examined.holdout)
        candidate = asked.answers(conn, index, version, queries, depth, counter.add)
        baseline = Baseline()
        if now.baseline_version is not None:
            old = versions.get(conn, index.name, now.baseline_version)
            baseline = baselines.ask(conn, index, old, behind, texts, documents, examined.holdout, depth, counter.add)
        return _judge(conn, index, version, now, texts, examined, candidate, baseline)


def _require_complete(conn: psycopg.Connection, index: OpenIndex, version: Version) -> None:
    if version.state in ("building", "retired"):
        raise IllegalTransition(
            f"Version {version.name!r} of index {index.name!r} is {version.state}; there is nothing complete to judge.",
            next_step=f"Run: embed-pipeline backfill {index.name} {version.name}",
        )


def _refuse_doubts(conn: psycopg.Connection, index: OpenIndex) -> None:
    doubts = shape.look(conn, index.source, index.name)
    if doubts:
        raise IllegalTransition(
            f"Changes of {index.source} may have been missed: {'; '.join(doubt.reason for doubt in doubts)}. Nothing was judged.",
            next_step=f"Run: embed-pipeline sync {index.name} --full",
        )


def _names(index: OpenIndex) -> list[str]:
    return list(dict.fromkeys([index.spec.gate.metric, *REPORTED]))


def _scores(metric: str, examined: Examined, ranking: Ranking) -> list[float]:
    """Of every query that says something different, in one order."""
    return examined.by_cluster(metrics.per_query(metric, examined.holdout.judgements, ranking))


def _judge(
    conn: psycopg.Connection,
    index: OpenIndex,
    version: Version,
    now: Present,
    texts: Texts,
    examined: Examined,
    candidate: Measured,
    compared: Baseline,
) -> GateResult:
    gate, baseline = index.spec.gate, compared.measured
    assert index.spec.holdout is not None
    rule = GateRule(gate.metric, gate.margin, gate.confidence, gate.min_queries, gate.floor, index.spec.holdout.min_baseline)
    scores = _scores(gate.metric, examined, candidate.ann)
    baseline_scores = None if baseline is None else _scores(gate.metric, examined, baseline.ann)
    verdict = judge(
        baseline_scores, scores, rule, candidate_name=version.name, baseline_name=baseline.version if baseline else ""
    )
    depth = metrics.parse_metric(gate.metric).cutoff
    outcome, sentence = verdict.outcome, verdict.sentence
    ann_recall = candidate.ann_recall(depth)
    if ann_recall < gate.min_ann_recall:
        outcome = "fail"
        sentence = (
            f"fail: the ANN index of {version.name} finds {ann_recall:.3f} of the exact top {depth}, below "
            f"min_ann_recall {gate.min_ann_recall:.3f}; raise hnsw.ef_search. Relevance: {verdict.sentence}"
        )
    sentence = " ".join([sentence, *(finding.sentence for finding in examined.findings), *compared.notes])
    rows = [
        report.metric_row(
            name,
            None if baseline is None else _scores(name, examined, baseline.ann),
            _scores(name, examined, candidate.ann),
            confidence=gate.confidence,
        )
        for name in _names(index)
    ]
    measures = _measures(examined, candidate, baseline, gate.metric, depth) | {
        "metric": gate.metric,
        "mean_baseline": verdict.mean_baseline,
        "mean_candidate": verdict.mean_candidate,
        "difference": verdict.difference,
        "lower": verdict.lower,
        "upper": verdict.upper,
        "queries": verdict.queries,
        "queries_written": len(examined.holdout.queries),
        "findings": [asdict(finding) for finding in examined.findings],
        "missing_documents": len(examined.missing),
        "floor_alone": compared.alone or None,
        "queries_needed": verdict.queries_needed,
        "margin": gate.margin,
        "confidence": gate.confidence,
        "rows": [asdict(row) for row in rows],
    }
    queries = per_query.rows(examined, gate.metric, candidate, baseline)
    scored = [] if baseline is None else [scores_of.of_baseline(queries, baseline.version)]
    scored.append(scores_of.of_candidate(queries, version.name))
    tuned = scores_of.threshold(queries)
    measures["scores"] = {"versions": [asdict(each) for each in scored], "threshold": None if tuned is None else asdict(tuned)}
    evidence_id = _store(conn, index, version, now, texts, outcome, sentence, measures, queries)
    baseline_name = None if baseline is None else baseline.version
    table = report.markdown_table(rows, candidate_name=version.name, baseline_name=baseline_name, confidence=gate.confidence)
    differences = (
        None if baseline_scores is None else [after - before for before, after in zip(baseline_scores, scores, strict=True)]
    )
    return GateResult(
        index=index.name,
        version=version.name,
        baseline=baseline_name,
        outcome=outcome,
        sentence=sentence,
        evidence_id=evidence_id,
        measures=measures,
        table=f"{table}\n{scores_of.markdown_table(scored)}",
        threshold="" if tuned is None or baseline_name is None else tuned.sentence(version.name, baseline_name),
        draw=cache(
            partial(
                report.plot_png, rows, differences, candidate_name=version.name, baseline_name=baseline_name, margin=gate.margin
            )
        ),
        queries=tuple(queries),
    )


def _measures(examined: Examined, candidate: Measured, baseline: Measured | None, metric: str, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "ann_recall": candidate.ann_recall(depth),
        "exact_candidate": float(np.mean(_scores(metric, examined, candidate.exact))),
        "unjudged": metrics.unjudged_at_k(examined.holdout.judgements, candidate.ann, depth),
    }
    if baseline is not None:
        found["ann_recall_baseline"] = baseline.ann_recall(depth)
        found["exact_baseline"] = float(np.mean(_scores(metric, examined, baseline.exact)))
        # Information, no gate: a better model should disagree; about zero points to a wrong prefix or misaligned rows.
        found["overlap"] = overlap_at_k(baseline.ann, candidate.ann, depth)
    return found


def _without_holdout(conn: psycopg.Connection, index: OpenIndex, version: Version, now: Present, texts: Texts) -> GateResult:
    """The first version of an index may serve without judgements: there is nothing it could be worse than."""
    if now.baseline_version is not None or index.spec.gate.floor is not None:
        raise HoldoutError(
            f"Index {index.name!r} declares no held-out set, so nothing can judge {version.name}.",
            next_step="Declare holdout.path in its defs.yaml: queries with graded judgements.",
        )
    sentence = f"pass: {version.name} is the first version of {index.name} and no held-out set is declared; nothing was compared."
    evidence_id = _store(conn, index, version, now, texts, "pass", sentence, {})
    return GateResult(index.name, version.name, None, "pass", sentence, evidence_id, {}, "", None)


def _store(
    conn: psycopg.Connection,
    index: OpenIndex,
    version: Version,
    now: Present,
    texts: Texts,
    outcome: Outcome,
    sentence: str,
    measures: dict[str, Any],
    queries: Sequence[QueryRow] = (),
) -> int:
    baseline = None if now.baseline_version is None else versions.get(conn, index.name, now.baseline_version)
    with conn.transaction():
        evidence_id = evidence.store(
            conn,
            index.name,
            version.name,
            present=now,
            texts=texts,
            baseline_fingerprint=None if baseline is None else baseline.fingerprint,
            outcome=outcome,
            sentence=sentence,
            vectors=index.store(version).count(conn),
            measures=measures,
            max_age_seconds=index.spec.gate.max_age_seconds,
        )
        judged_queries.keep(conn, evidence_id, index.name, version.name, queries)
        alone = measures.get("floor_alone")
        versions.record_event(
            conn,
            index.name,
            f"gate {outcome}",
            version=version.name,
            reason=sentence,
            evidence_id=evidence_id,
            detail={"floor_alone": alone} if alone else None,
        )
    return evidence_id


class _Counter:
    """Counts searches for whoever shows progress."""

    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def add(self, searches: int) -> None:
        self._done += searches
        if self._progress is not None:
            self._progress(self._done, self._total)
