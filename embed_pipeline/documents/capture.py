"""Change capture: triggers that leave the ids of what a statement changed in the inbox, in the writer's own transaction.

They know no versions and look at no row of ours, so that a transaction of the application never waits for a worker, whatever its
isolation level, and pays the same for one live version and for five. They are made once, when the index is registered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import errors, sql

from embed_pipeline.documents.source import Source, applications_names
from embed_pipeline.errors import DocumentsTableError
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.signals import signal

queries = Queries(__file__, "capture.sql")

STATEMENT_KINDS = ("insert", "update", "delete")
# What these types look like as text depends on no setting of a session. Setting all of them costs every statement some microseconds.
PLAIN_TYPES = frozenset(
    ("smallint", "integer", "bigint", "numeric", "text", "character varying", "character", "uuid", "boolean", "name", "jsonb")
)
# PostgreSQL's own types whose cast to text is not their output: `true` and t, 10.0.0.1/32 and 10.0.0.1, without and with blanks at the end,
# with and without the encoding that an XML document came with.
CAST_TYPES = frozenset(("boolean", "character", '"char"', "inet", "cidr", "name", "xml"))


def lock(conn: psycopg.Connection, source: Source) -> None:
    """Wait for every writer in flight and keep new ones out until the transaction ends. Taken once, never upgraded."""
    conn.execute(queries("lock_documents", documents=source.identifier))


def install(conn: psycopg.Connection, source: Source, index: str, *, payload: bool) -> None:
    """Make or replace the functions and triggers. With `payload` a change of the documents' payload is a change, not only one of the text.

    The caller holds `lock`.
    """
    known = leaves(conn, source) if source.partitioned else []
    armed = _Armed.found(conn, source, payload)
    _make_functions(conn, armed, index)
    _make_row_function(conn, armed, index, [] if source.has_parent else known)
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
        _make_row_function(conn, _Armed.found(conn, source, payload), index, leaves(conn, source))


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


@dataclass(frozen=True)
class _Armed:
    """The table that functions are made for, as they know it again."""

    source: Source
    payload: bool
    number: int
    key_types: list[str]

    @classmethod
    def found(cls, conn: psycopg.Connection, source: Source, payload: bool) -> _Armed:
        values = {"documents": source.identifier.as_string(conn), "key": [column.name for column in source.key]}
        row = conn.execute(queries("armed_for"), values).fetchone()
        assert row is not None
        return cls(source, payload, *row)

    @property
    def _name(self) -> dict[str, sql.Composable]:
        return {"schema_name": sql.Literal(self.source.schema), "table_name": sql.Literal(self.source.table)}

    @property
    def only_documents(self) -> sql.Composable:
        return queries("only_documents", number=sql.Literal(self.number), **self._name)

    @property
    def look(self) -> sql.Composable:
        names, types = sql.Literal([column.name for column in self.source.key]), sql.Literal(self.key_types)
        cast_to = sql.Literal([column.type for column in self.source.key])
        return queries("look", documents=self.source.identifier, key=names, types=types, cast_to=cast_to, **self._name)

    def gathered(self) -> dict[str, sql.Composable]:
        return {
            "only_documents": self.only_documents,
            "new_id": self.source.doc_id("n", _as_output),
            "old_id": self.source.doc_id("o", _as_output),
            "new_state": self._state("n"),
            "old_state": self._state("o"),
        }

    def _state(self, alias: str) -> sql.Composable:
        """The columns whose change is a change of the document: its text, and its payload where the store carries it beside the vectors."""
        text = self.source.text(alias, _as_output)
        if not self.payload:
            return text
        columns = [
            *self.source.payload_columns,
            *([self.source.payload_object] if self.source.payload_object is not None else []),
        ]
        carried = sql.SQL("ROW({})").format(sql.SQL(", ").join(sql.Identifier(alias, name) for name in columns))
        return sql.SQL("ROW({}, {})").format(text, queries("as_output", column=carried))

    @property
    def settings(self) -> sql.Composable:
        types = {column.type.partition("(")[0] for column in self.source.key} | {
            each.partition("(")[0] for each in self.source.text_types
        }
        return queries("settings" if not self.payload and types <= PLAIN_TYPES else "settings_of_texts")


def _make_functions(conn: psycopg.Connection, armed: _Armed, index: str) -> None:
    gathered = armed.gathered()
    wanted = {"insert": {"only_documents", "new_id"}, "delete": {"only_documents", "old_id"}, "update": gathered.keys()}
    for kind in STATEMENT_KINDS:
        gather = queries(f"gather_{kind}", **{name: part for name, part in gathered.items() if name in wanted[kind]})
        _make_trigger_function(conn, armed, index, kind, gather)
    truncate = queries("truncate_body", index=sql.Literal(index), only_documents=armed.only_documents, **_guards(index))
    _make(conn, "truncate_function", function_name(index, "truncate"), truncate)
    parts, look = armed.source.parts(), armed.look
    gone = queries("gone_body", documents=parts["documents"], key_is_wanted=parts["key_is_wanted"], look=look)
    _make_for_readers(conn, "gone_function", f"gone_{index}", gone, settings=armed.settings)
    present = queries("present_body", documents=parts["documents"], doc_id=parts["doc_id"], look=look)
    _make_for_readers(conn, "present_function", f"present_{index}", present, settings=armed.settings)


def _make_row_function(conn: psycopg.Connection, armed: _Armed, index: str, known: Sequence[Leaf]) -> None:
    oids = sql.SQL("ARRAY[{}]").format(sql.SQL(", ").join(sql.Literal(leaf.oid) for leaf in known))
    _make_trigger_function(conn, armed, index, "row", queries("gather_row", known=oids, **armed.gathered()))


def _make_trigger_function(conn: psycopg.Connection, armed: _Armed, index: str, kind: str, gather: sql.Composable) -> None:
    written = {
        f"write_{name}": queries(
            "write_ids", ids=sql.Identifier(name), index=sql.Literal(index), removed=sql.Literal(name == "removed")
        )
        for name in ("changed", "removed")
    }
    body = queries("body", gather=gather, **written, **_guards(index))
    _make(conn, "function", function_name(index, kind), body, settings=armed.settings)


def _guards(index: str) -> dict[str, sql.Composable]:
    """The fragments of a trigger's body that let the application's statements go on where tables of ours are gone."""
    return {"require_inbox": queries("require_inbox"), "doubt": queries("doubt", index=sql.Literal(index))}


def _make(conn: psycopg.Connection, name: str, function: sql.Identifier, body: sql.Composed, **parts: sql.Composable) -> None:
    # Both in one transaction: whoever could attach it in between would keep it.
    made = queries(name, function=function, body=_quoted(conn, body), **parts)
    conn.execute(sql.SQL("; ").join([made, queries("revoke", function=function)]))


def _make_for_readers(conn: psycopg.Connection, name: str, function: str, body: sql.Composed, **parts: sql.Composable) -> None:
    conn.execute(queries(name, function=sql.Identifier("embed_pipeline", function), body=_quoted(conn, body), **parts))


def _quoted(conn: psycopg.Connection, body: sql.Composed) -> sql.Composable:
    # As a literal: no name of a column can end the quoting of the body.
    return sql.Literal(body.as_string(conn))


def _as_output(column: sql.Identifier, type_: str) -> sql.Composable:
    if type_.partition("(")[0] in CAST_TYPES:
        return queries("as_cast", column=column, type=sql.Literal(type_.partition("(")[0]))
    return queries("as_output", column=column)


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
        with applications_names(conn, source):
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
