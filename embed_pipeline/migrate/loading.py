"""Loads a file into the documents table that this package made. One transaction for one file: all of it or nothing.

The file is first copied into a temporary table, so the documents themselves are locked only while the changed ones are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from embed_pipeline.catalog import schema
from embed_pipeline.documents import source as documents_source
from embed_pipeline.documents.rows import Origin, Row, read_rows, rows_of, unit
from embed_pipeline.errors import LoadError, LossRefused
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import loss, register
from embed_pipeline.postgres import failures, turns
from embed_pipeline.postgres.connection import check_server, connect, resolve_url, warn
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.spec import IndexSpec

queries = Queries(__file__, "loading.sql")

REPORT_EVERY = 1_000
# Another load holds the documents only while it writes what differs.
TURN_SECONDS = 60.0


@dataclass(frozen=True)
class LoadReport:
    """The result of loading one file. `blank` documents have neither title nor text: they are stored, and become dead letters."""

    inserted: int
    updated: int
    unchanged: int
    deleted: int
    blank: int = 0

    @property
    def rows(self) -> int:
        """Documents in the file."""
        return self.inserted + self.updated + self.unchanged


def open_to_load(spec: IndexSpec) -> OpenIndex:
    """The index with its documents table, made when it is not there. Registers no version.

    A version registered over an empty table would have all that is loaded later in one partition.
    """
    _refuse_own_table(spec)
    url = resolve_url(spec.database_url)
    with connect(url, autocommit=True) as conn:
        warn(check_server(conn, spec.pgvector.accept))
        documents_source.ensure_default_table(conn, spec.source())
        index = OpenIndex(spec, url, documents_source.inspect(conn, spec.source()))
        try:
            if schema.current_revision(conn) is not None:
                register.require_ours(conn, index)
        except BaseException:
            index.close()
            raise
        return index


def load(
    index: OpenIndex,
    file: Path,
    *,
    full: bool,
    accept_loss: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> LoadReport:
    """Insert or update the documents in `file` (see `rows.read_rows`); with `full`, delete those that are not in it.

    Only rows that differ are written, so only those are captured. `progress` is told how many rows were read. LoadError
    when a row is no document, an id stands twice, or an empty file would delete everything, LossRefused when more would be deleted than
    reconcile.max_loss and `accept_loss` documents; then nothing was changed.
    """
    _refuse_own_table(index.spec)
    return _load(index, read_rows(file), file, full=full, accept_loss=accept_loss, progress=progress)


def load_table(index: OpenIndex, table: Any, called: str, *, full: bool, accept_loss: int | None = None) -> LoadReport:
    """The same of a table of pandas or Arrow (see `rows.rows_of`). `called`: what refusals call it."""
    _refuse_own_table(index.spec)
    return _load(index, rows_of(table, called), called, full=full, accept_loss=accept_loss)


def _load(
    index: OpenIndex,
    rows: Iterator[Row],
    file: Origin,
    *,
    full: bool,
    accept_loss: int | None,
    progress: Callable[[int], None] | None = None,
) -> LoadReport:
    with index.connection() as conn, conn.transaction():
        conn.execute(queries("make_staging"))
        total, blank = _stage(conn, rows, progress)
        conn.execute(queries("analyze_staged"))
        _refuse_repeated(conn, file)
        if full and total == 0:
            _refuse_emptying(conn, index, file)
        try:
            _take_turns(conn, index)
            if full:
                _refuse_loss(conn, index, file, accept_loss)
            inserted, updated, deleted = _write(conn, index, full)
        except psycopg.Error as refused:
            if not failures.is_about_the_data(refused):
                raise
            raise LoadError(
                f"PostgreSQL refused the documents of {file} in {index.source}: {refused.diag.message_primary}; "
                "nothing was loaded.",
                next_step=f"Correct the file, or the table {index.source} if something else made it.",
            ) from refused
    return LoadReport(inserted, updated, total - inserted - updated, deleted, blank)


def _take_turns(conn: psycopg.Connection, index: OpenIndex) -> None:
    turns.take(
        conn,
        f"embed_pipeline.load.{index.source}",
        "of_transaction",
        seconds=TURN_SECONDS,
        refused=lambda by: LoadError(
            f"Another load into {index.source} has been at it for {TURN_SECONDS:.0f} s{by}; nothing was loaded.",
            next_step="Run the same command again when that has ended.",
        ),
    )


def _stage(conn: psycopg.Connection, rows: Iterator[Row], progress: Callable[[int], None] | None) -> tuple[int, int]:
    """Copy every row into the temporary table; returns (rows, blank ones)."""
    total = blank = 0
    with conn.cursor() as cursor, cursor.copy(queries("copy_staged")) as copy:
        for row in rows:
            copy.write_row((row.position, row.id, row.title, row.text, row.metadata))
            total += 1
            blank += row.is_blank
            if progress is not None and total % REPORT_EVERY == 0:
                progress(total)
    if progress is not None:
        progress(total)
    return total, blank


def _write(conn: psycopg.Connection, index: OpenIndex, full: bool) -> tuple[int, int, int]:
    """From the temporary table into the documents: (inserted, updated, deleted)."""
    table: dict[str, sql.Composable] = {"table": index.source.identifier}
    with documents_source.applications_names(conn, index.source):
        changed = conn.execute(queries("upsert_documents", **table)).fetchone()
        assert changed is not None
        deleted = conn.execute(queries("delete_unseen", **table)).rowcount if full else 0
    return int(changed[0]), int(changed[1]), deleted


def _refuse_own_table(spec: IndexSpec) -> None:
    if not spec.makes_table:
        raise LoadError(
            f"The documents of index {spec.name!r} live in your own table {spec.source().table}.",
            next_step="Write there: every change of it reaches the index.",
        )


def _refuse_repeated(conn: psycopg.Connection, file: Origin) -> None:
    found = conn.execute(queries("first_repeated")).fetchone()
    if found is not None:
        doc_id, first, second = found
        raise LoadError(
            f"{file} has the id {doc_id!r} twice, in {unit(file)}s {first} and {second}; nothing was loaded.",
            next_step="Keep one row for each id.",
        )


def _refuse_loss(conn: psycopg.Connection, index: OpenIndex, file: Origin, accepted: int | None) -> None:
    row = conn.execute(queries("count_unseen", table=index.source.identifier)).fetchone()
    assert row is not None
    deleted, documents = row
    if loss.is_too_much(deleted, documents, index.spec.reconcile.max_loss, accepted):
        raise LossRefused(
            f"{file} lacks {deleted:,} of the {documents:,} documents of {index.source}, and {_full(file)} would delete these; nothing was changed.",
            next_step=_give_all(index.name, file, deleted),
            removed=deleted,
        )


def _full(file: Origin) -> str:
    return "--full" if isinstance(file, Path) else "`full`"


def _give_all(index: str, file: Origin, deleted: int) -> str:
    if isinstance(file, Path):
        return f"Give the whole file; or, if they are to go: embed-pipeline load {index} {file} --full --accept-loss {deleted}"
    return f"Give all documents; or, if they are to go, have accept_loss={deleted} said for this once."


def _refuse_emptying(conn: psycopg.Connection, index: OpenIndex, file: Origin) -> None:
    row = conn.execute(queries("has_documents", table=index.source.identifier)).fetchone()
    if row is not None and row[0]:
        raise LoadError(
            f"{file} holds no document, and {_full(file)} would delete every document of {index.source}; nothing was changed.",
            next_step=f"If that is meant, run: TRUNCATE {index.source}",
        )
