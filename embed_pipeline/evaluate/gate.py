"""The gate: judge one version against the serving one on the held-out set, and keep the evidence.

Every query is searched through the store's real ANN path and exactly, in each version with that version's own query vectors. The ANN path
decides, since that is what will be served; exact search beside it tells what the index costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from embed_pipeline.catalog import adapters, evidence, serving, versions
from embed_pipeline.catalog.evidence import Present
from embed_pipeline.catalog.route import Kind, Route
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import census, shape
from embed_pipeline.embedders.protocol import Urgency, Vectors
from embed_pipeline.errors import HoldoutError, IllegalTransition
from embed_pipeline.evaluate import beside, metrics, refine_gate, report
from embed_pipeline.evaluate.holdout import Holdout, load_holdout, require_known_documents
from embed_pipeline.evaluate.measured import Measured, Ranking, Searches, measure
from embed_pipeline.evaluate.statistics import overlap_at_k
from embed_pipeline.evaluate.verdict import GateRule, Outcome, judge
from embed_pipeline.migrate import verify
from embed_pipeline.migrate.open_index import OpenIndex

# Shown beside the metric that decides.
REPORTED = ("recall@10", "nDCG@10", "RR@10")


@dataclass(frozen=True)
class GateResult:
    """The verdict with everything that a person or a pipeline wants to see of it.

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
    route: Kind = "direct"


def run(index: OpenIndex, name: str, progress: Callable[[int, int], None] | None = None, *, route: Kind = "direct") -> GateResult:
    """Judge `name` now and store the evidence. IllegalTransition when it is not complete, HoldoutError when the set cannot judge.

    `route`: what is judged of it, that it serves itself, that it refines what serves, or that its queries are mapped into what serves.
    CutoverRefused or AdapterRefused where it cannot do that.
    """
    if route != "direct":
        return _run_beside(index, name, route, progress)
    with index.connection() as conn:
        # As it is searched here, which is what is judged.
        version = index.space(index.version(conn, name)).version
        _require_complete(conn, index, version)
        _refuse_doubts(conn, index)
        # What a cutover has to compare after this is what has changed since.
        verify.compare_all(conn, index, version, whole=True)
        now = present(conn, index, version)
        if index.spec.holdout is None:
            return _without_holdout(conn, index, version, now)
        holdout = _holdout(conn, index, index.spec.holdout.path)
        total = 2 * len(holdout.queries) * (2 if now.baseline_version else 1)
        counter = _Counter(progress, total)
        candidate = _measure(conn, index, version, holdout, counter)
        baseline = None
        if now.baseline_version is not None:
            baseline = _measure(conn, index, versions.get(conn, index.name, now.baseline_version), holdout, counter)
        return _judge(conn, index, version, now, holdout, candidate, baseline)


def _run_beside(index: OpenIndex, name: str, kind: Kind, progress: Callable[[int, int], None] | None) -> GateResult:
    """Judge what `name` makes of what serves, refined or asked by it, against what serves alone."""
    with index.connection() as conn:
        version = index.space(index.version(conn, name)).version
        now = present(conn, index, version, kind)
        route = Route(str(now.baseline_version), name, now.depth)
        if now.adapter is not None:
            route = Route(str(now.baseline_version), queries=name, adapter=now.adapter)
        _refuse_doubts(conn, index)
        if index.spec.holdout is None:
            raise _nothing_to_judge_by(index, str(route))
        holdout = _holdout(conn, index, index.spec.holdout.path)
        serves = versions.get(conn, index.name, route.version)
        counter, depth = _Counter(progress, 4 * len(holdout.queries)), _depth(index)
        queries = _queries(index, serves, holdout), _queries(index, version, holdout)
        baseline = _search(conn, index, serves, queries[0], counter)
        if kind == "refine":
            candidate, measures = refine_gate.candidate(conn, index, route, queries, depth, counter.add)
            measures |= {"depth": now.depth, "filled": now.filled}
        else:
            candidate, measures = _bridged(conn, index, route, serves, queries[1], counter)
            # Written since the old model is gone, or set aside by it: a bridge leads to none of them.
            measures["not found"] = max(now.documents - index.store(serves).count(conn), 0)
        agreed = refine_gate.agreement(conn, index, version, queries[1], depth, candidate, baseline)
        measures |= {
            "embedding_ms": refine_gate.embedding_ms(index, version, holdout),
            "agreement_candidate": agreed[0],
            "agreement_baseline": agreed[1],
        }
        return _judge(conn, index, version, now, holdout, candidate, baseline, measures)


def _bridged(
    conn: psycopg.Connection, index: OpenIndex, route: Route, serves: Version, queries: dict[str, Vectors], counter: _Counter
) -> tuple[Measured, dict[str, Any]]:
    """What the vectors that serve answer to queries of another space, mapped by the adapter; and on what that was fitted."""
    assert route.adapter is not None
    adapter = adapters.read(conn, index.name, route.adapter)
    assert adapter is not None
    mapped = {query_id: adapter.map.apply(vector) for query_id, vector in queries.items()}
    found = replace(_search(conn, index, serves, mapped, counter), version=str(route))
    return found, {"adapter": adapter.id, "pairs": adapter.pairs, "kind": adapter.kind}


def present(conn: psycopg.Connection, index: OpenIndex, version: Version, route: Kind = "direct") -> Present:
    """The world that evidence about `version` describes, as it is now, and the version as it is searched."""
    if route != "direct":
        sha256 = None if index.spec.holdout is None else load_holdout(index.spec.holdout.path).sha256
        return beside.present(conn, index, version, route, sha256)
    pointer = serving.read(conn, index.name)
    ann = index.store(version).ann_index(conn)
    return Present(
        fingerprint=version.fingerprint,
        baseline_version=pointer.version if pointer.version != version.name else None,
        holdout_sha256=None if index.spec.holdout is None else load_holdout(index.spec.holdout.path).sha256,
        documents=census.count(conn, index.source),
        ann_index=None if ann is None else ann.oid,
        ef_search=version.declared.hnsw.ef_search,
    )


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


def _holdout(conn: psycopg.Connection, index: OpenIndex, path: Path) -> Holdout:
    holdout = load_holdout(path)
    unknown = census.missing_ids(conn, index.source, sorted(holdout.document_ids()))
    require_known_documents(holdout, unknown)
    return holdout


def _measure(conn: psycopg.Connection, index: OpenIndex, version: Version, holdout: Holdout, counter: _Counter) -> Measured:
    return _search(conn, index, version, _queries(index, version, holdout), counter)


def _queries(index: OpenIndex, version: Version, holdout: Holdout) -> dict[str, Vectors]:
    """The vectors of the held-out queries in the version's space."""
    ids = list(holdout.queries)
    answer = index.space(version).embedder.embed_queries([holdout.queries[query_id] for query_id in ids], Urgency.CHECK)
    if answer.rejected:
        position, reason = next(iter(answer.rejected.items()))
        raise HoldoutError(
            f"{len(answer.rejected)} held-out queries have no vector in {version.name}; first {ids[position]!r}: {reason}.",
            next_step="Remove them from the held-out set, or declare too_long: truncate.",
        )
    return dict(zip(holdout.queries, answer.vectors, strict=True))


def _search(
    conn: psycopg.Connection, index: OpenIndex, version: Version, queries: dict[str, Vectors], counter: _Counter
) -> Measured:
    store, depth = index.space(version).store, _depth(index)
    search = Searches(
        ann=lambda vector: store.search(conn, vector, depth),
        exact=lambda vectors: store.search_exact(conn, vectors, depth),
        counted=counter.add,
    )
    return measure(version.name, queries, search, depth)


def _depth(index: OpenIndex) -> int:
    return max(metrics.parse_metric(name).cutoff for name in _names(index))


def _names(index: OpenIndex) -> list[str]:
    return list(dict.fromkeys([index.spec.gate.metric, *REPORTED]))


def _scores(metric: str, holdout: Holdout, ranking: Ranking) -> list[float]:
    values = metrics.per_query(metric, holdout.judgements, ranking)
    return [values[query_id] for query_id in holdout.queries]


def _judge(
    conn: psycopg.Connection,
    index: OpenIndex,
    version: Version,
    now: Present,
    holdout: Holdout,
    candidate: Measured,
    baseline: Measured | None,
    more: dict[str, Any] | None = None,
) -> GateResult:
    """Judge what was measured and store the evidence, with `more` of what else was measured."""
    gate = index.spec.gate
    rule = GateRule(gate.metric, gate.margin, gate.confidence, gate.min_queries, gate.floor)
    scores = _scores(gate.metric, holdout, candidate.ann)
    baseline_scores = None if baseline is None else _scores(gate.metric, holdout, baseline.ann)
    verdict = judge(
        baseline_scores, scores, rule, candidate_name=candidate.version, baseline_name=baseline.version if baseline else ""
    )
    depth = metrics.parse_metric(gate.metric).cutoff
    outcome, sentence = verdict.outcome, verdict.sentence
    ann_recall = candidate.ann_recall(depth)
    if ann_recall < gate.min_ann_recall:
        outcome = "fail"
        sentence = (
            f"fail: the ANN index of {candidate.version} finds {ann_recall:.3f} of the exact top {depth}, below "
            f"min_ann_recall {gate.min_ann_recall:.3f}; raise hnsw.ef_search. Relevance: {verdict.sentence}"
        )
    rows = [
        report.metric_row(
            name,
            None if baseline is None else _scores(name, holdout, baseline.ann),
            _scores(name, holdout, candidate.ann),
            confidence=gate.confidence,
        )
        for name in _names(index)
    ]
    measures = _measures(holdout, candidate, baseline, gate.metric, depth) | {
        "metric": gate.metric,
        "mean_baseline": verdict.mean_baseline,
        "mean_candidate": verdict.mean_candidate,
        "difference": verdict.difference,
        "lower": verdict.lower,
        "upper": verdict.upper,
        "queries": verdict.queries,
        "queries_needed": verdict.queries_needed,
        "margin": gate.margin,
        "confidence": gate.confidence,
        "rows": [asdict(row) for row in rows],
    }
    measures |= more or {}
    evidence_id = _store(conn, index, version, now, outcome, sentence, measures)
    baseline_name = None if baseline is None else baseline.version
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
        table=report.markdown_table(
            rows, candidate_name=candidate.version, baseline_name=baseline_name, confidence=gate.confidence
        ),
        draw=cache(
            partial(
                report.plot_png,
                rows,
                differences,
                candidate_name=candidate.version,
                baseline_name=baseline_name,
                margin=gate.margin,
            )
        ),
        route=now.route,
    )


def _measures(holdout: Holdout, candidate: Measured, baseline: Measured | None, metric: str, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "ann_recall": candidate.ann_recall(depth),
        "exact_candidate": float(np.mean(_scores(metric, holdout, candidate.exact))),
        "unjudged": metrics.unjudged_at_k(holdout.judgements, candidate.ann, depth),
    }
    if baseline is not None:
        found["ann_recall_baseline"] = baseline.ann_recall(depth)
        found["exact_baseline"] = float(np.mean(_scores(metric, holdout, baseline.exact)))
        # Information, no gate: a better model should disagree; about zero points to a wrong prefix or misaligned rows.
        found["overlap"] = overlap_at_k(baseline.ann, candidate.ann, depth)
    return found


def _without_holdout(conn: psycopg.Connection, index: OpenIndex, version: Version, now: Present) -> GateResult:
    """The first version of an index may serve without judgements: there is nothing it could be worse than."""
    if now.baseline_version is not None or index.spec.gate.floor is not None:
        raise _nothing_to_judge_by(index, version.name)
    sentence = f"pass: {version.name} is the first version of {index.name} and no held-out set is declared; nothing was compared."
    evidence_id = _store(conn, index, version, now, "pass", sentence, {})
    return GateResult(index.name, version.name, None, "pass", sentence, evidence_id, {}, "", None)


def _nothing_to_judge_by(index: OpenIndex, what: str) -> HoldoutError:
    return HoldoutError(
        f"Index {index.name!r} declares no held-out set, so nothing can judge {what}.",
        next_step="Declare holdout.path in its defs.yaml: queries with graded judgements.",
    )


def _store(
    conn: psycopg.Connection,
    index: OpenIndex,
    version: Version,
    now: Present,
    outcome: Outcome,
    sentence: str,
    measures: dict[str, Any],
) -> int:
    baseline = None if now.baseline_version is None else versions.get(conn, index.name, now.baseline_version)
    with conn.transaction():
        evidence_id = evidence.store(
            conn,
            index.name,
            version.name,
            present=now,
            baseline_fingerprint=None if baseline is None else baseline.fingerprint,
            outcome=outcome,
            sentence=sentence,
            vectors=index.store(version).count(conn),
            measures=measures,
            max_age_seconds=index.spec.gate.max_age_seconds,
        )
        versions.record_event(conn, index.name, f"gate {outcome}", version=version.name, reason=sentence, evidence_id=evidence_id)
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
