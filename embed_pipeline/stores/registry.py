"""From a declared store to an open one, and the view over the versions whose vectors are in tables."""

from __future__ import annotations

import psycopg

from embed_pipeline.catalog import indexes, versions
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents.source import Source
from embed_pipeline.postgres import turns
from embed_pipeline.spec import KINDS, StoreSpec
from embed_pipeline.stores.kind import kind_named, kind_of
from embed_pipeline.stores.protocol import VersionStore

VIEWS_TURN = "embed_pipeline.provenance"


def open_store(store: StoreSpec, version: Version, source: Source) -> VersionStore:
    """The store that holds the vectors of `version`."""
    return kind_of(store).load()(version, source, store)


def load(store: StoreSpec) -> None:
    """Import the kind now: a client takes seconds to import, and a store may be opened next under the documents lock."""
    kind_of(store).load()


def refresh_views(conn: psycopg.Connection) -> None:
    """Make the view embed_pipeline.provenance show exactly the live versions of every index whose vectors are in tables."""
    from embed_pipeline.stores.pgvector.provenance import replace_provenance

    # Views over several indexes are replaced one after another, whoever registers.
    turns.wait_in_transaction(conn, VIEWS_TURN)
    registered = indexes.kinds_of_store(conn)
    # A kind that another process added, the `memory` of an application's tests for one, must hold up no index of this one.
    in_tables = [index for index, kind in registered if kind in KINDS and kind_named(kind).in_tables]
    live = [version for index in in_tables for version in versions.live_versions(conn, index)]
    # One whose table somebody has dropped must not keep the others out of sight.
    replace_provenance(conn, [version for version in live if versions.has_table(conn, version)])
