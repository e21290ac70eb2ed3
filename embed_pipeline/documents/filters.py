"""Filters of a search on the documents' columns: checked once against the columns' types, with the same meaning in every store.

A store that kept its own idea of a value would silently find something else: a text that looks like a number, a date that is a text in
JSON. So the condition is typed here, and a store only says it in its own language.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from datetime import date, datetime, time, timezone
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any, Literal
from uuid import UUID

import numpy as np
import psycopg
from psycopg import sql

from embed_pipeline.documents.source import Source
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.postgres.queries import Queries

queries = Queries(__file__, "filters.sql")

Kind = Literal["boolean", "integer", "number", "text", "date", "timestamp", "timestamptz", "uuid", "enum", "json"]

KINDS: dict[str, Kind] = {
    "bool": "boolean",
    "int2": "integer",
    "int4": "integer",
    "int8": "integer",
    "numeric": "number",
    "float4": "number",
    "float8": "number",
    "text": "text",
    "varchar": "text",
    "bpchar": "text",
    "date": "date",
    "timestamp": "timestamp",
    "timestamptz": "timestamptz",
    "uuid": "uuid",
}
ALLOWED = "boolean, integer, numeric, float, text, varchar, char, date, timestamp, uuid, enum, and arrays of these"
COMPARED = frozenset({"integer", "number", "date", "timestamp", "timestamptz"})
OPERATORS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
WIDTHS = {"int2": 16, "int4": 32, "int8": 64}
TRUE, FALSE = frozenset({"true", "t", "yes", "on", "1"}), frozenset({"false", "f", "no", "off", "0"})
OF_PYTHON: dict[Kind, str] = {
    "boolean": "True or False",
    "integer": "a finite number",
    "number": "a finite number",
    "text": "a text without NUL",
    "date": "a date",
    "timestamp": "a date or datetime",
    "timestamptz": "a date or datetime",
    "uuid": "a UUID",
    "json": "a text, a finite number, True, False, a date or a datetime",
}


@dataclass(frozen=True)
class Column:
    """A column to filter by. `type_name` is PostgreSQL's, of the elements where it is an array; `length` is that of char(n).

    Kind `json`: no column but a key of a jsonb object, whose values have the types that they have.
    """

    name: str
    kind: Kind
    type_name: str = ""
    type_schema: str = "pg_catalog"
    is_array: bool = False
    length: int | None = None
    labels: tuple[str, ...] = ()
    is_domain: bool = False

    @property
    def compared(self) -> sql.Composable:
        """The column of a document `d`, as its type's operators take it."""
        column = sql.Identifier("d", self.name)
        if not self.is_domain:
            return column
        return queries("as_its_base", column=column, type=sql.SQL("{}[]").format(self.cast) if self.is_array else self.cast)

    @property
    def cast(self) -> sql.Composable:
        return sql.Identifier(self.type_schema, self.type_name)


@dataclass(frozen=True)
class Condition:
    """One column's condition: equal to one of `any_of`, or NULL where `or_null`; or, with `bounds`, within these.

    An array meets it by one of its elements.
    """

    column: Column
    any_of: tuple[Any, ...] = ()
    or_null: bool = False
    bounds: Mapping[str, Any] | None = None


class Filters:
    """Reads `where` for one documents table. Thread-safe: what it remembers of the columns is read anew when it does not fit."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._columns: dict[str, Column | str] | None = None

    def forget(self) -> None:
        """The table was altered: look at its columns again."""
        self._columns = None

    def read(
        self,
        conn: psycopg.Connection,
        where: Mapping[str, Any],
        *,
        among: tuple[str, ...] | None = None,
        object_keys: bool = False,
    ) -> tuple[Condition, ...]:
        """The conditions of `where`. ConfigurationError names the column and what it takes.

        `among`: the only columns that the store can filter by. `object_keys`: any other name is a key of an object beside them.
        """
        if not isinstance(where, Mapping):
            raise ConfigurationError(
                f"where is {type(where).__name__}, and it takes columns with their values.",
                next_step='Write where={"column": value}.',
            )
        return tuple(condition(self._column(conn, name, among, object_keys), asked) for name, asked in where.items())

    def _column(self, conn: psycopg.Connection, name: Any, among: tuple[str, ...] | None, object_keys: bool) -> Column:
        if object_keys and isinstance(name, str) and name not in (among or ()):
            return Column(name, "json")
        known = self._columns
        if known is None or name not in known:
            known = self._columns = self._look(conn)
        if name not in known:
            raise ConfigurationError(
                f"{self._source} has no column {name!r} to filter by; it has {', '.join(known) or 'none'}.",
                next_step="Filter by one of its columns.",
            )
        if among is not None and name not in among:
            raise ConfigurationError(
                f"The store keeps no column {name!r} beside the vectors; it keeps {', '.join(among) or 'none'}.",
                next_step="Add the column to documents.payload in the index's defs.yaml.",
            )
        found = known[name]
        if isinstance(found, str):
            raise ConfigurationError(
                f"Column {name!r} of {self._source} is {found}, and no search can filter by that.",
                next_step=f"Filter by a column of one of these types: {ALLOWED}.",
            )
        return found

    def _look(self, conn: psycopg.Connection) -> dict[str, Column | str]:
        columns: dict[str, Column | str] = {}
        names = {"schema": self._source.schema, "table": self._source.table}
        for name, written, schema, type_name, is_enum, is_array, modifier, labels, is_domain, loose in conn.execute(
            queries("columns"), names
        ):
            kind: Kind | None = "enum" if is_enum else KINDS.get(type_name) if schema == "pg_catalog" else None
            if loose is not None:
                # A store outside PostgreSQL knows no collation, and would find something else.
                columns[name] = f"{written} with the collation {loose}, by which different texts are equal"
                continue
            length = modifier - 4 if type_name == "bpchar" and modifier > 4 else None
            columns[name] = (
                written if kind is None else Column(name, kind, type_name, schema, is_array, length, tuple(labels), is_domain)
            )
        return columns


def condition(column: Column, asked: Any) -> Condition:
    """The condition that `asked` is for this column: a value, None, a list of them, or a range."""
    if isinstance(asked, Mapping):
        return Condition(column, bounds=_bounds(column, asked))
    several = isinstance(asked, (list, tuple, Set, np.ndarray))
    values = [_plain(each) for each in (asked if several else [asked])]
    return Condition(column, tuple(_value(column, each) for each in values if each is not None), None in values)


def _bounds(column: Column, asked: Mapping[str, Any]) -> dict[str, Any]:
    if column.kind not in COMPARED | {"json"} or column.is_array:
        raise _refused(column, "takes no range", "Ranges are for columns of numbers, dates and timestamps.")
    unknown = [each for each in asked if each not in OPERATORS]
    if unknown or not asked:
        said = f"takes no {unknown[0]!r}" if unknown else "takes no empty range"
        raise _refused(column, said, f"A range is one or more of {', '.join(OPERATORS)}.")
    bounds = {operator: _value(column, _plain(value)) for operator, value in asked.items()}
    if column.kind == "json" and {type(value) for value in bounds.values()} not in ({Decimal}, {datetime}):
        raise _refused(column, "takes no range of these", "Ranges are for numbers, dates and datetimes.")
    return bounds


def _plain(value: Any) -> Any:
    """Without the wrapping of numpy and of Python's enumerations."""
    if isinstance(value, Enum):
        return _plain(value.value)
    return value.item() if isinstance(value, np.generic) else value


def _value(column: Column, value: Any) -> Any:
    """The value as Python has it for the column's kind: bool, int, Decimal, float, str, date, datetime or UUID."""
    try:
        read = _READERS[column.kind](column, value)
    except (ValueError, InvalidOperation, OverflowError):
        read = None
    if read is None:
        takes = f"one of {', '.join(map(repr, column.labels))}" if column.kind == "enum" else OF_PYTHON[column.kind]
        raise _refused(column, f"cannot be {repr(value)[:80]}", f"It takes {takes}, None, or a list of these.")
    return read


def _refused(column: Column, what: str, allowed: str) -> ConfigurationError:
    kind = "a key of the payload object" if column.kind == "json" else column.type_name + ("[]" if column.is_array else "")
    return ConfigurationError(f"where[{column.name!r}] ({kind}) {what}.", next_step=allowed)


def _boolean(_: Column, value: Any) -> bool | None:
    if isinstance(value, str) and value.lower() in TRUE | FALSE:
        return value.lower() in TRUE
    return value if isinstance(value, bool) else None


def _integer(column: Column, value: Any) -> int | Decimal | None:
    """Decimal: a number that no row of this column can have, though it can be compared with."""
    number = _decimal(value)
    if number is None:
        return None
    whole = int(number) if abs(number) < 2**63 and number == number.to_integral_value() else None
    most = 2 ** (WIDTHS[column.type_name] - 1)
    return whole if whole is not None and -most <= whole < most else number


def _number(column: Column, value: Any) -> Decimal | float | None:
    number = _decimal(value)
    if number is None or column.type_name == "numeric":
        return number
    return float(number) if math.isfinite(float(number)) else None


def _decimal(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal, str)):
        return None
    # By the shortest text of a float: 0.1 is the numeric 0.1, which a person has written.
    number = Decimal(repr(value) if isinstance(value, float) else value)
    return number if number.is_finite() else None


def _text(column: Column, value: Any) -> str | None:
    if not isinstance(value, str) or "\0" in value or any("\ud800" <= each <= "\udfff" for each in value):
        return None
    # char(n) is filled up with blanks, which its comparison does not count.
    return value.rstrip(" ").ljust(column.length) if column.length is not None else value


def _enum(column: Column, value: Any) -> str | None:
    return value if isinstance(value, str) and value in column.labels else None


def _date(_: Column, value: Any) -> date | None:
    if isinstance(value, str):
        return date.fromisoformat(value)
    return value if isinstance(value, date) and not isinstance(value, datetime) else None


def _moment(column: Column, value: Any) -> datetime | None:
    """Without a zone it is UTC; a column without one takes none."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value[:-1] + "+00:00" if value.endswith(("Z", "z")) else value)
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if not isinstance(value, datetime) or (column.kind == "timestamp" and value.tzinfo is not None):
        return None
    return value.replace(tzinfo=timezone.utc) if value.tzinfo is None and column.kind != "timestamp" else value


def _uuid(_: Column, value: Any) -> UUID | None:
    if isinstance(value, str):
        return UUID(value)
    return value if isinstance(value, UUID) else None


def _json(column: Column, value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(column, value)
    return _moment(column, value) if isinstance(value, date) else _decimal(value)


_READERS: dict[Kind, Any] = {
    "boolean": _boolean,
    "integer": _integer,
    "number": _number,
    "text": _text,
    "enum": _enum,
    "date": _date,
    "timestamp": _moment,
    "timestamptz": _moment,
    "uuid": _uuid,
    "json": _json,
}


def as_sql(conditions: tuple[Condition, ...], values: dict[str, Any]) -> sql.Composable:
    """The conditions about a document `d`; their values are added to `values`."""
    said = [_as_sql(each, f"where_{number}", values) for number, each in enumerate(conditions)]
    return sql.SQL(" AND ").join(said) if said else sql.SQL("true")


def _as_sql(condition: Condition, name: str, values: dict[str, Any]) -> sql.Composable:
    column = condition.column
    part = {"column": column.compared, "type": column.cast}
    if condition.bounds is not None:
        compared = [
            _compared(column, operator, f"{name}_{operator}", value, values) for operator, value in condition.bounds.items()
        ]
        finite = queries("is_finite" if column.kind.startswith(("date", "timestamp")) else "is_number", **part)
        return sql.SQL(" AND ").join([*compared, *([] if column.kind == "integer" else [finite])])
    # What no row of the column can have is left out: cast, it would be an error or another number.
    possible = [value for value in condition.any_of if not (column.kind == "integer" and isinstance(value, Decimal))]
    values[name] = [str(value) if isinstance(value, UUID) else value for value in possible]
    parts = [queries("overlaps" if column.is_array else "is_one_of", values=sql.Placeholder(name), **part)] if possible else []
    if condition.or_null:
        parts.append(queries("is_null", **part))
    return sql.SQL("({})").format(sql.SQL(" OR ").join(parts)) if parts else sql.SQL("false")


def _compared(column: Column, operator: str, name: str, value: Any, values: dict[str, Any]) -> sql.Composable:
    values[name] = value
    of_type = sql.SQL("numeric") if isinstance(value, Decimal) else column.cast
    return queries(
        "compared",
        column=column.compared,
        operator=sql.SQL(OPERATORS[operator]),
        value=sql.Placeholder(name),
        type=of_type,
    )
