"""`holdout check`: all that a gate would say of the held-out set, without a version being judged."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import psycopg

from embed_pipeline.catalog import serving, versions
from embed_pipeline.errors import HoldoutError
from embed_pipeline.evaluate import metrics
from embed_pipeline.evaluate.examine import Examined, Finding
from embed_pipeline.index import held_out
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import asked


@dataclass(frozen=True)
class HoldoutCheck:
    """What was found of a held-out set. `mean`: of the gate's metric, of the version that serves; None where none does, or it cannot be asked."""

    index: str
    queries: int
    different: int
    judged_documents: int
    missing_documents: int
    metric: str
    serves: str | None
    mean: float | None
    findings: tuple[Finding, ...]

    @property
    def is_usable(self) -> bool:
        """Whether a gate would judge on it."""
        return not any(each.refuses for each in self.findings)


def check(index: OpenIndex) -> HoldoutCheck:
    """Look at the held-out set and ask its queries of the version that serves. HoldoutError where none is declared or it cannot be read."""
    with index.connection() as conn:
        holdout = held_out.declared(index)
        if holdout is None:
            raise HoldoutError(
                f"Index {index.name!r} declares no held-out set.",
                next_step="Declare holdout.path in its defs.yaml: queries with graded judgements.",
            )
        examined = held_out.examined(conn, index, holdout)
        found = HoldoutCheck(
            index=index.name,
            queries=len(holdout.queries),
            different=examined.different,
            judged_documents=examined.judged,
            missing_documents=len(examined.missing),
            metric=index.spec.gate.metric,
            serves=serving.read(conn, index.name).version,
            mean=None,
            findings=examined.findings,
        )
        few = _too_few(index, examined)
        if few is not None:
            found = replace(found, findings=(*found.findings, few))
        if found.serves is None or not examined.holdout.queries:
            return found
        try:
            mean = _mean(conn, index, found.serves, examined)
        except asked.Unasked as problem:
            said = Finding("unasked", f"{problem.sentence[0].upper()}{problem.sentence[1:]}: {found.serves} was not asked.")
            return replace(found, findings=(*found.findings, said))
        assert index.spec.holdout is not None
        if mean < index.spec.holdout.min_baseline:
            found = replace(found, findings=(*found.findings, _unbelieved(found, mean, index.spec.holdout.min_baseline)))
        return replace(found, mean=mean)


def _too_few(index: OpenIndex, examined: Examined) -> Finding | None:
    least = index.spec.gate.min_queries
    if examined.different >= least or examined.refusal is not None:
        return None
    return Finding(
        "few_queries",
        f"There are {examined.different} queries, and the gate asks for at least {least}.",
        refuses=True,
        next_step="Add judged queries, or lower gate.min_queries in defs.yaml.",
    )


def _mean(conn: psycopg.Connection, index: OpenIndex, serves: str, examined: Examined) -> float:
    version = index.space(versions.get(conn, index.name, serves)).version
    metric = index.spec.gate.metric
    queries = asked.by_model_or_kept(conn, index, version, examined.holdout)
    found = asked.answers(conn, index, version, queries, metrics.parse_metric(metric).cutoff, lambda searches: None)
    return float(np.mean(examined.by_cluster(metrics.per_query(metric, examined.holdout.judgements, found.ann))))


def _unbelieved(found: HoldoutCheck, mean: float, least: float) -> Finding:
    return Finding(
        "baseline",
        f"{found.metric} of {found.serves}, which serves, is {mean:.3f}, below holdout.min_baseline {least:.3f}: a set on which nobody finds "
        "anything proves nothing, unless the candidate is proven better.",
        refuses=True,
        next_step="See whether its judgements are of these documents, or lower holdout.min_baseline in defs.yaml.",
    )
