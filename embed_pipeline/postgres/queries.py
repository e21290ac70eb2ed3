"""Named queries: the SQL stands in .sql files, each statement under a line `-- name: the_name`.

Identifiers (`{table}`) are filled in through `psycopg.sql`, values (`%(name)s`) are parameters. Python builds no SQL strings.

Names are the application's: a column may be called `discount %`. A statement that has parameters wants each % of its own twice, one without
wants it once, and psycopg leaves that to its caller. `Cursor` sees to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.abc import AdaptContext, Params, Query

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


@cache
def load(path: Path) -> dict[str, str]:
    """The statements of one .sql file by name. A name that stands twice is a defect and raises ValueError."""
    parts = _NAME.split(path.read_text(encoding="utf-8"))
    queries: dict[str, str] = {}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        if name in queries:
            raise ValueError(f"{path}: query {name} is defined twice")
        queries[name] = body.strip()
    return queries


class Queries:
    """The statements of one file; `queries("name", table=identifier)` gives a composed statement."""

    def __init__(self, module_file: str, name: str = "queries.sql") -> None:
        self._path = Path(module_file).with_name(name)
        self._composed: dict[str, sql.Composed] = {}

    def __call__(self, name: str, /, **parts: sql.Composable) -> sql.Composed:
        # A statement without parts is composed once in a process.
        composed = None if parts else self._composed.get(name)
        if composed is None:
            # The text comes from a file of this package, never from input.
            composed = sql.SQL(load(self._path)[name]).format(**parts)
            if not parts:
                self._composed[name] = composed
        return composed


class Verbatim(sql.Composable):
    """Text that the server gave as SQL: the name of a type, with its schema and quoted where it has to be."""

    def as_bytes(self, context: AdaptContext | None = None) -> bytes:
        return str(self._obj).encode()


class _Doubled(sql.Composable):
    def as_bytes(self, context: AdaptContext | None = None) -> bytes:
        part: sql.Composable = self._obj
        return part.as_bytes(context).replace(b"%", b"%%")


def with_parameters(query: sql.Composed) -> sql.Composed:
    """The statement as it is executed with parameters: no % of a name or a literal is taken for the beginning of one."""
    return sql.Composed([_doubled(part) for part in query])


def _doubled(part: sql.Composable) -> sql.Composable:
    if isinstance(part, sql.Composed):
        return with_parameters(part)
    return _Doubled(part) if isinstance(part, sql.Identifier | sql.Literal | Verbatim) else part


class Cursor(psycopg.Cursor[Any]):
    """Executes composed statements whatever their names hold."""

    def execute(self, query: Query, params: Params | None = None, **options: Any) -> Cursor:
        given: Any = with_parameters(query) if params is not None and isinstance(query, sql.Composed) else query
        return super().execute(given, params, **options)

    def executemany(self, query: Query, params_seq: Iterable[Params], **options: Any) -> None:
        super().executemany(with_parameters(query) if isinstance(query, sql.Composed) else query, params_seq, **options)
