"""Remove: an index, or all of them with the catalog, leaves without a trace. Documents and adopted collections stay.

It goes by the catalog alone, so that it works when a declaration, a model or the documents table is gone. Each step may be repeated, and the row
of the index goes last: who was killed in the middle runs the same command again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import psycopg
from psycopg import sql

from embed_pipeline.catalog import control, schema, searchers, serving, versions
from embed_pipeline.documents import capture
from embed_pipeline.documents.source import Source
from embed_pipeline.errors import CatalogError, RemoveRefused
from embed_pipeline.migrate.register import CATALOG, in_short_lock
from embed_pipeline.postgres import holders, turns
from embed_pipeline.postgres.queries import Queries, Verbatim
from embed_pipeline.signals import signal
from embed_pipeline.spec import DocumentsSpec, StoreSpec, read_store
from embed_pipeline.stores import registry
from embed_pipeline.stores.kind import kind_of
from embed_pipeline.stores.protocol import LeavingStore

queries = Queries(__file__, "remove.sql")

KINDS = (*capture.STATEMENT_KINDS, "row", "truncate")
# Their rows are of evidence, and have no index of their own.
JUDGED = ("judged_documents", "judged_queries")


@dataclass(frozen=True)
class Goes:
    """One object to drop and the lock that this takes, in words."""

    what: str
    lock: str


@dataclass(frozen=True)
class Removal:
    """The objects that a removal takes out and those that it leaves, listed before it is done."""

    goes: tuple[Goes, ...]
    stays: tuple[str, ...]


@dataclass(frozen=True)
class _Index:
    name: str
    source: Source
    store: StoreSpec
    serving: str | None

    @property
    def functions(self) -> list[str]:
        return [*(f"capture_{self.name}_{kind}" for kind in KINDS), f"gone_{self.name}", f"present_{self.name}"]


def plan(conn: psycopg.Connection, name: str | None, *, fields: bool = False) -> Removal:
    """The effects of removing an index (None: everything). Changes nothing. CatalogError where nothing is registered."""
    goes: list[Goes] = []
    stays: list[str] = []
    for index in _indexes(conn, name):
        for schema_name, table, trigger in _triggers(conn, index.functions):
            goes.append(
                Goes(
                    f"trigger {trigger} on {schema_name}.{table}",
                    f"ACCESS EXCLUSIVE on {schema_name}.{table}, tried for 2 s at a time",
                )
            )
        for words in _elsewhere(conn, index, fields, stays):
            goes.append(Goes(words, "none in PostgreSQL"))
        goes += [
            Goes(f"table embed_pipeline.{index.name}__{each.name}", "ACCESS EXCLUSIVE on it: searches of it wait, 2 s at a time")
            for each in versions.list_versions(conn, index.name)
            if kind_of(index.store).in_tables and each.dropped_at is None
        ]
        goes.append(
            Goes(
                f"functions and catalog rows of {index.name}, its audit included", "SHARE ROW EXCLUSIVE on tables of the catalog"
            )
        )
        stays.append(f"the documents table {index.source}")
    if name is None:
        goes.append(Goes("schema embed_pipeline with all that is left in it", "ACCESS EXCLUSIVE on its tables"))
        stays.append(
            "the extension vector, which other tables may use (DROP EXTENSION vector; roles and their memberships are yours too)"
        )
    return Removal(tuple(goes), tuple(dict.fromkeys(stays)))


def remove(
    conn: psycopg.Connection,
    name: str | None,
    confirm: str,
    *,
    unread_seconds: float,
    anyway: bool = False,
    fields: bool = False,
) -> Removal:
    """Remove an index, or everything; returns what that was. `unread_seconds`: who has read within them is a reader.

    RemoveRefused where the confirmation names something else, where it serves and is read (unless `anyway`), or where somebody's views stand on
    the catalog.
    """
    row = conn.execute(queries("database")).fetchone()
    wanted = name if name is not None or row is None else row[0]
    if confirm != wanted:
        raise RemoveRefused(
            f"The confirmation {confirm!r} does not name {wanted!r}; what is removed cannot be brought back.",
            next_step=f"Write --confirm {wanted}, once you are sure.",
            reason="not_confirmed",
        )
    found = plan(conn, name, fields=fields)
    indexes = list(_indexes(conn, name))
    if name is None:
        _refuse_dependents(conn)
    for index in indexes:
        if not anyway:
            _refuse_read(conn, index, unread_seconds)
    with ExitStack() as turn:
        for index in indexes:
            _only_one(conn, index, turn)
            _remove(conn, index, fields)
        if name is None:
            signal("remove.catalog")
            drop = lambda: conn.execute(queries("drop_schema"))  # noqa: E731
            in_short_lock(
                conn, drop, what="drop the catalog", table="tables of the catalog", locked=CATALOG, against=holders.ANY_LOCK
            )
    return found


def _indexes(conn: psycopg.Connection, name: str | None) -> Iterator[_Index]:
    known = schema.current_revision(conn) is not None
    rows = conn.execute(queries("registered"), {"index": name}).fetchall() if known else []
    if not known or (name is not None and not rows):
        raise CatalogError(
            f"Nothing of {'embed-pipeline' if name is None else f'index {name!r}'} is in this database.",
            next_step="Nothing to do; where it is in another one, name that with --database-url.",
        )
    for index, table, key, text, store, serves in rows:
        yield _Index(index, Source.unchecked(DocumentsSpec(table=table, key=key, text=text)), read_store(store), serves)


def _triggers(conn: psycopg.Connection, functions: Sequence[str]) -> list[tuple[str, str, str]]:
    return conn.execute(queries("triggers"), {"functions": list(functions)}).fetchall()


def _refuse_read(conn: psycopg.Connection, index: _Index, unread_seconds: float) -> None:
    if index.serving is None:
        return
    values = {"index": index.name, "seconds": unread_seconds, "gone": searchers.GONE_SECONDS}
    row = conn.execute(queries("read_lately"), values).fetchone()
    if row is not None and (row[0] is not None or row[1] is not None):
        by = f" by {row[1]}" if row[1] else ""
        raise RemoveRefused(
            f"{index.serving} serves {index.name} and is read{by}: whoever searches it would find nothing any more.",
            next_step="Stop the searches and wait, or run the same command with --anyway.",
            reason="read_lately",
            index=index.name,
        )


def _refuse_dependents(conn: psycopg.Connection) -> None:
    found = [words for (words,) in conn.execute(queries("foreign_dependents"))]
    if found:
        raise RemoveRefused(
            f"What is not this package's stands on the catalog and would be dropped with it: {', '.join(found)}.",
            next_step="Drop or change these first; then run the same command again.",
            reason="others_depend",
            objects=found,
        )


def _only_one(conn: psycopg.Connection, index: _Index, turn: ExitStack) -> None:
    name = f"embed_pipeline.move.{index.name}"
    turns.take(
        conn,
        name,
        "of_session",
        seconds=0,
        refused=lambda by: RemoveRefused(
            f"A cutover, rollback, retire or remove of {index.name} is running{by}.",
            next_step=f"Run: embed-pipeline status {index.name}",
            reason="another_move",
        ),
    )
    turn.callback(turns.end, conn, name, "of_session")


def _remove(conn: psycopg.Connection, index: _Index, fields: bool) -> None:
    # Backfills of other processes end at their next batch.
    control.set_state(conn, index.name, "aborted", "the index is being removed")
    for schema_name, table, trigger in _triggers(conn, index.functions):
        _disarm(conn, sql.Identifier(schema_name, table), sql.Identifier(trigger), index)
    signal("remove.disarmed")
    with ExitStack() as opened:
        for version in versions.list_versions(conn, index.name):
            store = registry.open_store(index.store, version, index.source)
            opened.callback(store.close)
            if isinstance(store, LeavingStore):
                if version.dropped_at is None:
                    store.leave(conn, fields=fields)
            elif not kind_of(index.store).in_tables:
                store.drop(conn)
    signal("remove.left")
    tables = [each.table for each in versions.list_versions(conn, index.name)]
    in_short_lock(
        conn,
        lambda: _forget(conn, index, tables if kind_of(index.store).in_tables else []),
        what=f"remove {index.name}",
        table=f"the vectors of {index.name}",
        locked=[*tables, *CATALOG],
        against=holders.ANY_LOCK,
    )


def _disarm(conn: psycopg.Connection, table: sql.Identifier, trigger: sql.Identifier, index: _Index) -> None:
    in_short_lock(
        conn,
        lambda: conn.execute(queries("drop_trigger", table=table, trigger=trigger)),
        what=f"drop a trigger of {index.name}",
        table=table.as_string(conn),
        locked=[table],
        against=holders.ANY_LOCK,
    )


def _forget(conn: psycopg.Connection, index: _Index, tables: Sequence[sql.Identifier]) -> None:
    values = {"index": index.name}
    conn.execute(queries("hold_versions"), values)
    for table in JUDGED:
        _delete(conn, "delete_judged", table, values, ruled=True)
    for table, ruled in conn.execute(queries("tables_with_rows")).fetchall():
        _delete(conn, "delete_rows", table, values, ruled=ruled)
    # Without its rows the view over all versions leaves its tables out.
    registry.refresh_views(conn)
    for each in tables:
        conn.execute(queries("drop_table", table=each))
    for (name,) in conn.execute(queries("functions"), {"functions": index.functions}).fetchall():
        conn.execute(queries("drop_function", function=Verbatim(name)))
    # Searches look again at once, and say that there is no such index.
    serving.notify(conn, index.name)


def _delete(conn: psycopg.Connection, query: str, name: str, values: dict[str, str], *, ruled: bool) -> None:
    table = sql.Identifier("embed_pipeline", name)
    if ruled:
        conn.execute(queries("without_rules", table=table))
    conn.execute(queries(query, table=table), values)
    if ruled:
        conn.execute(queries("with_rules", table=table))


def _elsewhere(conn: psycopg.Connection, index: _Index, fields: bool, stays: list[str]) -> list[str]:
    goes: list[str] = []
    with ExitStack() as opened:
        for version in versions.list_versions(conn, index.name):
            if version.dropped_at is not None or kind_of(index.store).in_tables:
                continue
            store = registry.open_store(index.store, version, index.source)
            opened.callback(store.close)
            if isinstance(store, LeavingStore):
                found = store.leaving(fields=fields)
                goes += found.goes
                stays += found.stays
    return list(dict.fromkeys(goes))
