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
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import TupleRow

from embed_pipeline import signals
from embed_pipeline.catalog import schema
from embed_pipeline.postgres import connection, embedded, home
from tests.harness.strikes import pytest_report_header, pytest_terminal_summary  # noqa: F401  (hooks)

# A database with the extension alone, and one with the catalog too: to migrate it again for each test took more time than the tests.
BARE, TEMPLATE = "test_bare", "test_template"
# Names the home of a server that runs already, for a run of tests that another one starts (tests/mutations).
SHARED_HOME = "EMBED_PIPELINE_TESTS_HOME"
# Where Linux keeps files in memory, and what a run of the tests may put there. A database for each test is copied three times as fast,
# and what others write to a disk delays no fsync: one of SQLite took a minute beside the copies.
MEMORY, ROOM_BYTES = "/dev/shm", 6 * 2**30
# Nothing here has to survive a crash of the machine. Applications may prepare transactions.
SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_prepared_transactions": "20"}


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return
    for name in [name for name in os.environ if name == "DATABASE_URL" or name.startswith("PG")]:
        del os.environ[name]
    if _roomy(MEMORY):
        os.environ["TMPDIR"] = MEMORY
        tempfile.tempdir = None  # read again
    os.environ[home.HOME_VARIABLE] = os.environ.get(SHARED_HOME) or tempfile.mkdtemp(prefix="embed-pipeline-tests-")


def _roomy(place: str) -> bool:
    with suppress(OSError):
        return shutil.disk_usage(place).free > ROOM_BYTES
    return False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first: one that begins last keeps a single core busy for minutes."""
    items.sort(key=lambda item: "/end_to_end/" not in item.nodeid)


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
    """An autocommit connection to the database `postgres`; the templates for the tests' databases exist."""
    with psycopg.connect(postgres_server.url("postgres"), autocommit=True) as admin:
        # Workers arrive together: one makes the templates, and shows each by its name only when it is whole.
        admin.execute("SELECT pg_advisory_lock(1)")
        if admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [TEMPLATE]).fetchone() is None:
            _make_templates(postgres_server, admin)
        admin.execute("SELECT pg_advisory_unlock(1)")
        yield admin


def _make_templates(server: embedded.Server, admin: psycopg.Connection[TupleRow]) -> None:
    admin.execute("CREATE DATABASE unfinished")
    with psycopg.connect(server.url("unfinished"), autocommit=True) as template:
        template.execute("CREATE EXTENSION vector")
    admin.execute(sql.SQL("CREATE DATABASE {bare} TEMPLATE unfinished").format(bare=sql.Identifier(BARE)))
    url = server.url("unfinished")
    with connection.connect(url, autocommit=True) as template:
        schema.ensure(template, url)
    admin.execute(sql.SQL("ALTER DATABASE unfinished RENAME TO {template}").format(template=sql.Identifier(TEMPLATE)))


@pytest.fixture
def database_url(postgres_server: embedded.Server, postgres_admin: psycopg.Connection[TupleRow]) -> Iterator[str]:
    """The URL of a database of this test's own, with the extension `vector` and an empty catalog, dropped afterwards."""
    with _database(postgres_server, postgres_admin, template()) as url:
        yield url


@pytest.fixture
def bare_database_url(postgres_server: embedded.Server, postgres_admin: psycopg.Connection[TupleRow]) -> Iterator[str]:
    """The same without a catalog: for what happens on the very first use."""
    with _database(postgres_server, postgres_admin, BARE) as url:
        yield url


def template() -> str:
    """The template with a catalog; in a run that another one started the bare one, since its copy of the package makes another catalog."""
    return BARE if SHARED_HOME in os.environ else TEMPLATE


@contextmanager
def _database(server: embedded.Server, admin: psycopg.Connection[TupleRow], template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    names = {"name": sql.Identifier(name), "template": sql.Identifier(template)}
    admin.execute(sql.SQL("CREATE DATABASE {name} TEMPLATE {template} STRATEGY wal_log").format(**names))
    yield server.url(name)
    admin.execute(sql.SQL("DROP DATABASE {name} WITH (FORCE)").format(**names))


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection[TupleRow]]:
    """An autocommit connection, as the product opens it, to `database_url`; for a test's own statements names are looked up in public."""
    with connection.connect(database_url, autocommit=True) as connected:
        connected.execute("SET search_path = public")
        yield connected


@pytest.fixture(autouse=True)
def forget_listeners() -> Iterator[None]:
    yield
    signals.forget_all()
