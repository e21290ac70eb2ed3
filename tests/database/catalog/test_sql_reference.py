"""docs/reference/sql.md against the views of the catalog."""

from __future__ import annotations

from typing import Any

import psycopg

from embed_pipeline.catalog import schema
from tests.unit.test_docs import ROOT, tables


def test_the_sql_reference_has_every_view_with_its_columns(conn: psycopg.Connection[Any], database_url: str) -> None:
    schema.ensure(conn, database_url)
    found = conn.execute(
        "SELECT format('embed_pipeline.%s', table_name), column_name, data_type FROM information_schema.columns "
        "JOIN information_schema.views USING (table_schema, table_name) WHERE table_schema = 'embed_pipeline' "
        "ORDER BY table_name, ordinal_position"
    ).fetchall()
    rows = list(tables(ROOT / "docs/reference/sql.md"))
    views = {heading for heading, _, _ in found}
    documented = [(heading, cells[0].strip("`"), cells[1]) for heading, cells in rows if heading in views]
    assert sorted(documented, key=lambda row: row[0]) == found
