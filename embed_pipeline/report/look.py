"""Look at an index without changing it: no schema, no registration, no lock that an application could meet.

`open_index` registers what is new in a declaration. Who only asks, or rolls back in an incident, must not start a migration by the
way (docs/decisions/0010).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from embed_pipeline.catalog import schema, versions
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import source as documents_source
from embed_pipeline.documents.source import Source
from embed_pipeline.errors import CatalogError, DocumentsTableError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import frozen
from embed_pipeline.migrate.frozen import Difference
from embed_pipeline.migrate.opening import open_index
from embed_pipeline.postgres.connection import check_server, connect, resolve_url
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.spec import IndexSpec

queries = Queries(__file__, "look.sql")


@dataclass(frozen=True)
class Look:
    """What is there already. `index` is None while the documents table, which this package makes itself, is not made yet.

    `unusable`: why no document can be read; asked for by who says so and shows what else there is.
    `differences`: the frozen facts that the declaration has otherwise than registered. `index` and `spec` are of what is registered then.
    `not_yet_set`: what may change, and is declared otherwise than when the index was worked on last.
    """

    spec: IndexSpec
    conn: psycopg.Connection
    index: OpenIndex | None
    registered: list[Version]
    has_catalog: bool
    warnings: tuple[str, ...] = ()
    """What is to be said about the server itself."""
    unusable: DocumentsTableError | None = None
    differences: tuple[Difference, ...] = ()
    not_yet_set: tuple[Difference, ...] = ()


@contextmanager
def look(spec: IndexSpec, *, even_if_unusable: bool = False) -> Iterator[Look]:
    """A read-only session on the index's database. DocumentsTableError when a declared table is missing or lacks something.

    `even_if_unusable`: of an index that is registered the rest can be looked at all the same.
    """
    url = resolve_url(spec.database_url, start=False)
    with connect(url, autocommit=True) as conn:
        warnings = check_server(conn, spec.pgvector.accept)
        conn.execute(queries("read_only"))
        has_catalog = _has_catalog(conn)
        known = frozen.registered(conn, spec.name) if has_catalog else None
        differences = () if known is None else tuple(frozen.differences(known, spec))
        not_yet_set = () if known is None else tuple(frozen.not_yet_set(known, spec))
        if known is not None:
            spec = frozen.as_registered(known, spec)
        registered = [] if known is None else list(known.versions)
        unusable = None
        try:
            source = _source(conn, spec)
        except DocumentsTableError as problem:
            if not (even_if_unusable and registered):
                raise
            source, unusable = Source.unchecked(spec.source()), problem
        index = None if source is None else OpenIndex(spec, url, source)
        try:
            yield Look(spec, conn, index, registered, has_catalog, warnings, unusable, differences, not_yet_set)
        finally:
            if index is not None:
                index.close()


@contextmanager
def open_registered(spec: IndexSpec) -> Iterator[OpenIndex]:
    """The index with the versions that are registered already; the declaration is checked, and nothing new is registered."""
    with connect(resolve_url(spec.database_url), autocommit=True) as conn:
        known = {version.name for version in versions.list_versions(conn, spec.name)} if _has_catalog(conn) else set()
    if not known:
        raise CatalogError(
            f"No version of index {spec.name!r} is registered in its database yet.",
            next_step=f"Run: embed-pipeline backfill {spec.name} {next(iter(spec.versions))}",
        )
    declared = {name: version for name, version in spec.versions.items() if name in known}
    index = open_index(spec.model_copy(update={"versions": declared}))
    try:
        yield index
    finally:
        index.close()


@contextmanager
def catalog_connection(spec: IndexSpec) -> Iterator[psycopg.Connection]:
    """A connection to the catalog alone: for who must get through when the documents table or a model is broken."""
    with connect(resolve_url(spec.database_url), autocommit=True) as conn:
        if not _has_catalog(conn):
            raise CatalogError(
                f"Index {spec.name!r} is not registered in its database yet.",
                next_step=f"Run: embed-pipeline status {spec.name}",
            )
        yield conn


def _has_catalog(conn: psycopg.Connection) -> bool:
    revision = schema.current_revision(conn)
    if revision is not None and revision < schema.HEAD:
        raise CatalogError(
            f"The catalog in this database is at revision {revision}, and this package works with {schema.HEAD}.",
            next_step="Run embed-pipeline backfill, which migrates it.",
        )
    if revision is not None and revision > schema.HEAD:
        schema.require_known(conn, revision)
    return revision is not None


def _source(conn: psycopg.Connection, spec: IndexSpec) -> Source | None:
    declared = spec.source()
    if spec.makes_table:
        schema_name, table = documents_source.split_name(declared.table)
        found = conn.execute(queries("table_exists"), {"schema": schema_name, "table": table}).fetchone()
        if found is None or not found[0]:
            documents_source.refuse_gone(conn, declared)
            return None
    return documents_source.inspect(conn, declared)
