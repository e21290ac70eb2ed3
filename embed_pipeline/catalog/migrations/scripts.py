"""Runs one of our .sql scripts inside an Alembic migration."""

from __future__ import annotations

from pathlib import Path

import psycopg
from alembic import op

from embed_pipeline.catalog.schema import script


def run_script(name: str) -> None:
    """Execute the script at `name`, relative to this folder, on the migration's own connection."""
    connection: psycopg.Connection = op.get_bind().connection.driver_connection  # type: ignore[assignment]
    connection.execute(script(connection, Path(__file__).parent / name))
