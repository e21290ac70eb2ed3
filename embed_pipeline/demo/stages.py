"""The stages there are, by kind of store. Each is imported when it is set up: Qdrant's client takes a second."""

from __future__ import annotations

from embed_pipeline.demo.stage import LayoutKind, Stage, StageKind
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.spec import IndexSpec


def stage_of(spec: IndexSpec) -> Stage:
    """The stage for an index that is declared already. ConfigurationError where its kind of store has none."""
    if spec.store.kind == "pgvector":
        from embed_pipeline.demo.on_pgvector import PgvectorStage

        return PgvectorStage(spec)
    if spec.store.kind == "qdrant":
        from embed_pipeline.demo.on_qdrant import QdrantStage

        return QdrantStage(spec)
    raise ConfigurationError(
        f"The demo cannot be shown on a store of kind {spec.store.kind!r}.", next_step="Use --store pgvector or --store qdrant."
    )


def set_up(declared: IndexSpec, store: StageKind, layout: LayoutKind) -> Stage:
    """The stage for the demo's declaration on the wanted store. Each store has an index, a database and a folder of its own."""
    if store == "qdrant":
        from embed_pipeline.demo.on_qdrant import on_qdrant

        declared = on_qdrant(declared, layout)
    return stage_of(declared)
