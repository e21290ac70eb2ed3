"""Follows a renamed table, key or text column once the declaration names it anew.

Whether it is the same is not believed but compared: what is stored belongs to the texts that the new names give. Then the index follows,
and nothing is embedded again.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from embed_pipeline.catalog import versions
from embed_pipeline.errors import CatalogError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import frozen
from embed_pipeline.migrate.frozen import Difference, Registered


def require_same(conn: psycopg.Connection, index: OpenIndex, known: Registered, renamed: Sequence[Difference]) -> None:
    """CatalogError where what is stored is of other texts than those that the declaration gives now.

    What the application has changed since the rename is another text too: a share of reconcile.max_loss may differ.
    """
    if len(index.spec.source().key) != len(known.documents.key):
        frozen.refuse(index.name, renamed)
    for version in versions.live_versions(conn, index.name):
        found = index.store(version).coverage(conn)
        differ = found.stale + found.orphaned
        if differ > index.spec.reconcile.max_loss * (found.current + differ):
            raise CatalogError(
                f"In the declaration of index {index.name!r} {'; '.join(map(str, renamed))}; and of the {found.current + differ:,} documents that "
                f"{version.name} holds, {differ:,} have another text by the declaration as it is now, or none: these are no other names "
                "for the same.",
                next_step="Put the registered values back, or declare a new index under another name.",
            )
