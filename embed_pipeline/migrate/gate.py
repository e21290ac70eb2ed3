"""The gate: judge one version against the serving one on the held-out set, and keep the evidence.

Every query is searched through the store's real ANN path and exactly, in each version with that version's own query vectors. The ANN path
decides, since that is what will be served; exact search beside it tells what the index costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg

from embed_pipeline.catalog import adapters, serving, versions
from embed_pipeline.catalog.route import Kind, Route
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import shape
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.errors import IllegalTransition
from embed_pipeline.evaluate import metrics
from embed_pipeline.evaluate.measured import Measured
from embed_pipeline.index import held_out
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import (
    adopt_vectors,
    agreement,
    asked,
    beside,
    dual_write,
    ef_search,
    judged,
    refine_gate,
    verdicts,
    verify,
)
from embed_pipeline.migrate import baseline as baselines
from embed_pipeline.migrate.asked import Asked
from embed_pipeline.migrate.baseline import Baseline, Behind
from embed_pipeline.migrate.verdicts import Counter, GateResult, names, nothing_to_judge_by, without_holdout
from embed_pipeline.stores.adopting import adoption_of


def run(
    index: OpenIndex,
    name: str,
    progress: Callable[[int, int], None] | None = None,
    *,
    route: Kind = "direct",
    ef_curve: bool = False,
) -> GateResult:
    """Judge `name` now and store the evidence. IllegalTransition when it is not complete, HoldoutError when the set cannot judge,
    GateRefused when documents wait, or what serves cannot be measured.

    `ef_curve`: other values of `hnsw.ef_search` are measured as well, and kept with the evidence; of the direct route alone.
    `route`: what is judged of it, that it serves itself, that it refines what serves, or that its queries are mapped into what serves.
    CutoverRefused or AdapterRefused where it cannot do that.
    """
    if route != "direct":
        return _run_beside(index, name, route, progress)
    if ef_curve:
        ef_search.require(index)
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
        adoption = adoption_of(index.store(version))
        is_retired = version.declared.is_retired
        # A floor asks for a judgement; of a model that is gone there can be none.
        if adoption is not None and now.baseline_version is None and (is_retired or index.spec.gate.floor is None):
            sample = [] if is_retired else sorted(texts.sampled)[: agreement.SAMPLE]
            agreed = adopt_vectors.of_stored(conn, index, version, sample)
            return verdicts.as_adopted(conn, index, version, now, texts, agreed, adoption.min_agreement)
        if holdout is None:
            return without_holdout(conn, index, version, now, texts)
        examined = held_out.examined(conn, index, holdout, documents)
        held_out.require(examined)
        values = len(ef_search.tried(index, version)) if ef_curve else 0
        counter = Counter(progress, 2 * len(examined.holdout.queries) * (values + (2 if now.baseline_version else 1)))
        depth = max(metrics.parse_metric(each).cutoff for each in names(index))
        queries = asked.by_model(conn, index, version, examined.holdout)
        candidate = asked.answers(conn, index, version, queries, depth, counter.add)
        curve = ef_search.curve(conn, index, version, queries.vectors, counter.add) if ef_curve else None
        more = {} if curve is None else {"ef_curve": curve.measures}
        baseline = Baseline()
        if now.baseline_version is not None:
            old = versions.get(conn, index.name, now.baseline_version)
            baseline = baselines.ask(conn, index, old, behind, texts, documents, examined.holdout, depth, counter.add)
        return verdicts.judge_measured(conn, index, version, now, texts, examined, candidate, baseline, more)


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


def _run_beside(index: OpenIndex, name: str, kind: Kind, progress: Callable[[int, int], None] | None) -> GateResult:
    """Judge what `name` makes of what serves, refined or asked by it, against what serves alone."""
    with index.connection() as conn:
        version = index.space(index.version(conn, name)).version
        _refuse_doubts(conn, index)
        route = beside.wanted(conn, index, version, kind)
        holdout = held_out.declared(index)
        if holdout is None:
            raise nothing_to_judge_by(index, str(route))
        mark = dual_write.distributor(index).take_mark(conn)
        if kind == "refine":
            baselines.bring_up_to(conn, index, name, mark, may_lag=False)
        behind = baselines.bring_up_to(conn, index, route.version, mark, may_lag=True)
        documents, texts = judged.texts(conn, index, holdout.document_ids())
        now = judged.present(conn, index, version, documents, kind)
        examined = held_out.examined(conn, index, holdout, documents)
        held_out.require(examined)
        serves = versions.get(conn, index.name, route.version)
        counter = Counter(progress, 4 * len(examined.holdout.queries))
        depth = max(metrics.parse_metric(each).cutoff for each in names(index))
        baseline = baselines.ask(conn, index, serves, behind, texts, documents, examined.holdout, depth, counter.add)
        queries = asked.by_model(conn, index, version, examined.holdout).vectors
        if kind == "refine":
            listed = asked.by_model(conn, index, serves, examined.holdout).vectors
            candidate, measures = refine_gate.candidate(conn, index, route, (listed, queries), depth, counter.add)
            measures |= {"depth": now.depth, "filled": now.filled}
        else:
            candidate, measures = _bridged(conn, index, route, serves, queries, depth, counter)
            # Written since the old model is gone, or set aside by it: a bridge leads to none of them.
            measures["not found"] = max(now.documents - index.store(serves).count(conn), 0)
        found = [candidate] if baseline.measured is None else [candidate, baseline.measured]
        agreed = refine_gate.agreement(conn, index, version, queries, depth, *found)
        measures |= {
            "embedding_ms": refine_gate.embedding_ms(index, version, examined.holdout),
            "agreement_candidate": agreed[0],
            "agreement_baseline": agreed[1] if len(agreed) > 1 else None,
        }
        return verdicts.judge_measured(conn, index, version, now, texts, examined, candidate, baseline, measures)


def _bridged(
    conn: psycopg.Connection,
    index: OpenIndex,
    route: Route,
    serves: Version,
    queries: dict[str, Vectors],
    depth: int,
    counter: Counter,
) -> tuple[Measured, dict[str, Any]]:
    """What the vectors that serve answer to queries of another space, mapped by the adapter; and on what that was fitted."""
    assert route.adapter is not None
    adapter = adapters.read(conn, index.name, route.adapter)
    assert adapter is not None
    mapped = Asked({query_id: adapter.map.apply(vector) for query_id, vector in queries.items()})
    found = replace(asked.answers(conn, index, serves, mapped, depth, counter.add), version=str(route))
    return found, {"adapter": adapter.id, "pairs": adapter.pairs, "kind": adapter.kind}
