"""The view embed_pipeline.provenance: what every stored vector of a version with tables is labelled with."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql

from embed_pipeline.catalog.versions import Version
from embed_pipeline.postgres.queries import Queries

queries = Queries(__file__, "pgvector.sql")


def provenance_branch(version: Version) -> sql.Composable:
    """The version's part of the view embed_pipeline.provenance."""
    return queries(
        "provenance_branch",
        index=sql.Literal(version.index),
        version=sql.Literal(version.name),
        table=version.table,
    )


def replace_provenance(conn: psycopg.Connection, versions: Sequence[Version]) -> None:
    """Make the view embed_pipeline.provenance show exactly these versions."""
    branches = [provenance_branch(version) for version in versions] or [queries("empty_provenance")]
    conn.execute(queries("replace_provenance", branches=sql.SQL("\nUNION ALL\n").join(branches)))
