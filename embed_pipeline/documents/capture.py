"""Change capture: triggers that put every change of a document into the change queue, in the writer's own transaction.

The live versions are written into the body of the trigger functions, not read from a table: a transaction in REPEATABLE READ that
began before a version was registered sees an old table, but always the newest function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import errors, sql

from embed_pipeline.documents.source import Source
from embed_pipeline.errors import DocumentsTableError
from embed_pipeline.postgres.connection import end_when_frozen, unhurried
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.signals import signal

queries = Queries(__file__, "capture.sql")

STATEMENT_KINDS = ("insert", "update", "delete")


@dataclass(frozen=True)
class CapturedVersion:
    """A live version as the triggers see it: its name, and its vectors when they live in the same database.

    Without tables nothing is deleted in the writer's transaction: the queue alone carries deletes. With `payload` a change of the
    documents' payload is a change, not only one of the text.
    """

    name: str
    documents: sql.Identifier | None = None
    vectors: sql.Identifier | None = None
    payload: bool = False


def lock(conn: psycopg.Connection, source: Source) -> None:
    """Wait for every writer in flight and keep new ones out until the transaction ends. Taken once, never upgraded."""
    conn.execute(queries("lock_documents", documents=source.identifier))


def install(conn: psycopg.Connection, source: Source, index: str, versions: Sequence[CapturedVersion]) -> None:
    """Make or replace the functions and triggers for exactly these live versions. The caller holds `lock`."""
    parts = _function_parts(source, index, versions)
    for kind in (*STATEMENT_KINDS, "row", "truncate"):
        template = f"{kind}_function" if versions else "empty_function"
        conn.execute(queries(template, function=function_name(index, kind), **parts))
    truncates = _truncate_kinds(versions)
    # Made even when its trigger is not: one that is left from versions that are gone has nothing to do.
    emptied = "before_truncate_function" if len(truncates) > 1 else "empty_function"
    conn.execute(queries(emptied, function=function_name(index, "before_truncate"), **parts))
    if source.partitioned:
        _arm(conn, source.identifier, index, "row", "enable_always")
        for schema, table in conn.execute(
            queries("leaf_partitions"), {"documents": source.identifier.as_string(conn)}
        ).fetchall():
            for kind in truncates:
                _arm(conn, sql.Identifier(schema, table), index, kind, "enable_always")
    else:
        for kind in STATEMENT_KINDS:
            _arm(conn, source.identifier, index, kind)
        # Replicated changes fire row triggers only; with ENABLE REPLICA this one fires for nothing else.
        _arm(conn, source.identifier, index, "row", "enable_replica")
    for kind in truncates:
        _arm(conn, source.identifier, index, kind, "enable_always")


def queue_all(conn: psycopg.Connection, source: Source, index: str, names: Sequence[str]) -> None:
    """Queue every document for these versions. The caller holds `lock`."""
    query = queries("queue_all", documents=source.identifier, doc_id=source.doc_id())
    with unhurried(conn):
        conn.execute(query, {"index": index, "versions": list(names)})


def function_name(index: str, kind: str) -> sql.Identifier:
    return sql.Identifier("embed_pipeline", f"capture_{index}_{kind}")


def trigger_name(index: str, kind: str) -> str:
    return f"embed_pipeline_{index}_{kind}"


def expected_triggers(source: Source, index: str, versions: Sequence[CapturedVersion]) -> list[str]:
    return [trigger_name(index, kind) for kind, _ in _modes(source, versions)]


def _truncate_kinds(versions: Sequence[CapturedVersion]) -> tuple[str, ...]:
    """What a version without tables loses in a TRUNCATE can be known before it only: afterwards nothing here remembers the ids."""
    return ("truncate", "before_truncate") if any(version.documents is None for version in versions) else ("truncate",)


def _arm(conn: psycopg.Connection, table: sql.Identifier, index: str, kind: str, enable: str | None = None) -> None:
    trigger = sql.Identifier(trigger_name(index, kind))
    conn.execute(queries(f"{kind}_trigger", trigger=trigger, documents=table, function=function_name(index, kind)))
    if enable is not None:
        conn.execute(queries(enable, documents=table, trigger=trigger))


def _function_parts(source: Source, index: str, versions: Sequence[CapturedVersion]) -> dict[str, sql.Composable]:
    return {
        "settings": queries("settings"),
        "index": sql.Literal(index),
        "versions": sql.Literal([version.name for version in versions]),
        "payload_versions": sql.Literal([version.name for version in versions if version.payload]),
        "tableless_versions": sql.Literal([version.name for version in versions if version.documents is None]),
        "documents": source.identifier,
        "doc_id": source.doc_id(),
        "new_id": source.doc_id("n"),
        "old_id": source.doc_id("o"),
        "new_text": source.text("n"),
        "old_text": source.text("o"),
        "new_payload": _payload(source, versions, "n"),
        "old_payload": _payload(source, versions, "o"),
        "queue_changed": _queue_changed(source, index, versions),
        "delete_removed": _each(versions, _delete_removed),
        "queue_orphans": _each(versions, lambda v: _queue_orphans(source, index, v)),
        "delete_orphans": _each(versions, lambda v: _delete_orphans(source, v)),
    }


def _payload(source: Source, versions: Sequence[CapturedVersion], alias: str) -> sql.Composable:
    """The payload as text; of no interest, and so always the same, where no version carries it."""
    if not any(version.payload for version in versions):
        return sql.SQL("''::text")
    return sql.SQL('({}::text COLLATE "C")').format(source.payload(alias))


def _queue_changed(source: Source, index: str, versions: Sequence[CapturedVersion]) -> sql.Composable:
    """One statement for the versions of which the text is all there is, one for those that carry the payload too."""
    statements = []
    for carries in (False, True):
        names = [version.name for version in versions if version.payload is carries]
        if names:
            state = {
                f"{when}_state": sql.SQL(", ").join(
                    [source.text(alias), *([_payload(source, versions, alias)] if carries else [])]
                )
                for when, alias in (("new", "n"), ("old", "o"))
            }
            ids = {"new_id": source.doc_id("n"), "old_id": source.doc_id("o")}
            statements.append(queries("queue_changed", index=sql.Literal(index), versions=sql.Literal(names), **ids, **state))
    return sql.SQL("\n    ").join(statements)


def _each(versions: Sequence[CapturedVersion], build: Callable[[CapturedVersion], sql.Composable]) -> sql.Composable:
    statements = [build(version) for version in versions if version.documents is not None]
    return sql.SQL("\n        ").join(statements) if statements else sql.SQL("NULL;")


def _delete_removed(version: CapturedVersion) -> sql.Composable:
    return queries("delete_removed", version_documents=_known(version.documents), version_vectors=_known(version.vectors))


def _queue_orphans(source: Source, index: str, version: CapturedVersion) -> sql.Composable:
    return queries(
        "queue_orphans",
        index=sql.Literal(index),
        version=sql.Literal(version.name),
        version_documents=_known(version.documents),
        documents=source.identifier,
        key_is_wanted=source.key_matches(sql.SQL("w.doc_id")),
    )


def _delete_orphans(source: Source, version: CapturedVersion) -> sql.Composable:
    return queries(
        "delete_orphans",
        version_documents=_known(version.documents),
        version_vectors=_known(version.vectors),
        documents=source.identifier,
        key_is_wanted=source.key_matches(sql.SQL("w.doc_id")),
    )


def _known(table: sql.Identifier | None) -> sql.Identifier:
    assert table is not None
    return table


def disarmed(conn: psycopg.Connection, source: Source, index: str, versions: Sequence[CapturedVersion]) -> list[str]:
    """`table.trigger` of every trigger that is missing, disabled, or enabled in another way than `install` leaves it. Locks nothing."""
    wanted = [(source.identifier.as_string(conn), trigger_name(index, kind), mode) for kind, mode in _modes(source, versions)]
    if source.partitioned:
        named = {"documents": source.identifier.as_string(conn)}
        for schema, table in conn.execute(queries("leaf_partitions"), named).fetchall():
            leaf = sql.Identifier(schema, table).as_string(conn)
            wanted += [(leaf, trigger_name(index, kind), "A") for kind in ("row", *_truncate_kinds(versions))]
    tables, triggers, modes = (list(column) for column in zip(*wanted, strict=True))
    found = conn.execute(queries("disarmed"), {"tables": tables, "triggers": triggers, "modes": modes})
    return [f"{table}.{trigger}" for table, trigger in found]


def _modes(source: Source, versions: Sequence[CapturedVersion]) -> list[tuple[str, str]]:
    """How each trigger of the documents table is enabled, as pg_trigger.tgenabled says it."""
    truncates = [(kind, "A") for kind in _truncate_kinds(versions)]
    if source.partitioned:
        return [("row", "A"), *truncates]
    return [*((kind, "O") for kind in STATEMENT_KINDS), ("row", "R"), *truncates]


def prove_live(conn: psycopg.Connection, source: Source, index: str, version: CapturedVersion) -> None:
    """Refuse unless a change of a document reaches the queue for `version`: seen, not assumed.

    The canary shortens the text of one unlocked document in a transaction that is rolled back. Where no document can be changed
    that way (an empty table, a text column of another type, a refusing trigger of the application) the armed triggers are what is
    left to check.
    """
    expected = expected_triggers(source, index, [version])
    found = conn.execute(
        queries("armed_triggers"), {"documents": source.identifier.as_string(conn), "triggers": expected}
    ).fetchall()
    if len(found) != len(expected):
        missing = sorted(set(expected) - {name for (name,) in found})
        raise _not_live(source, index, f"the triggers {', '.join(missing)} are gone or disabled")
    with conn.transaction(force_rollback=True):
        end_when_frozen(conn)
        try:
            arrived = _canary(conn, source, index, version.name)
        except (errors.OperationalError, errors.IdleInTransactionSessionTimeout):
            raise  # A lost connection says nothing about the triggers.
        except errors.Error as refused:
            if "embed_pipeline.capture_" in (refused.diag.context or ""):
                raise _not_live(source, index, f"its own trigger fails ({refused.diag.message_primary})") from refused
            return  # The application's own rules refuse such a change; the triggers were seen armed above.
    if arrived is False:
        raise _not_live(source, index, "a changed document did not reach the change queue")


def _canary(conn: psycopg.Connection, source: Source, index: str, version: str) -> bool | None:
    """Whether a canary change arrived; None when there is no document to change."""
    for column in source.text_columns:
        text_column = sql.Identifier(column)
        candidate = conn.execute(
            queries("canary_candidate", doc_id=source.doc_id(), documents=source.identifier, text_column=text_column)
        ).fetchone()
        if candidate is None:
            continue
        wanted = source.key_matches(sql.SQL("%(doc_id)s::text"))
        last = conn.execute(queries("last_seq")).fetchone()
        update = queries("canary_update", documents=source.identifier, text_column=text_column, key_is_wanted=wanted)
        conn.execute(update, {"doc_id": candidate[0]})
        signal("capture.canary")
        values = {"index": index, "version": version, "doc_id": candidate[0], "seq": last[0] if last else 0}
        arrived = conn.execute(queries("canary_arrived"), values).fetchone()
        return arrived is not None and arrived[0] > 0
    return None


def _not_live(source: Source, index: str, problem: str) -> DocumentsTableError:
    return DocumentsTableError(
        f"Dual-write of {index} is not live on {source}: {problem}. Nothing was backfilled.",
        next_step=f"Run: embed-pipeline sync {index} --full",
    )
