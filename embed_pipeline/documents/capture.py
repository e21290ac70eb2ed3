"""Change capture: triggers that leave the ids of what a statement changed in the inbox, in the writer's own transaction.

They know no versions and look at no row of ours, so that a transaction of the application never waits for a worker, whatever its
isolation level, and pays the same for one live version and for five. They are made once, when the index is registered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import errors, sql

from embed_pipeline.documents.source import Source
from embed_pipeline.errors import DocumentsTableError
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.signals import signal

queries = Queries(__file__, "capture.sql")

STATEMENT_KINDS = ("insert", "update", "delete")
# What these types look like as text depends on no setting of a session. Setting all of them costs every statement some microseconds.
PLAIN_TYPES = frozenset(
    ("smallint", "integer", "bigint", "numeric", "text", "character varying", "character", "uuid", "boolean", "name", "jsonb")
)


def lock(conn: psycopg.Connection, source: Source) -> None:
    """Wait for every writer in flight and keep new ones out until the transaction ends. Taken once, never upgraded."""
    conn.execute(queries("lock_documents", documents=source.identifier))


def install(conn: psycopg.Connection, source: Source, index: str, *, payload: bool) -> None:
    """Make or replace the functions and triggers. With `payload` a change of the documents' payload is a change, not only one of the text.

    The caller holds `lock`.
    """
    known = leaves(conn, source) if source.partitioned else []
    _make_functions(conn, source, index, payload)
    _make_row_function(conn, source, index, payload, [] if source.has_parent else known)
    tables = [source.identifier, *(leaf.table for leaf in known)]
    for table in tables:
        arm_statements(conn, source, index, table)
    # PostgreSQL clones a row trigger to every partition, also to one that is attached later. Of an ordinary table only replicated
    # changes need it, and with ENABLE REPLICA it fires for nothing else.
    _arm(conn, source.identifier, index, "row", "enable_always" if _row_by_row(source) else "enable_replica")
    _disarm_others(conn, index, tables)


def arm_statements(conn: psycopg.Connection, source: Source, index: str, table: sql.Identifier) -> None:
    """The statement triggers of one table: of a partition they fire for statements that name it.

    A statement on a parent of the documents table fires none of them, and the row trigger sees all: then it sees alone.
    """
    for kind in STATEMENT_KINDS:
        if source.has_parent:
            _disarm(conn, table, trigger_name(index, kind))
        else:
            _arm(conn, table, index, kind)
    _arm(conn, table, index, "truncate", "enable_always")


def know_leaves(conn: psycopg.Connection, source: Source, index: str, *, payload: bool) -> None:
    """From here on the row trigger leaves the partitions to their statement triggers, which the caller has armed and committed."""
    if not source.has_parent:
        _make_row_function(conn, source, index, payload, leaves(conn, source))


def _row_by_row(source: Source) -> bool:
    return source.partitioned or source.has_parent


def _disarm_others(conn: psycopg.Connection, index: str, tables: Sequence[sql.Identifier]) -> None:
    """Other tables are not documents any more: one that was swapped for another, or detached. Those of other owners are left alone."""
    values = {"tables": [table.as_string(conn) for table in tables], "triggers": _trigger_names(index)}
    for schema, table, trigger in conn.execute(queries("strays"), values).fetchall():
        _disarm(conn, sql.Identifier(schema, table), trigger)


def _disarm(conn: psycopg.Connection, table: sql.Identifier, trigger: str) -> None:
    conn.execute(queries("drop_trigger", documents=table, trigger=sql.Identifier(trigger)))


def _trigger_names(index: str) -> list[str]:
    return [trigger_name(index, kind) for kind in (*STATEMENT_KINDS, "row", "truncate")]


@dataclass(frozen=True)
class Leaf:
    """A partition of the documents table, at whatever level."""

    table: sql.Identifier
    oid: int


def leaves(conn: psycopg.Connection, source: Source) -> list[Leaf]:
    """The partitions of the documents table, at every level."""
    rows = conn.execute(queries("leaf_partitions"), {"documents": source.identifier.as_string(conn)}).fetchall()
    return [Leaf(sql.Identifier(schema, table), oid) for schema, table, oid in rows]


def function_name(index: str, kind: str) -> sql.Identifier:
    return sql.Identifier("embed_pipeline", f"capture_{index}_{kind}")


def trigger_name(index: str, kind: str) -> str:
    return f"embed_pipeline_{index}_{kind}"


def _arm(conn: psycopg.Connection, table: sql.Identifier, index: str, kind: str, enable: str | None = None) -> None:
    trigger = sql.Identifier(trigger_name(index, kind))
    conn.execute(queries(f"{kind}_trigger", trigger=trigger, documents=table, function=function_name(index, kind)))
    if enable is not None:
        conn.execute(queries(enable, documents=table, trigger=trigger))


def _make_functions(conn: psycopg.Connection, source: Source, index: str, payload: bool) -> None:
    settings = _settings(source, payload)
    gathered = _gathered(source, payload)
    wanted = {"insert": {"new_id"}, "delete": {"old_id"}, "update": gathered.keys()}
    for kind in STATEMENT_KINDS:
        gather = queries(f"gather_{kind}", **{name: part for name, part in gathered.items() if name in wanted[kind]})
        _make_trigger_function(conn, index, kind, gather, settings)
    _make(conn, "truncate_function", function_name(index, "truncate"), queries("truncate_body", index=sql.Literal(index)))
    parts = source.parts()
    gone = queries("gone_body", documents=parts["documents"], key_is_wanted=parts["key_is_wanted"])
    _make(conn, "gone_function", sql.Identifier("embed_pipeline", f"gone_{index}"), gone, settings=settings)
    present = queries("present_body", documents=parts["documents"], doc_id=parts["doc_id"])
    _make(conn, "present_function", sql.Identifier("embed_pipeline", f"present_{index}"), present, settings=settings)


def _make_row_function(conn: psycopg.Connection, source: Source, index: str, payload: bool, known: Sequence[Leaf]) -> None:
    oids = sql.SQL("ARRAY[{}]").format(sql.SQL(", ").join(sql.Literal(leaf.oid) for leaf in known))
    gather = queries("gather_row", known=oids, **_gathered(source, payload))
    _make_trigger_function(conn, index, "row", gather, _settings(source, payload))


def _make_trigger_function(
    conn: psycopg.Connection, index: str, kind: str, gather: sql.Composable, settings: sql.Composable
) -> None:
    written = {
        f"write_{name}": queries(
            "write_ids", ids=sql.Identifier(name), index=sql.Literal(index), removed=sql.Literal(name == "removed")
        )
        for name in ("changed", "removed")
    }
    body = queries("body", gather=gather, index=sql.Literal(index), **written)
    _make(conn, "function", function_name(index, kind), body, settings=settings)


def _gathered(source: Source, payload: bool) -> dict[str, sql.Composable]:
    return {
        "new_id": source.doc_id("n"),
        "old_id": source.doc_id("o"),
        "new_state": _state(source, "n", payload),
        "old_state": _state(source, "o", payload),
    }


def _settings(source: Source, payload: bool) -> sql.Composable:
    return queries("settings" if _is_plain(source, payload) else "settings_of_texts")


def _make(conn: psycopg.Connection, name: str, function: sql.Identifier, body: sql.Composed, **parts: sql.Composable) -> None:
    # As a literal: no name of a column can end the quoting of the body.
    conn.execute(queries(name, function=function, body=sql.Literal(body.as_string(conn)), **parts))


def _is_plain(source: Source, payload: bool) -> bool:
    types = {column.type.partition("(")[0] for column in source.key} | {each.partition("(")[0] for each in source.text_types}
    return not payload and types <= PLAIN_TYPES


def _state(source: Source, alias: str, payload: bool) -> sql.Composable:
    """What makes a document another one: its text, and its payload where the store carries it beside the vectors."""
    if not payload:
        return source.text(alias)
    return sql.SQL('ROW({}, {}::text COLLATE "C")').format(source.text(alias), source.payload(alias))


def disarmed(conn: psycopg.Connection, source: Source, index: str) -> list[str]:
    """`table.trigger` of every trigger that is missing, disabled, or enabled in another way than `install` leaves it. Locks nothing."""
    row = ("row", "A" if _row_by_row(source) else "R")
    kinds = [*((kind, "O") for kind in STATEMENT_KINDS if not source.has_parent), row, ("truncate", "A")]
    armed = [source.identifier, *(leaf.table for leaf in (leaves(conn, source) if source.partitioned else []))]
    wanted = [(table.as_string(conn), trigger_name(index, kind), mode) for table in armed for kind, mode in kinds]
    tables, triggers, modes = (list(column) for column in zip(*wanted, strict=True))
    found = conn.execute(queries("disarmed"), {"tables": tables, "triggers": triggers, "modes": modes})
    return [f"{table}.{trigger}" for table, trigger in found]


def prove_live(conn: psycopg.Connection, source: Source, index: str) -> None:
    """Refuse unless a change of a document reaches the inbox: seen, not assumed.

    The canary shortens the text of one unlocked document in a transaction that is rolled back. Where no document can be changed
    that way (an empty table, a text column of another type, a refusing trigger of the application) the armed triggers are what is
    left to check.
    """
    off = disarmed(conn, source, index)
    if off:
        raise _not_live(source, index, f"the triggers {', '.join(off)} are gone or disabled")
    with conn.transaction(force_rollback=True):
        try:
            arrived, problem = _canary(conn, source, index)
        except (errors.OperationalError, errors.IdleInTransactionSessionTimeout):
            raise  # A lost connection says nothing about the triggers.
        except errors.Error as refused:
            if "embed_pipeline.capture_" in (refused.diag.context or ""):
                raise _not_live(source, index, f"its own trigger fails ({refused.diag.message_primary})") from refused
            return  # The application's own rules refuse such a change; the triggers were seen armed above.
    if problem is not None:
        raise _not_live(source, index, f"its own trigger fails ({problem})")
    if arrived is False:
        raise _not_live(source, index, "a changed document did not reach the inbox")


def _canary(conn: psycopg.Connection, source: Source, index: str) -> tuple[bool | None, str | None]:
    """Whether a canary change arrived, and what its trigger had to complain about; None when there is no document to change.

    Nor is there where a rule of the application's makes something else of an UPDATE: its own changes are those that the triggers see.
    """
    ruled = conn.execute(queries("has_update_rule"), {"documents": source.identifier.as_string(conn)}).fetchone()
    if ruled is not None and ruled[0]:
        return None, None
    for column in source.text_columns:
        text_column = sql.Identifier(column)
        candidate = conn.execute(
            queries("canary_candidate", doc_id=source.doc_id(), documents=source.identifier, text_column=text_column)
        ).fetchone()
        if candidate is None:
            continue
        wanted = source.key_matches(sql.SQL("%(doc_id)s::text"))
        before = conn.execute(queries("last_inbox_id")).fetchone()
        update = queries("canary_update", documents=source.identifier, text_column=text_column, key_is_wanted=wanted)
        conn.execute(update, {"doc_id": candidate[0]})
        signal("capture.canary")
        values = {"index": index, "doc_id": candidate[0], "before": before[0] if before else 0}
        row = conn.execute(queries("canary_arrived"), values).fetchone()
        assert row is not None
        return row[0], row[1]
    return None, None


def _not_live(source: Source, index: str, problem: str) -> DocumentsTableError:
    return DocumentsTableError(
        f"Dual-write of {index} is not live on {source}: {problem}. Nothing was backfilled.",
        next_step=f"Run: embed-pipeline sync {index} --full",
    )
