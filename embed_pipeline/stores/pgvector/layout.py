"""How vectors lie that were there before: a column of the documents, or a table beside them. What is not declared is found by looking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import psycopg
from psycopg import sql

from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents.source import Source, split_name
from embed_pipeline.errors import AdoptRefused
from embed_pipeline.postgres.connection import vector_schema
from embed_pipeline.postgres.queries import Queries, Verbatim
from embed_pipeline.spec import AdoptVectorsSpec

queries = Queries(__file__, "adopting.sql")

# By the vector's type, the function of pgvector that tells its length.
NORMS = {"vector": "vector_norm", "halfvec": "l2_norm"}
# A table that pgai's vectorizer fills: passages of the documents, numbered, named by the documents' own key.
PGAI = {"embedding_uuid", "chunk_seq", "chunk", "embedding"}


class Column(NamedTuple):
    """`type`: of pgvector's the bare name. `dimensions`: -1 where none are declared."""

    type: str
    dimensions: int


@dataclass(frozen=True)
class Layout:
    """One place of vectors. `key`: the columns that name the document, with their types; none where they are the documents' own rows."""

    table: str
    relation: sql.Identifier
    column: str
    type: str
    key: tuple[tuple[str, str], ...] = ()
    chunk: str | None = None
    text: str | None = None

    def __str__(self) -> str:
        return f"{self.table}.{self.column}"

    def vectors(self, source: Source, schema: str, dimensions: int, *, chunked: bool) -> sql.Composed:
        """The vectors of the document `d`, as a query."""
        alias = "t" if self.key else "d"
        column = sql.Identifier(alias, self.column)
        is_vector = queries(
            "is_vector",
            schema=sql.Identifier(schema),
            norm=sql.Identifier(NORMS[self.type]),
            column=column,
            dimensions=sql.Literal(dimensions),
        )
        if not self.key:
            return queries("of_document", column=column, is_vector=is_vector)
        passage = sql.SQL("NULL::text") if self.text is None else sql.SQL("{}::text").format(sql.Identifier("t", self.text))
        fits: sql.Composable = sql.SQL("true")
        if self.text is not None:
            fits = queries("is_in_it" if chunked else "says_the_same", passage=passage, text=source.text())
        named = [
            sql.SQL("{} OPERATOR(pg_catalog.=) {}").format(
                sql.Identifier("t", name), _as(sql.Identifier("d", own.name), own.type, type_)
            )
            for (name, type_), own in zip(self.key, source.key, strict=True)
        ]
        return queries(
            "of_table",
            order=sql.Identifier("t", self.chunk or self.key[0][0]),
            column=column,
            is_vector=is_vector,
            fits=fits,
            alone=sql.SQL("") if chunked else queries("alone"),
            passage=passage,
            relation=self.relation,
            is_of_document=sql.SQL(" AND ").join(named),
        )


def find(conn: psycopg.Connection, source: Source, declared: AdoptVectorsSpec, version: Version) -> Layout:
    """The place of the declared vectors. AdoptRefused where there is none, or its vectors can be none of the version's."""
    schema, table = (source.schema, source.table) if declared.table is None else split_name(declared.table)
    name = f"{schema}.{table}"
    row = conn.execute(queries("find_relation"), {"schema": schema, "table": table}).fetchone()
    if row is None:
        raise AdoptRefused(f"There is no table {name} to adopt vectors from.", next_step="Correct store.adopt.table.")
    oid = row[0]
    of_server = {"oid": oid, "vector_schema": vector_schema(conn)}
    columns = {column: Column(*rest) for column, *rest in conn.execute(queries("columns"), of_server)}
    column = declared.column or _only_vector(name, columns)
    _require_column(name, columns, column, "column")
    found = columns[column]
    if found.type not in NORMS:
        raise AdoptRefused(
            f"The column {name}.{column} is {found.type}, and vectors are adopted out of {' or '.join(NORMS)}.",
            next_step="Name the vector's column in store.adopt.column.",
        )
    if found.dimensions not in (-1, version.dimensions):
        raise AdoptRefused(
            f"The column {name}.{column} holds vectors of {found.dimensions} dimensions, and version {version.name} declares "
            f"{version.dimensions}.",
            next_step=f"Declare versions.{version.name} with the model that made them.",
        )
    relation = sql.Identifier(schema, table)
    chunk, text = declared.chunk, declared.text
    if declared.table is not None and chunk is None and columns.keys() >= PGAI:
        chunk, text = "chunk_seq", "chunk"
    if version.is_chunked != (chunk is not None):
        raise AdoptRefused(
            f"Version {version.name} declares {'a' if version.is_chunked else 'no'} chunker, and {name} has "
            f"{'one vector' if chunk is None else 'several vectors'} for a document.",
            next_step=f"Declare versions.{version.name}.chunker as the text was split, and store.adopt.chunk; or neither.",
        )
    if declared.table is None:
        return Layout(name, relation, column, found.type)
    key = _key(conn, oid, name, columns, source, declared)
    for given, where in ((chunk, "chunk"), (text, "text")):
        if given is not None:
            _require_column(name, columns, given, where)
    return Layout(name, relation, column, found.type, key, chunk, text)


def _only_vector(table: str, columns: Mapping[str, Column]) -> str:
    vectors = [name for name, column in columns.items() if column.type in NORMS]
    if len(vectors) != 1:
        what = f"{len(vectors)} vector columns ({', '.join(vectors)})" if vectors else "no vector column"
        raise AdoptRefused(f"The table {table} has {what}.", next_step="Name the column to adopt in store.adopt.column.")
    return vectors[0]


def _key(
    conn: psycopg.Connection,
    oid: int,
    table: str,
    columns: Mapping[str, Column],
    source: Source,
    declared: AdoptVectorsSpec,
) -> tuple[tuple[str, str], ...]:
    names = declared.key or [column.name for column in source.key]
    if len(names) != len(source.key):
        raise AdoptRefused(
            f"store.adopt.key names {len(names)} columns of {table}, and the key of {source} has {len(source.key)}.",
            next_step="Name as many, in the order of documents.key.",
        )
    for name in names:
        _require_column(table, columns, name, "key")
    row = conn.execute(queries("has_index"), {"oid": oid, "column": names[0]}).fetchone()
    if row is None or not row[0]:
        raise AdoptRefused(
            f"The table {table} has no index that begins with {names[0]}, and its vectors are looked up by that.",
            next_step=f"Run: CREATE INDEX CONCURRENTLY ON {table} ({', '.join(names)});",
        )
    return tuple((name, columns[name].type) for name in names)


def _require_column(table: str, columns: Mapping[str, Column], name: str, where: str) -> None:
    if name not in columns:
        raise AdoptRefused(
            f"The table {table} has no column {name!r}; it has {', '.join(columns)}.",
            next_step=f"Correct store.adopt.{where}.",
        )


def _as(column: sql.Identifier, own: str, wanted: str) -> sql.Composable:
    """A key's value in the type of the column that it is compared with: there is no operator over two types for all of them."""
    return column if own == wanted else sql.SQL("{}::text::{}").format(column, Verbatim(wanted))
