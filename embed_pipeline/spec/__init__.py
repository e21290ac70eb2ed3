"""What a user declares: one index, its documents, its store, its embedding versions, its gate.

These models are the contract of `defs.yaml` and the only place where pydantic is used. Everything below them takes plain values.
"""

from __future__ import annotations

from embed_pipeline.spec.accounts import AccountSpec, BudgetSpec, PriceSpec
from embed_pipeline.spec.base import is_name
from embed_pipeline.spec.index import IndexSpec, partition_keys
from embed_pipeline.spec.places import AdoptVectorsSpec, DocumentsSpec, PgvectorSpec, QdrantSpec
from embed_pipeline.spec.providers import PROVIDERS
from embed_pipeline.spec.rules import HoldoutSpec, ThrottleSpec, WatchSpec
from embed_pipeline.spec.stores import KINDS, AdoptCollectionSpec, AdoptSpec, StoreSpec, declaration_of, read_store
from embed_pipeline.spec.version import LOCAL, MOST_CHARACTERS, NOT_IDENTITY, ChunkerSpec, HnswSpec, VersionSpec

__all__ = [
    "KINDS",
    "LOCAL",
    "MOST_CHARACTERS",
    "NOT_IDENTITY",
    "PROVIDERS",
    "AccountSpec",
    "AdoptCollectionSpec",
    "AdoptSpec",
    "AdoptVectorsSpec",
    "BudgetSpec",
    "ChunkerSpec",
    "DocumentsSpec",
    "HnswSpec",
    "HoldoutSpec",
    "IndexSpec",
    "PgvectorSpec",
    "PriceSpec",
    "QdrantSpec",
    "StoreSpec",
    "ThrottleSpec",
    "VersionSpec",
    "WatchSpec",
    "declaration_of",
    "is_name",
    "partition_keys",
    "read_store",
]
