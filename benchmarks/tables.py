"""The names inside the package that benchmarks have to know. Everything else goes by the package's own verbs."""

from __future__ import annotations

from psycopg import sql

from embed_pipeline.catalog.versions import Version

# What the worker's statements about waiting changes name, for pg_stat_statements.
WAITING = ("embed_pipeline.pending", "embed_pipeline.inbox")
# The statement that claims a batch, as a LIKE pattern.
CLAIM = "%SET claim = %attempts%"
# Moments of a cutover (embed_pipeline.signals): just before its flip begins, and just after it is committed.
FLIP = ("cutover.covered", "cutover.flipped")


def of_version(version: Version) -> list[sql.Identifier]:
    """The tables that hold a version's vectors."""
    return [version.table]


def vectors(version: Version) -> sql.Identifier:
    """The one with doc_id and embedding, which is searched."""
    return version.table
