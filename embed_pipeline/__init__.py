"""Embedding migrations as schema migrations: change the model of a live search index without losing a query.

The names below load on first use, so that `from embed_pipeline import Searcher` in a request path imports no Dagster.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embed_pipeline.dagster_layer.component import EmbeddingIndex
    from embed_pipeline.search import AsyncSearcher, Searcher

_LAZY = {
    "AsyncSearcher": "embed_pipeline.search",
    "EmbeddingIndex": "embed_pipeline.dagster_layer.component",
    "Searcher": "embed_pipeline.search",
}

__all__ = ["AsyncSearcher", "EmbeddingIndex", "Searcher"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    # dg's component registry lists a module with dir(): EmbeddingIndex must show although it is not imported yet.
    return sorted({*globals(), *_LAZY})
