"""The code of now on the catalog of a later release: what was only added disturbs nobody, what was taken away is refused in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from embed_pipeline import Searcher
from embed_pipeline.catalog import schema
from embed_pipeline.errors import CatalogError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import cutover, dual_write, retire
from embed_pipeline.report.status import status_of
from tests.harness.articles import change, declared, serve, settle

Open = Callable[..., OpenIndex]
LATER = "9999"


def expand(app: psycopg.Connection[Any]) -> None:
    """What a later release may add at once: to every table two columns, a table, a function of a known name with a further argument."""
    tables = app.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'embed_pipeline'::regnamespace AND relkind = 'r' AND relname <> 'schema_version'"
    ).fetchall()
    assert len(tables) > 25
    for (table,) in tables:
        name = sql.Identifier("embed_pipeline", table)
        statement = "ALTER TABLE {} ADD COLUMN later text, ADD COLUMN later_too integer NOT NULL DEFAULT 7"
        app.execute(sql.SQL(statement).format(name))
    app.execute("CREATE TABLE embed_pipeline.later (index_name text PRIMARY KEY REFERENCES embed_pipeline.indexes)")
    app.execute("UPDATE embed_pipeline.schema_version SET version_num = %s", [LATER])


@pytest.mark.parametrize("begun", [False, True])
def test_a_migration_runs_on_a_catalog_that_a_later_release_has_expanded(
    app: psycopg.Connection[Any], database_url: str, open_docs: Open, begun: bool
) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        schema.ensure(conn, database_url)
    if begun:
        serve(open_docs("v1"), "v1")
    expand(app)
    index = open_docs("v1", "v2")
    if not begun:
        serve(index, "v1")
    with Searcher("docs", database_url) as searcher:
        assert searcher.search("title 1\n\nbody 1", k=1).hits[0].doc_id == "1"
        change(app, 1, "another")
        app.execute("DELETE FROM articles WHERE id = 2")
        serve(index, "v2")
        settle(index)
        assert cutover.rollback(index).version == "v1"
        assert all(not each.error for each in dual_write.sync(index))
        retire.retire(index, "v2", "v2")
        assert searcher.search("title 3\n\nbody 3", k=1).hits[0].doc_id == "3"


def test_a_later_release_that_has_taken_something_away_is_named(
    app: psycopg.Connection[Any], database_url: str, open_docs: Open, holdout: Path
) -> None:
    serve(open_docs("v1"), "v1")
    expand(app)
    spec = declared(database_url, holdout, "v1")
    assert status_of(spec).serving.version == "v1"
    app.execute("UPDATE embed_pipeline.works_from SET revision = %s", [LATER])
    for work in (lambda: open_docs("v1"), lambda: status_of(spec)):
        with pytest.raises(CatalogError, match=f"revision {LATER}, which packages that know {schema.HEAD} cannot work with"):
            work()
