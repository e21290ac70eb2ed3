"""Embedding migrations as schema migrations: change the model of a live search index without losing a query.

What applications and pipelines may use is here; docs/reference/python.md describes it. The names load on first use, so that
`from embed_pipeline import Searcher` in a request path imports no Dagster.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from embed_pipeline.extras import needed_for

if TYPE_CHECKING:
    from embed_pipeline.async_search import AsyncSearcher as AsyncSearcher
    from embed_pipeline.configuration import load_indexes as load_indexes
    from embed_pipeline.dagster_layer.component import EmbeddingIndex as EmbeddingIndex
    from embed_pipeline.dagster_layer.io_manager import DocumentsIOManager as DocumentsIOManager
    from embed_pipeline.evaluate.from_log import from_log as holdout_from_log
    from embed_pipeline.index.handle import OpenIndex as OpenIndex
    from embed_pipeline.migrate.ann_index import build as build_ann_index
    from embed_pipeline.migrate.backfill import fill_partition as fill_partition
    from embed_pipeline.migrate.cutover import Moved as Moved
    from embed_pipeline.migrate.cutover import cutover as cutover
    from embed_pipeline.migrate.cutover import rollback as rollback
    from embed_pipeline.migrate.dual_write import VersionSync as VersionSync
    from embed_pipeline.migrate.dual_write import sync as sync
    from embed_pipeline.migrate.evidence_of import GateEvidence as GateEvidence
    from embed_pipeline.migrate.evidence_of import evidence as evidence
    from embed_pipeline.migrate.gate import run as gate
    from embed_pipeline.migrate.loading import load as load
    from embed_pipeline.migrate.loading import open_to_load as open_to_load
    from embed_pipeline.migrate.opening import opened as opened
    from embed_pipeline.migrate.retire import retire as retire
    from embed_pipeline.migrate.verdicts import GateResult as GateResult
    from embed_pipeline.migrate.verify import reconcile as reconcile
    from embed_pipeline.migrate.verify import verify as verify
    from embed_pipeline.report.index_status import IndexStatus as IndexStatus
    from embed_pipeline.report.plan import plan as plan
    from embed_pipeline.report.shadow import ShadowReport as ShadowReport
    from embed_pipeline.report.shadow import shadow_report as shadow_report
    from embed_pipeline.report.status import status_of as status
    from embed_pipeline.search import Answer as Answer
    from embed_pipeline.search import QueryVector as QueryVector
    from embed_pipeline.search import Searcher as Searcher
    from embed_pipeline.stores.protocol import Hit as Hit

_LAZY = {
    "Answer": "search",
    "AsyncSearcher": "async_search",
    "DocumentsIOManager": "dagster_layer.io_manager",
    "EmbeddingIndex": "dagster_layer.component",
    "GateEvidence": "migrate.evidence_of",
    "GateResult": "migrate.verdicts",
    "Hit": "stores.protocol",
    "IndexStatus": "report.index_status",
    "Moved": "migrate.cutover",
    "OpenIndex": "index.handle",
    "QueryVector": "search",
    "Searcher": "search",
    "ShadowReport": "report.shadow",
    "VersionSync": "migrate.dual_write",
    "build_ann_index": "migrate.ann_index:build",
    "cutover": "migrate.cutover",
    "evidence": "migrate.evidence_of",
    "fill_partition": "migrate.backfill",
    "gate": "migrate.gate:run",
    "holdout_from_log": "evaluate.from_log:from_log",
    "load": "migrate.loading",
    "load_indexes": "configuration",
    "open_to_load": "migrate.loading",
    "opened": "migrate.opening",
    "plan": "report.plan",
    "reconcile": "migrate.verify",
    "retire": "migrate.retire",
    "rollback": "migrate.cutover",
    "shadow_report": "report.shadow",
    "status": "report.status:status_of",
    "sync": "migrate.dual_write",
    "verify": "migrate.verify",
}
"""Where each name is: a module of this package, and after a colon its name there where that is another one."""

__all__ = [
    "Answer",
    "AsyncSearcher",
    "DocumentsIOManager",
    "EmbeddingIndex",
    "GateEvidence",
    "GateResult",
    "Hit",
    "IndexStatus",
    "Moved",
    "OpenIndex",
    "QueryVector",
    "Searcher",
    "ShadowReport",
    "VersionSync",
    "build_ann_index",
    "cutover",
    "evidence",
    "fill_partition",
    "gate",
    "holdout_from_log",
    "load",
    "load_indexes",
    "open_to_load",
    "opened",
    "plan",
    "reconcile",
    "retire",
    "rollback",
    "shadow_report",
    "status",
    "sync",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, there = _LAZY[name].partition(":")
    with needed_for(name):
        return getattr(import_module(f"{__name__}.{module}"), there or name)


def __dir__() -> list[str]:
    # dg's component registry lists a module with dir(): EmbeddingIndex must show although it is not imported yet.
    return sorted({*globals(), *_LAZY})
