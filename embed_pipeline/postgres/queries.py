"""Named queries: the SQL stands in .sql files, each statement under a line `-- name: the_name`.

Identifiers (`{table}`) are filled in through `psycopg.sql`, values (`%(name)s`) are parameters. Python builds no SQL strings.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from psycopg import sql

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

    def __call__(self, name: str, /, **parts: sql.Composable) -> sql.Composed:
        # The text comes from a file of this package, never from input.
        return sql.SQL(load(self._path)[name]).format(**parts)
