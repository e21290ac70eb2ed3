"""What a server may have been built without: ICU, and extensions of PostgreSQL's own. The embedded one has these extensions, and no ICU."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import sql


def make_loose_collation(conn: psycopg.Connection[Any]) -> None:
    """Make the collation `loose`, which knows no case and no accents; skip the test where there is no ICU."""
    try:
        conn.execute("CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level1', deterministic = false)")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this server was built without ICU")


def make_extensions(conn: psycopg.Connection[Any], *names: str) -> set[str]:
    """Make those of these extensions that there are; returns which are missing."""
    rows = conn.execute("SELECT name FROM pg_available_extensions WHERE name = ANY (%s)", (list(names),)).fetchall()
    for (name,) in rows:
        conn.execute(sql.SQL("CREATE EXTENSION {}").format(sql.Identifier(name)))
    return set(names) - {name for (name,) in rows}
