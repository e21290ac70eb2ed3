"""The stages there are, by kind of store. Each is imported when it is set up: Qdrant's client takes a second."""

from __future__ import annotations

from embed_pipeline.demo.stage import LayoutKind, Stage, StoreKind
from embed_pipeline.spec import IndexSpec


def stage_of(spec: IndexSpec) -> Stage:
    """The stage for an index that is declared already."""
    if spec.store.kind == "pgvector":
        from embed_pipeline.demo.on_pgvector import PgvectorStage

        return PgvectorStage(spec)
    from embed_pipeline.demo.on_qdrant import QdrantStage

    return QdrantStage(spec)


def set_up(declared: IndexSpec, store: StoreKind, layout: LayoutKind) -> Stage:
    """The stage for the demo's declaration on the wanted store. Each store has an index, a database and a folder of its own."""
    if store == "pgvector":
        from embed_pipeline.demo.on_pgvector import PgvectorStage

        return PgvectorStage(declared)
    from embed_pipeline.demo.on_qdrant import QdrantStage, on_qdrant

    return QdrantStage(on_qdrant(declared, layout))
