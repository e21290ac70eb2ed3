"""Another name for the same: the table, a key or a text column was renamed, and the declaration says so.

Whether it is the same is not believed but compared: what is stored belongs to the texts that the new names give. Then the index follows,
and nothing is embedded again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

from embed_pipeline.catalog import versions
from embed_pipeline.errors import CatalogError

if TYPE_CHECKING:
    from embed_pipeline.migrate.open_index import OpenIndex

Names = tuple[Any, ...]
"""(table, key columns, text columns, place of the store) of an index."""


def may_follow(registered: Names, declared: Names) -> bool:
    """Whether only names may have changed: the store is where it was, and a key has as many columns."""
    return bool(registered[3] == declared[3] and len(registered[1]) == len(declared[1]))


def require_same(conn: psycopg.Connection, index: OpenIndex, registered: Names) -> None:
    """CatalogError where what is stored is of other texts than those that the declaration gives now.

    What the application has changed since the rename is another text too: a share of reconcile.max_loss may differ.
    """
    for version in versions.live_versions(conn, index.name):
        found = index.store(version).coverage(conn)
        differ = found.stale + found.orphaned
        if differ > index.spec.reconcile.max_loss * (found.current + differ):
            raise CatalogError(
                f"Index {index.name!r} is registered with {registered[:3]}, and of the {found.current + differ:,} documents that {version.name} "
                f"holds, {differ:,} have another text by the declaration as it is now, or none: these are no other names for the same.",
                next_step="Put the declaration back, or declare a new index under another name.",
            )
