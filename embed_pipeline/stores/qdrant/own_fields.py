"""The payload fields of ours that requests filter by, each with the index that a collection is given for it. Needs no client."""

from __future__ import annotations

from collections.abc import Mapping

KEY = "embed_pipeline"
DELETED_AT = f"{KEY}.deleted_at"
"""Tombstones alone have it: its index is all but empty."""


def partition_of(version: str) -> str:
    """By which a comparison finds what the backfills of a partition have written."""
    return f"{KEY}.versions.{version}.partition"


def own_indexes(version: str) -> Mapping[str, str]:
    """Field to kind, for a collection that holds this version."""
    return {DELETED_AT: "float", partition_of(version): "integer"}
