"""Runs one of our .sql scripts inside an Alembic migration."""

from __future__ import annotations

from pathlib import Path

import psycopg
from alembic import op
from psycopg import sql

SCRIPTS = Path(__file__).with_name("sql")


def run_script(name: str) -> None:
    """Execute sql/`name` on the migration's own connection, with the schema of the vector extension filled in."""
    connection: psycopg.Connection = op.get_bind().connection.driver_connection  # type: ignore[assignment]
    row = connection.execute(
        "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'"
    ).fetchone()
    if row is None:
        raise RuntimeError("the vector extension must exist before the catalog does")
    statement = (SCRIPTS / name).read_text(encoding="utf-8")
    connection.execute(sql.SQL(statement).format(vector_schema=sql.Identifier(row[0])))
