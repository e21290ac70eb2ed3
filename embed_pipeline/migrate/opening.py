"""From a declaration to an open index: connects, checks the database and the documents table, and registers what is new."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from embed_pipeline.catalog import schema
from embed_pipeline.documents import source as documents_source
from embed_pipeline.documents.source import Source
from embed_pipeline.errors import DocumentsTableError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import frozen, register
from embed_pipeline.postgres import failures
from embed_pipeline.postgres.connection import check_server, connect, resolve_url, warn
from embed_pipeline.spec import IndexSpec
from embed_pipeline.stores import registry


def open_index(spec: IndexSpec, *, register_new: bool = True, ours: bool = True) -> OpenIndex:
    """Connect, bring the catalog up to date, check the documents table and register what is new in the declaration.

    AnotherLedger where what is registered belongs to another ledger; not `ours`: for who takes it over.

    Without `register_new` the catalog is taken as it is: for who must not wait for a lock on the documents (docs/decisions/0010).
    A connection that goes meanwhile is made again, once: all of this may be repeated.
    """
    url = resolve_url(spec.database_url)
    registry.load(spec.store)
    try:
        return _open_once(spec, url, register_new, ours)
    except psycopg.Error as problem:
        if not (failures.is_lost(problem, None) or problem.sqlstate is None):
            raise
    return _open_once(spec, url, register_new, ours)


def _open_once(spec: IndexSpec, url: str, register_new: bool, ours: bool) -> OpenIndex:
    conn = connect(url, autocommit=True)
    try:
        warn(check_server(conn, spec.pgvector.accept))
        schema.ensure(conn, url)
        if spec.makes_table:
            documents_source.ensure_default_table(conn, spec.source())
        source = _source(conn, spec, register_new)
        index = OpenIndex(spec, url, source)
        try:
            if ours:
                register.require_ours(conn, index)
            if register_new:
                register.register(conn, index)
        except BaseException:
            # Nobody gets the handle, so nobody else can let go of what it holds: a model, the folder of a store.
            index.close()
            raise
    except BaseException:
        conn.close()
        raise
    index.keep(conn)
    return index


def _source(conn: psycopg.Connection, spec: IndexSpec, register_new: bool) -> Source:
    """The documents table, once nothing that is frozen is declared otherwise. Whether another name is the same table, registration decides."""
    known = frozen.registered(conn, spec.name)
    if known is not None:
        documents = [] if register_new else frozen.of_documents(known, spec)
        frozen.refuse(spec.name, [*documents, *frozen.of_store(known, spec), *frozen.of_versions(known, spec)])
    try:
        return documents_source.inspect(conn, spec.source())
    except DocumentsTableError:
        if known is not None:
            frozen.refuse(spec.name, frozen.of_documents(known, spec))
        raise


@contextmanager
def opened(spec: IndexSpec, *, register_new: bool = True, ours: bool = True) -> Iterator[OpenIndex]:
    """The handle of a declared index, closed at the end of the block.

    Registers versions that are new in the declaration, unless `register_new` is False. `ours`: as `open_index` has it.
    Raises DatabaseUnavailable, DocumentsTableError, ConfigurationError or CatalogError: one sentence each.
    """
    index = open_index(spec, register_new=register_new, ours=ours)
    try:
        yield index
    finally:
        index.close()
