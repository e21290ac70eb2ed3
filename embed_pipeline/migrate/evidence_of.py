"""The newest evidence about a version, with what each query found: for notebooks and reports."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from embed_pipeline.catalog import evidence as evidence_store
from embed_pipeline.catalog import judged_queries
from embed_pipeline.catalog.judged_queries import QueryRow
from embed_pipeline.errors import CatalogError
from embed_pipeline.evaluate import per_query
from embed_pipeline.evaluate.ef_curve import EfCurve
from embed_pipeline.extras import needed_for
from embed_pipeline.index.handle import OpenIndex


@dataclass(frozen=True)
class GateEvidence:
    """A verdict as it was kept: `queries` has what each held-out query found under both versions."""

    id: int
    index: str
    version: str
    baseline: str | None
    outcome: str
    sentence: str
    measures: dict[str, Any]
    created_at: datetime
    queries: tuple[QueryRow, ...]

    @property
    def ef_curve(self) -> EfCurve | None:
        """What other values of `hnsw.ef_search` would find; None where the gate did not measure that (`gate --ef-curve`)."""
        return EfCurve.of(self.measures)

    def worst(self, count: int) -> list[QueryRow]:
        """The queries that lost most; where nothing was compared with, those that found least."""
        return per_query.worst(self.queries, count)

    def to_pandas(self) -> Any:
        """A data frame with one row for each query. Needs the extra `pandas`."""
        with needed_for("A data frame"):
            import pandas as pd
        return pd.DataFrame([per_query.as_values(row) for row in self.queries])


def evidence(index: OpenIndex, version: str) -> GateEvidence:
    """The newest evidence about a version, whatever its outcome. CatalogError when it was never judged."""
    with index.connection() as conn:
        found = evidence_store.latest(conn, index.name, version)
        if found is None:
            raise CatalogError(
                f"Version {version} of {index.name} was never judged.",
                next_step=f"Run: embed-pipeline gate {index.name} {version}",
            )
        rows = judged_queries.read(conn, found.id)
    return GateEvidence(
        id=found.id,
        index=index.name,
        version=version,
        baseline=found.baseline_version,
        outcome=found.outcome,
        sentence=found.sentence,
        measures=found.measures,
        created_at=found.created_at,
        queries=tuple(rows),
    )
