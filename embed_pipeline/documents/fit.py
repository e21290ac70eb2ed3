"""Refuses a table whose changes cannot all be captured. The refusal is one sentence, and comes before anything is
paid for.

It may become such a table later; every verb that opens the index says so then.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from embed_pipeline.errors import DocumentsTableError
from embed_pipeline.postgres.queries import Queries

queries = Queries(__file__, "fit.sql")

KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "c": "a composite type"}


def require(conn: psycopg.Connection, oid: int, table: str, columns: Sequence[str]) -> bool:
    """DocumentsTableError unless every change of these columns can be seen. Returns whether the table hangs under another one.

    Such a one (a partition, or a child by INHERITS) is written through its parent too, whose statements fire none of its own.
    """
    row = conn.execute(queries("facts"), {"oid": oid}).fetchone()
    assert row is not None
    kind, persistence, hides_rows, role, has_parent, children, unlogged, foreign = row
    if kind not in ("r", "p"):
        raise _unfit(
            f"{table} is not a table whose changes can be captured: it is {KINDS.get(kind, 'no table')}.",
            "Declare the table behind it in documents.table.",
        )
    if persistence == "t":
        raise _unfit(f"{table} is a temporary table: it ends with its session.", "Declare a table that stays in documents.table.")
    if persistence == "u" or unlogged:
        name = unlogged[0] if unlogged else table
        raise _unfit(
            f"{name} is UNLOGGED: a crash of the server empties it, and no trigger sees that.",
            f"Run: ALTER TABLE {name} SET LOGGED",
        )
    if foreign:
        raise _unfit(
            f"The partition {foreign[0]} of {table} is a foreign table: what its own server changes there, no trigger sees.",
            f"Run: ALTER TABLE {table} DETACH PARTITION {foreign[0]}",
        )
    if children:
        raise _unfit(
            f"Tables inherit from {table} ({', '.join(children)}): what is written to them passes its triggers, and no key is unique over "
            "them all.",
            f"Run: ALTER TABLE {children[0]} NO INHERIT {table}; or declare a partitioned table.",
        )
    if hides_rows:
        raise _unfit(
            f"Row security of {table} applies to the role {role}: documents that a policy hides from it would count as gone.",
            f"Run: ALTER ROLE {role} BYPASSRLS; or use a database_url whose role no policy binds.",
        )
    for column, generated, reference in conn.execute(queries("unfit_columns"), {"oid": oid, "columns": list(columns)}):
        if generated == "v":
            raise _unfit(
                f"The column {column!r} of {table} is a virtual generated column, of which a trigger sees no value: its changes would be "
                "missed.",
                "Make it a STORED one, or declare the columns that it is made of.",
            )
        raise _unfit(
            f"The column {column!r} of {table} is {reference}: its text is the name of another object, and changes with that.",
            "Declare a column of another type: oid, or text.",
        )
    return bool(has_parent)


def _unfit(message: str, next_step: str) -> DocumentsTableError:
    return DocumentsTableError(message, next_step=next_step)
