"""One embedded PostgreSQL for the whole test session, a fresh database for each test.

The server is made in a temporary home that every xdist worker inherits through the environment; the first test that
needs it starts it, and the controller stops it at the end. A developer's own server and DATABASE_URL are out of reach.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import TupleRow

from embed_pipeline.postgres import connection, embedded, home
from tests.articles import app, forget_listeners, holdout, open_docs, second_app  # noqa: F401  (fixtures for every test)
from tests.campaign.strikes import pytest_report_header, pytest_terminal_summary  # noqa: F401  (hooks)
from tests.providers.loopback import provider, provider_process  # noqa: F401  (fixtures for every test)

TEMPLATE = "test_template"
# Names the home of a server that runs already, for a run of tests that another one starts (tests/protections).
SHARED_HOME = "EMBED_PIPELINE_TESTS_HOME"
# Nothing here has to survive a crash of the machine.
SETTINGS = {"fsync": "off", "full_page_writes": "off"}


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return
    for name in [name for name in os.environ if name == "DATABASE_URL" or name.startswith("PG")]:
        del os.environ[name]
    os.environ[home.HOME_VARIABLE] = os.environ.get(SHARED_HOME) or tempfile.mkdtemp(prefix="embed-pipeline-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return
    place = Path(os.environ.pop(home.HOME_VARIABLE))
    if SHARED_HOME in os.environ:
        return
    embedded.stop(place)
    shutil.rmtree(place)


@pytest.fixture(scope="session")
def postgres_server() -> embedded.Server:
    """The embedded server of this test session, shared by all workers."""
    return embedded.ensure_running(settings=SETTINGS)


@pytest.fixture(scope="session")
def postgres_admin(postgres_server: embedded.Server) -> Iterator[psycopg.Connection[TupleRow]]:
    """An autocommit connection to the database `postgres`; the template for the tests' databases exists."""
    with psycopg.connect(postgres_server.url("postgres"), autocommit=True) as admin:
        # Workers arrive together: one makes the template, and shows it by its name only when it is whole.
        admin.execute("SELECT pg_advisory_lock(1)")
        if admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [TEMPLATE]).fetchone() is None:
            admin.execute("CREATE DATABASE unfinished_template")
            with psycopg.connect(postgres_server.url("unfinished_template"), autocommit=True) as template:
                template.execute("CREATE EXTENSION vector")
            admin.execute(
                sql.SQL("ALTER DATABASE unfinished_template RENAME TO {template}").format(template=sql.Identifier(TEMPLATE))
            )
        admin.execute("SELECT pg_advisory_unlock(1)")
        yield admin


@pytest.fixture
def database_url(postgres_server: embedded.Server, postgres_admin: psycopg.Connection[TupleRow]) -> Iterator[str]:
    """The URL of a database of this test's own, with the extension `vector`, dropped afterwards."""
    name = f"test_{uuid.uuid4().hex}"
    names = {"name": sql.Identifier(name), "template": sql.Identifier(TEMPLATE)}
    postgres_admin.execute(sql.SQL("CREATE DATABASE {name} TEMPLATE {template} STRATEGY wal_log").format(**names))
    yield postgres_server.url(name)
    postgres_admin.execute(sql.SQL("DROP DATABASE {name} WITH (FORCE)").format(**names))


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection[TupleRow]]:
    """An autocommit connection, as the product opens it, to `database_url`."""
    with connection.connect(database_url, autocommit=True) as connected:
        yield connected
