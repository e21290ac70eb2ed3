"""A database in which a migration stands before its cutover."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg.rows import TupleRow

from embed_pipeline.evaluate import gate
from embed_pipeline.migrate.open_index import OpenIndex, opened
from tests.conftest import ServerUrl, database, template
from tests.harness.articles import (
    declared,
    fill,
    make_articles,
    serve,
    write_holdout,
)

Open = Callable[..., OpenIndex]


@pytest.fixture(scope="session")
def judged_template(
    server_url: ServerUrl, postgres_admin: psycopg.Connection[TupleRow], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The name of a database in which v1 serves, and v2 is filled and has passed the gate. Copied for each test: to get there takes longer
    than most of them."""
    holdout = write_holdout(tmp_path_factory.mktemp("judged") / "holdout.jsonl")
    with database(server_url, postgres_admin, template()) as url:
        with psycopg.connect(url, autocommit=True) as app:
            make_articles(app)
        with opened(declared(url, holdout, "v1")) as index:
            serve(index, "v1")
        with opened(declared(url, holdout, "v1", "v2")) as index:
            fill(index, "v2")
            assert gate.run(index, "v2").outcome == "pass"
        yield url.rpartition("/")[2]


@pytest.fixture
def database_url(
    request: pytest.FixtureRequest, server_url: ServerUrl, postgres_admin: psycopg.Connection[TupleRow]
) -> Iterator[str]:
    made = request.getfixturevalue("judged_template") if "judged" in request.fixturenames else template()
    with database(server_url, postgres_admin, made) as url:
        yield url


@pytest.fixture
def judged(open_docs: Open) -> OpenIndex:
    """v1 serves; v2 is filled and has passed the gate."""
    return open_docs("v1", "v2")
