"""What of a declaration is frozen once it is registered, and what takes effect whenever it is changed: every field of it, in one place.

A frozen fact decides what stored vectors and hashes mean, or where they are: another value would leave them behind. How a changed one is
refused: `migrate/frozen.py`. The tables name every field of their models (tests/unit/test_frozen.py). Those of a kind of store stand beside its
fields (`StoreSpec.fates`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Fate = Literal["frozen", "free", "local", "apart"]
"""`local`: free, and true of one machine only. `apart`: a model with a table of its own."""

INDEX: Mapping[str, Fate] = {
    "name": "frozen",
    "database_url": "free",
    "pgvector": "free",
    "documents": "apart",
    "store": "apart",
    # The key ranges of a version are cut when it is registered.
    "partitions": "frozen",
    "versions": "apart",
    "accounts": "free",
    "prices": "free",
    "budget": "free",
    "model_check": "free",
    "holdout": "free",
    "gate": "free",
    "while_building": "free",
    "adapter": "free",
    "backfill": "free",
    "reconcile": "free",
    "checks": "free",
    "doctor": "free",
    "throttle": "free",
    "retire": "free",
    "watch": "free",
}

DOCUMENTS: Mapping[str, Fate] = {
    "table": "frozen",
    "key": "frozen",
    "text": "frozen",
    # Dagster's, and kept by no catalog.
    "asset": "local",
    "payload": "free",
    "payload_object": "free",
    "payload_indexes": "free",
}

# Free is what steers speed or the ANN index, or says where a file is, and leaves every vector as it is.
VERSION: Mapping[str, Fate] = {
    "provider": "frozen",
    "model_name": "frozen",
    "model_version": "frozen",
    "dimensions": "frozen",
    "distance": "frozen",
    "precision": "frozen",
    "normalize": "frozen",
    "query_prefix": "frozen",
    "document_prefix": "frozen",
    "document_input_type": "frozen",
    "query_input_type": "frozen",
    "account": "free",
    "base_url": "free",
    "api_version": "free",
    "send_dimensions": "free",
    "max_tokens": "frozen",
    "too_long": "frozen",
    "pooling": "frozen",
    "model_path": "local",
    "tokenizer_path": "local",
    "model_sha256": "free",
    "tokenizer_sha256": "free",
    "output": "frozen",
    "chunker": "frozen",
    "options": "frozen",
    "batch_size": "free",
    "max_in_flight": "free",
    "hnsw": "free",
    "min_score": "free",
    "store_config": "free",
}


def of_fate(table: Mapping[str, Fate], *wanted: Fate) -> frozenset[str]:
    """The fields of a table with one of these fates."""
    return frozenset(name for name, each in table.items() if each in wanted)
