"""From what was measured to a verdict, with everything a person wants to see of it; kept as evidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import psycopg

from embed_pipeline.catalog import evidence, judged_queries, versions
from embed_pipeline.catalog.evidence import Present, Texts
from embed_pipeline.catalog.judged_queries import QueryRow
from embed_pipeline.catalog.route import Kind
from embed_pipeline.catalog.versions import Version
from embed_pipeline.errors import HoldoutError
from embed_pipeline.evaluate import latency, metrics, per_query, report, slices
from embed_pipeline.evaluate import scores as scores_of
from embed_pipeline.evaluate.examine import Examined
from embed_pipeline.evaluate.measured import Measured, Ranking
from embed_pipeline.evaluate.picture import Picture
from embed_pipeline.evaluate.slices import Slice, SliceRule
from embed_pipeline.evaluate.statistics import overlap_at_k
from embed_pipeline.evaluate.verdict import GateRule, Outcome, Verdict, judge
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate.agreement import Agreement
from embed_pipeline.migrate.baseline import Baseline

# Shown in the picture of a verdict.
WORST = 3
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
    route: Kind = "direct"


def names(index: OpenIndex) -> list[str]:
    return list(dict.fromkeys([index.spec.gate.metric, *REPORTED]))


def _scores(metric: str, examined: Examined, ranking: Ranking) -> list[float]:
    """Of every query that says something different, in one order."""
    return examined.by_cluster(metrics.per_query(metric, examined.holdout.judgements, ranking))


def judge_measured(
    conn: psycopg.Connection,
    index: OpenIndex,
    version: Version,
    now: Present,
    texts: Texts,
    examined: Examined,
    candidate: Measured,
    compared: Baseline,
    more: dict[str, Any] | None = None,
) -> GateResult:
    """Judge what was measured and store the evidence, with `more` of what else was measured."""
    gate, baseline = index.spec.gate, compared.measured
    assert index.spec.holdout is not None
    rule = GateRule(gate.metric, gate.margin, gate.confidence, gate.min_queries, gate.floor, index.spec.holdout.min_baseline)
    scores = _scores(gate.metric, examined, candidate.ann)
    baseline_scores = None if baseline is None else _scores(gate.metric, examined, baseline.ann)
    verdict = judge(
        baseline_scores, scores, rule, candidate_name=candidate.version, baseline_name=baseline.version if baseline else ""
    )
    depth = metrics.parse_metric(gate.metric).cutoff
    outcome, sentence = _by_index(verdict, candidate, depth, gate.min_ann_recall, now.route)
    sliced = _sliced(index, examined, candidate, baseline, rule)
    meant = any(each.margin is not None for each in gate.slices.values())
    outcome, sentence = slices.joined(outcome, sentence, sliced, declared=meant)
    rows = [
        report.metric_row(
            name,
            None if baseline is None else _scores(name, examined, baseline.ann),
            _scores(name, examined, candidate.ann),
            confidence=gate.confidence,
        )
        for name in names(index)
    ]
    fallen = report.beyond(rows, gate.metric, gate.margin) if outcome == "pass" else ""
    sentence = " ".join(filter(None, [sentence, fallen, *(finding.sentence for finding in examined.findings), *compared.notes]))
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
        "slices": [asdict(each) for each in sliced],
    }
    queries = per_query.rows(examined, gate.metric, candidate, baseline)
    timed = [latency.of(each) for each in (baseline, candidate) if each is not None]
    measures |= latency.measures(timed[-1], timed[0] if baseline is not None else None) | (more or {})
    # What refines gives places and no scores.
    scored = [] if baseline is None or now.route == "refine" else [scores_of.of_baseline(queries, baseline.version)]
    if now.route != "refine":
        scored.append(scores_of.of_candidate(queries, candidate.version))
    tuned = None if now.route == "refine" else scores_of.threshold(queries)
    measures["scores"] = {"versions": [asdict(each) for each in scored], "threshold": None if tuned is None else asdict(tuned)}
    evidence_id = _store(conn, index, version, now, texts, outcome, sentence, measures, queries)
    baseline_name = None if baseline is None else baseline.version
    tables = [
        report.markdown_table(rows, candidate_name=candidate.version, baseline_name=baseline_name, confidence=gate.confidence),
        slices.markdown_table(sliced, candidate_name=candidate.version, baseline_name=baseline_name),
        latency.markdown_table(timed),
        scores_of.markdown_table(scored),
    ]
    picture = Picture(
        sentence,
        gate.metric,
        rows,
        gate.margin,
        candidate.version,
        baseline_name,
        sliced,
        [after - before for before, after in zip(baseline_scores or scores, scores, strict=True)],
        per_query.worst(queries, WORST),
        gate.floor,
    )
    return GateResult(
        index=index.name,
        version=version.name,
        baseline=baseline_name,
        outcome=outcome,
        sentence=sentence,
        evidence_id=evidence_id,
        measures=measures,
        table="\n".join(filter(None, tables)),
        threshold="" if tuned is None or baseline_name is None else tuned.sentence(candidate.version, baseline_name),
        draw=cache(picture.png),
        queries=tuple(queries),
        route=now.route,
    )


def _by_index(verdict: Verdict, candidate: Measured, depth: int, least: float, route: Kind) -> tuple[Outcome, str]:
    """The verdict, unless the ANN index that would serve finds too little of what is there."""
    ann_recall = candidate.ann_recall(depth)
    if ann_recall >= least:
        return verdict.outcome, verdict.sentence
    how_far = " (gate --ef-curve shows how far)" if route == "direct" else ""
    return "fail", (
        f"fail: the ANN index of {candidate.version} finds {ann_recall:.3f} of the exact top {depth}, below min_ann_recall {least:.3f}; "
        f"raise hnsw.ef_search{how_far}. Relevance: {verdict.sentence}"
    )


def _sliced(index: OpenIndex, examined: Examined, candidate: Measured, baseline: Measured | None, rule: GateRule) -> list[Slice]:
    judgements = examined.holdout.judgements
    return slices.look(
        examined,
        None if baseline is None else metrics.per_query(rule.metric, judgements, baseline.ann),
        metrics.per_query(rule.metric, judgements, candidate.ann),
        rule,
        {column: SliceRule(each.margin, each.values) for column, each in index.spec.gate.slices.items()},
        candidate_name=candidate.version,
        baseline_name="" if baseline is None else baseline.version,
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


def without_holdout(conn: psycopg.Connection, index: OpenIndex, version: Version, now: Present, texts: Texts) -> GateResult:
    """The first version of an index may serve without judgements: there is nothing it could be worse than."""
    if now.baseline_version is not None or index.spec.gate.floor is not None:
        raise nothing_to_judge_by(index, version.name)
    sentence = f"pass: {version.name} is the first version of {index.name} and no held-out set is declared; nothing was compared."
    evidence_id = _store(conn, index, version, now, texts, "pass", sentence, {})
    return GateResult(index.name, version.name, None, "pass", sentence, evidence_id, {}, "", None)


def as_adopted(
    conn: psycopg.Connection,
    index: OpenIndex,
    version: Version,
    now: Present,
    texts: Texts,
    agreed: Agreement | None,
    least: float,
) -> GateResult:
    """The first version of an index may serve with the vectors that were searched before, as far as they are its model's."""
    outcome: Outcome
    if version.declared.is_retired:
        outcome = "pass"
        sentence = (
            f"pass: {version.name} is adopted and the first version of {index.name}; its model {version.model_name} is retired, so nothing was "
            "compared. How well it finds was not judged."
        )
    elif agreed is None:
        outcome = "fail"
        sentence = f"fail: no vector of {version.name} could be compared with its text."
    else:
        outcome = "pass" if agreed.share >= least else "fail"
        sentence = (
            f"{outcome}: {version.name} is adopted and the first version of {index.name}; {agreed.sentence}, and store.adopt.min_agreement is "
            f"{least:.0%}. How well it finds was not judged."
        )
    measures = {"agreement": None if agreed is None else agreed.measures}
    evidence_id = _store(conn, index, version, now, texts, outcome, sentence, measures, kind="adopted")
    return GateResult(index.name, version.name, None, outcome, sentence, evidence_id, measures, "", None)


def nothing_to_judge_by(index: OpenIndex, name: str) -> HoldoutError:
    return HoldoutError(
        f"Index {index.name!r} declares no held-out set, so nothing can judge {name}.",
        next_step="Declare holdout.path in its defs.yaml: queries with graded judgements.",
    )


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
    kind: Literal["judged", "adopted"] = "judged",
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
            kind=kind,
            max_age_seconds=index.spec.gate.max_age_seconds,
        )
        judged_queries.keep(conn, evidence_id, index.name, version.name, now.route, queries)
        alone = measures.get("floor_alone")
        detail = {"floor_alone": alone} if alone else {}
        if kind == "adopted":
            detail = {"kind": kind, "agreement": measures["agreement"]}
        versions.record_event(
            conn,
            index.name,
            f"gate {outcome}",
            version=version.name,
            reason=sentence,
            evidence_id=evidence_id,
            detail=detail or None,
        )
    return evidence_id


class Counter:
    """Counts searches for whoever shows progress."""

    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def add(self, searches: int) -> None:
        self._done += searches
        if self._progress is not None:
            self._progress(self._done, self._total)
