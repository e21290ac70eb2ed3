"""The user's documents table: found, checked, and turned into the SQL expressions that everything else is built from.

A document's id is text: the key's own text for a single column, a JSON array of texts for a composite key. The session settings
made by `postgres.connection` and by the capture functions make that text the same everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256

import psycopg
from psycopg import sql

from embed_pipeline.documents import fit
from embed_pipeline.errors import DocumentsTableError
from embed_pipeline.postgres.queries import Queries, Verbatim
from embed_pipeline.spec import DocumentsSpec

queries = Queries(__file__)

# Bytes of an id that every index of ours can hold, beside the names of index and version. A key may be longer where the application's index
# holds it as bytes, or alone.
LONGEST_ID = 2_600


Told = Callable[[sql.Identifier, str], sql.Composable]
"""The text of a column's value, given the column and its type."""


def cast_to_text(column: sql.Identifier, type_: str) -> sql.Composable:
    return sql.SQL("{}::text").format(column)


@dataclass(frozen=True)
class KeyColumn:
    name: str
    type: str
    """As format_type prints it: a cast target, never user input. Of a domain the type beneath it."""
    operators: str = "pg_catalog"
    """The schema of the operators that its unique index goes by: those of an extension's type are nowhere else."""

    @property
    def cast(self) -> sql.Composable:
        return Verbatim(self.type)

    def operator(self, symbol: str) -> sql.Composable:
        return _operator(self.operators, symbol)


@dataclass(frozen=True)
class Source:
    """A checked documents table. `d` is its alias in every expression."""

    schema: str
    table: str
    key: tuple[KeyColumn, ...]
    text_columns: tuple[str, ...]
    text_types: tuple[str, ...]
    partitioned: bool
    has_parent: bool = False
    """Whether it is a partition or a child of another table, through which it is written too."""
    payload_columns: tuple[str, ...] = ()
    payload_object: str | None = None
    payload_indexes: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Payload fields that a store outside PostgreSQL shall have an index on, and its kind."""
    text_field: str | None = None
    """Payload field that repeats the document's text."""

    @classmethod
    def unchecked(cls, declared: DocumentsSpec) -> Source:
        """As it is declared, for who reads no document of it: types are not known."""
        schema, table = split_name(declared.table)
        return cls(
            schema,
            table,
            tuple(KeyColumn(name, "text") for name in declared.key),
            tuple(declared.text),
            ("text",) * len(declared.text),
            partitioned=False,
        )

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.table)

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}"

    def doc_id(self, alias: str = "d", told: Told = cast_to_text) -> sql.Composable:
        """The document's id as text. `told`: how the value of a column becomes text."""
        texts = [told(sql.Identifier(alias, column.name), column.type) for column in self.key]
        if len(texts) == 1:
            return sql.SQL('({} COLLATE "C")').format(texts[0])
        return sql.SQL('(jsonb_build_array({})::text COLLATE "C")').format(sql.SQL(", ").join(texts))

    def text(self, alias: str = "d", told: Told = cast_to_text) -> sql.Composable:
        """The document's text: its columns in declared order, nulls and empties left out, joined by a blank line."""
        texts = [told(sql.Identifier(alias, name), type_) for name, type_ in zip(self.text_columns, self.text_types, strict=True)]
        if len(texts) == 1:
            return sql.SQL("(coalesce({}, '') COLLATE \"C\")").format(texts[0])
        columns = [sql.SQL("nullif({}, '')").format(text) for text in texts]
        return sql.SQL("(pg_catalog.concat_ws(E'\\n\\n', {}) COLLATE \"C\")").format(sql.SQL(", ").join(columns))

    def source_hash(self, alias: str = "d") -> sql.Composable:
        """sha256 of the text's UTF-8 bytes, as bytea."""
        return sql.SQL("pg_catalog.sha256(pg_catalog.convert_to({}, 'UTF8'::name))").format(self.text(alias))

    def payload(self, alias: str = "d") -> sql.Composable:
        """What a store keeps beside the vector to filter by: a jsonb object, whose text is the same for the same row.

        The keys of the object column, over them the named columns, and over those the text if a field repeats it (absent for a document
        without text). A value of the object column that is no object counts as empty.
        """
        parts: list[sql.Composable] = []
        if self.payload_object is not None:
            column = sql.Identifier(alias, self.payload_object)
            parts.append(sql.SQL("CASE WHEN jsonb_typeof({0}) = 'object' THEN {0} ELSE '{{}}'::jsonb END").format(column))
        if self.payload_columns:
            named = [sql.SQL("{}, {}").format(sql.Literal(name), sql.Identifier(alias, name)) for name in self.payload_columns]
            parts.append(sql.SQL("jsonb_build_object({})").format(sql.SQL(", ").join(named)))
        if self.text_field is not None:
            repeated = sql.SQL("CASE WHEN {0} = '' THEN '{{}}'::jsonb ELSE jsonb_build_object({1}, {0}) END")
            parts.append(repeated.format(self.text(alias), sql.Literal(self.text_field)))
        if not parts:
            return sql.SQL("'{{}}'::jsonb").format()
        return sql.SQL("({})").format(sql.SQL(" || ").join(sql.SQL("({})").format(part) for part in parts))

    def id_of(self, key: list[str]) -> str:
        """The document's id, out of the key's columns as texts."""
        return key[0] if len(key) == 1 else json.dumps(key, ensure_ascii=False)

    def key_list(self, alias: str = "d") -> sql.Composable:
        return sql.SQL(", ").join(sql.Identifier(alias, column.name) for column in self.key)

    def key_array(self, alias: str = "d") -> sql.Composable:
        """The key as an array of texts, the form in which bounds are stored."""
        texts = [sql.SQL("{}::text").format(sql.Identifier(alias, column.name)) for column in self.key]
        return sql.SQL("ARRAY[{}]").format(sql.SQL(", ").join(texts))

    def key_matches(self, doc_id: sql.Composable, alias: str = "d") -> sql.Composable:
        """Whether the row is the document `doc_id`, through the key's own index.

        The text is compared as well: 1.0 and 1.00 are one numeric but two ids.
        """
        if len(self.key) == 1:
            column = self.key[0]
            by_key = sql.SQL("{} {} {}::{}").format(sql.Identifier(alias, column.name), column.operator("="), doc_id, column.cast)
        else:
            by_key = sql.SQL(" AND ").join(
                sql.SQL("{} {} ({}::jsonb ->> {})::{}").format(
                    sql.Identifier(alias, column.name),
                    column.operator("="),
                    doc_id,
                    sql.Literal(position),
                    column.cast,
                )
                for position, column in enumerate(self.key)
            )
        return sql.SQL("({} AND {} = {})").format(by_key, self.doc_id(alias), doc_id)

    def key_compares(self, operator: str, parameter: str, alias: str = "d") -> sql.Composable:
        """Row comparison of the key with the bound in `parameter` (text[]), e.g. `(a, b) >= (bound)`."""
        columns = [sql.Identifier(alias, column.name) for column in self.key]
        values = [
            sql.SQL("({}::text[])[{}]::{}").format(sql.Placeholder(parameter), sql.Literal(position), column.cast)
            for position, column in enumerate(self.key, start=1)
        ]
        if len({column.operators for column in self.key}) == 1:
            comma = sql.SQL(", ")
            return sql.SQL("({}) {} ({})").format(comma.join(columns), self.key[0].operator(operator), comma.join(values))
        # A row has one operator for all of its columns, found in one schema. The first column alone bounds the scan of the index.
        inner: sql.Composable = sql.SQL("true" if "=" in operator else "false")
        for column, name, value in reversed(list(zip(self.key, columns, values, strict=True))):
            strictly, equal = column.operator(operator[0]), column.operator("=")
            inner = sql.SQL("({0} {1} {2} OR ({0} {3} {2} AND {4}))").format(name, strictly, value, equal, inner)
        bound = sql.SQL("{} {} {}").format(columns[0], self.key[0].operator(f"{operator[0]}="), values[0])
        return sql.SQL("({} AND {})").format(bound, inner)

    def parts(self) -> dict[str, sql.Composable]:
        """The pieces that the named queries over documents ask for."""
        return {
            "documents": self.identifier,
            "doc_id": self.doc_id(),
            "text": self.text(),
            "source_hash": self.source_hash(),
            "payload": self.payload(),
            "key_columns": self.key_list(),
            "key_array": self.key_array(),
            "key_is_wanted": self.key_matches(sql.SQL("w.doc_id")),
        }


@contextmanager
def applications_names(conn: psycopg.Connection, source: Source) -> Iterator[None]:
    """For one statement that writes the documents, in a transaction: triggers of the application name its tables as it does.

    In such a statement a function is written with its schema, and every operator meets two values of one type: somebody may have made
    another one in public that fits better than PostgreSQL's own.
    """
    conn.execute(queries("applications_names"), {"schema": source.schema})
    yield
    conn.execute(queries("own_names"))


def split_name(table: str) -> tuple[str, str]:
    """('schema', 'table') of a declared name; the schema defaults to public."""
    schema, _, name = table.rpartition(".")
    return (schema or "public", name)


def inspect(conn: psycopg.Connection, declared: DocumentsSpec, *, captured: bool = True) -> Source:
    """Find and check the declared table. DocumentsTableError says what it lacks.

    Not `captured`: for a reader, whose policies may hide rows from it.
    """
    schema, table = split_name(declared.table)
    found = conn.execute(queries("find_table"), {"schema": schema, "table": table}).fetchone()
    if found is None and "." in schema:
        raise DocumentsTableError(
            f"The documents table {declared.table} does not exist; a name with a dot in it cannot be declared.",
            next_step="Write schema.table in documents.table, or rename the table.",
        )
    if found is None:
        raise DocumentsTableError(
            f"The documents table {schema}.{table} does not exist.",
            next_step="Create it, or correct documents.table in the index's defs.yaml.",
        )
    oid, kind = found
    named = [*declared.key, *declared.text, *declared.payload]
    has_parent = captured and fit.require(conn, oid, f"{schema}.{table}", named)
    columns = {name: (type_, not_null) for name, type_, not_null in conn.execute(queries("columns"), {"oid": oid})}
    for name in (*declared.key, *declared.text):
        if name not in columns:
            raise DocumentsTableError(
                f"The documents table {schema}.{table} has no column {name!r}; it has {', '.join(columns)}.",
                next_step="Correct documents.key or documents.text in the index's defs.yaml.",
            )
    _require_unique(conn, oid, f"{schema}.{table}", declared.key, columns)
    _require_payload(f"{schema}.{table}", declared, columns)
    compared = {name: (type_, operators) for name, type_, operators in conn.execute(queries("compared_as"), {"oid": oid})}
    return Source(
        schema=schema,
        table=table,
        key=tuple(KeyColumn(name, *compared[name]) for name in declared.key),
        text_columns=tuple(declared.text),
        text_types=tuple(columns[name][0] for name in declared.text),
        partitioned=kind == "p",
        has_parent=has_parent,
        payload_columns=tuple(declared.payload),
        payload_object=declared.payload_object,
        payload_indexes=dict(declared.payload_indexes),
    )


def _operator(schema: str, symbol: str) -> sql.Composable:
    return sql.SQL("OPERATOR({}.{})").format(sql.Identifier(schema), sql.SQL(symbol))


def _require_payload(table: str, declared: DocumentsSpec, columns: dict[str, tuple[str, bool]]) -> None:
    wanted = [*declared.payload, *([declared.payload_object] if declared.payload_object is not None else [])]
    for name in wanted:
        if name not in columns:
            raise DocumentsTableError(
                f"The documents table {table} has no column {name!r} for the payload; it has {', '.join(columns)}.",
                next_step="Correct documents.payload or documents.payload_object in the index's defs.yaml.",
            )
    if declared.payload_object is not None and columns[declared.payload_object][0] != "jsonb":
        raise DocumentsTableError(
            f"The column {declared.payload_object!r} of {table} is {columns[declared.payload_object][0]}, and documents.payload_object "
            "takes a jsonb column, whose keys become the payload.",
            next_step="Name it in documents.payload, where a column is one field, or make it jsonb.",
        )


def _require_unique(conn: psycopg.Connection, oid: int, table: str, key: list[str], columns: dict[str, tuple[str, bool]]) -> None:
    nullable = [name for name in key if not columns[name][1]]
    unique = [set(names) for (names,) in conn.execute(queries("unique_keys"), {"oid": oid})]
    if nullable or set(key) not in unique:
        listed = ", ".join(key)
        raise DocumentsTableError(
            f"The documents table {table} has no key: ({listed}) is not both unique and NOT NULL.",
            next_step=f"Run: ALTER TABLE {table} ADD PRIMARY KEY ({listed}); or name the table's real key in documents.key.",
        )


def ensure_default_table(conn: psycopg.Connection, declared: DocumentsSpec) -> None:
    """Make the documents table of an index that declares none. One that was registered and is gone is not made again, empty."""
    schema, table = split_name(declared.table)
    if refuse_gone(conn, declared):
        return
    conn.execute(queries("make_documents_table", table=sql.Identifier(schema, table)))


def refuse_gone(conn: psycopg.Connection, declared: DocumentsSpec) -> bool:
    """DocumentsTableError where the table is gone that an index is registered with; else whether it is there."""
    schema, table = split_name(declared.table)
    has_catalog, there = conn.execute(queries("is_there"), {"schema": schema, "table": table}).fetchone() or (False, False)
    registered = {"documents_table": f"{schema}.{table}"}
    if has_catalog and not there and conn.execute(queries("registered_with"), registered).fetchone() is not None:
        raise DocumentsTableError(
            f"The documents table {schema}.{table}, which an index is registered with, is gone.",
            next_step="Give it its name back, or restore it.",
        )
    return bool(there)


def hash_of(text: str) -> bytes:
    """The source_hash of a text, as `Source.source_hash` has it in SQL. Made here: the server is what a migration has least of."""
    return sha256(text.encode("utf-8", "surrogatepass")).digest()
