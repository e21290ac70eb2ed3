"""The probe of a table in PostgreSQL: any table with a column of vectors. It needs SELECT and nothing else, and writes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import psycopg
from psycopg import sql

from embed_pipeline.doctor import mixture, vectors
from embed_pipeline.doctor.ann_index import AnnIndex, judge_indexes
from embed_pipeline.doctor.findings import Diagnosis, Finding, of_pgvector
from embed_pipeline.doctor.sample import Row, Sample
from embed_pipeline.errors import DocumentsTableError
from embed_pipeline.postgres.connection import begin_unhurried, connect, resolve_url, vector_schema, warning_of
from embed_pipeline.postgres.queries import Queries

queries = Queries(__file__, "table.sql")

# Text of a row that is compared with that of others: enough to know what it is about.
CHARACTERS = 4_000
# Pages are drawn, and how many rows a page holds is guessed: a few more than are wanted, of which the first are taken.
MORE = 1.5
DEAD_SHARE = 0.2
VECTOR_TYPES = ("vector", "halfvec", "sparsevec", "_float4", "_float8")


@dataclass(frozen=True)
class Place:
    """A table and its columns, as a person names them. Without `key` its own unique key is taken."""

    schema: str
    table: str
    column: str
    text: str | None = None
    key: str | None = None

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.table)

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}.{self.column}"


@dataclass(frozen=True)
class _Table:
    oid: int
    kind: str
    estimate: int
    is_filtered: bool
    types: dict[str, tuple[str, int]]
    key: tuple[str, ...]


def diagnose(place: Place, database_url: str | None, limit: int) -> Diagnosis:
    """Look at a table. DocumentsTableError where it, or a column that was named, is not there or may not be read."""
    with connect(resolve_url(database_url), autocommit=True, every_row=False) as conn, _reading(conn):
        table = _table(conn, place)
        sample = read_sample(conn, place, table, limit)
        again = f"Embed these rows of {place.schema}.{place.table} again with the model of the others."
        found = [
            *_around(conn, place, table),
            *judge_indexes(_indexes(conn, place, table), sample, str(place)),
            *vectors.judge(sample, again),
            *mixture.judge(sample, again),
        ]
        return Diagnosis.of(str(place), sample.looked_at, found)


@contextmanager
def _reading(conn: psycopg.Connection) -> Iterator[None]:
    with conn.transaction():
        conn.execute(queries("read_only"))
        begin_unhurried(conn)
        conn.execute(queries("briefly"))
        yield


def _table(conn: psycopg.Connection, place: Place) -> _Table:
    row = conn.execute(queries("relation"), {"schema": place.schema, "table": place.table}).fetchone()
    if row is None:
        raise DocumentsTableError(
            f"There is no table {place.schema}.{place.table} in this database.", next_step="Name it as SCHEMA.TABLE with --table."
        )
    oid, kind, estimate, is_filtered, may_read = row
    if not may_read:
        raise DocumentsTableError(
            f"This role may not read {place.schema}.{place.table}.",
            next_step=f"Have its owner run: GRANT SELECT ON {place.identifier.as_string(conn)} TO <this role>;",
        )
    types = {name: (type_, modifier) for name, type_, modifier, _ in conn.execute(queries("columns"), {"relation": oid})}
    for option, column in (("--column", place.column), ("--text", place.text), ("--key", place.key)):
        if column is not None and column not in types:
            raise DocumentsTableError(
                f"{place.schema}.{place.table} has no column {column!r}; it has {', '.join(types)}.",
                next_step=f"Name one of these with {option}.",
            )
    if types[place.column][0] not in VECTOR_TYPES:
        raise DocumentsTableError(
            f"Column {place.column!r} of {place.schema}.{place.table} is of type {types[place.column][0]}, which holds no vectors.",
            next_step="Name a column of type vector, halfvec, sparsevec or an array of floats with --column.",
        )
    found = None if place.key is not None else conn.execute(queries("key"), {"relation": oid}).fetchone()
    key = (place.key,) if place.key is not None else tuple(found[0]) if found is not None else ()
    return _Table(oid, kind, estimate, is_filtered, types, key)


def read_sample(conn: psycopg.Connection, place: Place, table: _Table, limit: int) -> Sample:
    """Up to `limit` rows: all where there are no more, else those of whole pages that are drawn."""
    total = table.estimate
    if total < 2 * limit:
        # An estimate of a small table is often none at all.
        counted = conn.execute(queries("counted", table=place.identifier), {"limit": 2 * limit}).fetchone()
        total = max(total, counted[0]) if counted is not None and counted[0] >= 2 * limit else counted[0] if counted else 0
    sampled: sql.Composable = sql.SQL("")
    if total >= 2 * limit and table.kind in ("r", "p", "m"):
        sampled = queries("blocks", percent=sql.Literal(min(100.0, 100 * MORE * limit / total)))
    statement = queries(
        "sample",
        table=place.identifier,
        key=_key(table),
        embedding=_embedding(conn, place, table),
        text=sql.SQL("NULL") if place.text is None else _text(place.text),
        sampled=sampled,
    )
    rows = conn.execute(statement, {"limit": limit}, binary=True).fetchall()
    read = [Row(key, None if vector is None else np.array(vector, dtype=np.float32), text) for key, vector, text in rows]
    return Sample(read, max(total, len(read)), place.text is not None)


def _key(table: _Table) -> sql.Composable:
    if not table.key and table.kind not in ("r", "p", "m"):
        return sql.SQL("''")
    columns = [sql.Identifier("d", name) for name in table.key or ("ctid",)]
    return sql.SQL("concat_ws(', ', {})").format(sql.SQL(", ").join(columns))


def _text(column: str) -> sql.Composable:
    return sql.SQL("left(concat({}), {})").format(sql.Identifier("d", column), sql.Literal(CHARACTERS))


def _embedding(conn: psycopg.Connection, place: Place, table: _Table) -> sql.Composable:
    column = sql.Identifier("d", place.column)
    if table.types[place.column][0] != "sparsevec":
        return column
    return sql.SQL("{}::{}").format(column, sql.Identifier(vector_schema(conn), "vector"))


def _indexes(conn: psycopg.Connection, place: Place, table: _Table) -> list[AnnIndex]:
    rows = conn.execute(queries("indexes"), {"relation": table.oid, "column": place.column}).fetchall()
    return [AnnIndex(name, method, valid, opclass, size, partial) for name, method, valid, opclass, size, _, _, partial in rows]


def _around(conn: psycopg.Connection, place: Place, table: _Table) -> Iterator[Finding]:
    version = conn.execute(queries("vector_version")).fetchone()
    warning = None if version is None else warning_of(version[0])
    if warning is not None:
        yield of_pgvector(warning)
    if table.types[place.column][0] == "vector" and table.types[place.column][1] < 0:
        statement = f"ALTER TABLE {place.identifier.as_string(conn)} ADD CHECK ({_dims(conn, place)} = N) NOT VALID;"
        yield Finding(
            "note",
            "any_dimensions",
            f"The type of {place} takes vectors of any dimensions, so that another model's fit in.",
            statement,
        )
    if table.is_filtered:
        sentence = "Row security hides rows from this role: what it may not see was not looked at."
        yield Finding("note", "row_security", sentence, "Run the same command as the table's owner, or as a role with BYPASSRLS.")
    if not table.key:
        sentence = f"{place.schema}.{place.table} has no unique key, by which a row could be found again."
        yield Finding("note", "no_key", sentence, f"ALTER TABLE {place.identifier.as_string(conn)} ADD PRIMARY KEY (<its key>);")
    rows = conn.execute(queries("dead"), {"relation": table.oid}).fetchone()
    if rows is not None and rows[1] > 1000 and rows[1] > DEAD_SHARE * (rows[0] + rows[1]):
        share = 100 * rows[1] / (rows[0] + rows[1])
        sentence = f"{rows[1]:,} rows ({share:.0f} %) are dead versions, which searches walk past until VACUUM has run."
        yield Finding("warning", "dead_rows", sentence, f"VACUUM {place.identifier.as_string(conn)};")


def _dims(conn: psycopg.Connection, place: Place) -> str:
    return f"vector_dims({sql.Identifier(place.column).as_string(conn)})"
