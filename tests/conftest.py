"""One embedded PostgreSQL for the whole test session, a fresh database for each test.

The server is made in a temporary home that every xdist worker inherits through the environment; the first test that
needs it starts it, and the controller stops it at the end. A developer's own server and DATABASE_URL are out of reach.

With EMBED_PIPELINE_TESTS_URL the databases are made on another server: the URL is a superuser's, of a database to administer from. What
is about the embedded server itself skips then, and what kills or restarts a server starts one of its own, as always.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import TupleRow

from embed_pipeline import signals
from embed_pipeline.catalog import schema
from embed_pipeline.postgres import connection, embedded, home, scram
from tests.harness.postgres.other import TESTS_URL, accept_by_default
from tests.harness.strikes import pytest_report_header, pytest_terminal_summary  # noqa: F401  (hooks)

ServerUrl = Callable[[str], str]

# A database with the extension alone, and one with the catalog too: to migrate it again for each test took more time than the tests.
BARE, TEMPLATE = "test_bare", "test_template"
# Names the home of a server that runs already, for a run of tests that another one starts (tests/mutations).
SHARED_HOME = "EMBED_PIPELINE_TESTS_HOME"
# On another server than the embedded one: tells the templates of one run from those of the next, which may have another schema.
RUN = "EMBED_PIPELINE_TESTS_RUN"
# Where Linux keeps files in memory, and what a run of the tests may put there. A database for each test is copied three times as fast,
# and what others write to a disk delays no fsync: one of SQLite took a minute beside the copies.
MEMORY, ROOM_BYTES = "/dev/shm", 6 * 2**30
# A password that is drawn at random needs no hashing that is slow to guess by, and each of the thousands of connections repeats it.
ITERATIONS = 1
# Nothing here has to survive a crash of the machine. Applications may prepare transactions.
SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_prepared_transactions": "20"}


def pytest_configure(config: pytest.Config) -> None:
    scram.ITERATIONS = ITERATIONS
    if TESTS_URL in os.environ:
        accept_by_default()
    if hasattr(config, "workerinput"):
        return
    if TESTS_URL in os.environ:
        os.environ[RUN] = uuid.uuid4().hex[:8]
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


def pytest_collection_finish() -> None:
    # What has been imported stays: no collection of garbage has to look through all of it again.
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return
    if os.environ.pop(RUN, None) is not None:
        with psycopg.connect(other_url("postgres"), autocommit=True) as admin:
            for name in (bare(), template()):
                admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
    place = Path(os.environ.pop(home.HOME_VARIABLE))
    if SHARED_HOME in os.environ:
        return
    embedded.stop(place)
    shutil.rmtree(place)


@pytest.fixture(scope="session")
def postgres_server() -> embedded.Server:
    """The embedded server of this test session, shared by all workers. Skips on another server."""
    if TESTS_URL in os.environ:
        pytest.skip(f"this is about the embedded server, and {TESTS_URL} names another one")
    return embedded.ensure_running(settings=SETTINGS)


@pytest.fixture(scope="session")
def server_url() -> ServerUrl:
    """The URL of a database, by its name, on the server that this run is on."""
    return other_url if TESTS_URL in os.environ else embedded.ensure_running(settings=SETTINGS).url


def other_url(database: str) -> str:
    """The same on the server that EMBED_PIPELINE_TESTS_URL names; `postgres` is its own database there."""
    given = urlsplit(os.environ[TESTS_URL])
    return urlunsplit(given if database == "postgres" else given._replace(path=f"/{database}"))


@pytest.fixture(scope="session")
def postgres_admin(server_url: ServerUrl) -> Iterator[psycopg.Connection[TupleRow]]:
    """An autocommit connection to the database `postgres`; the templates for the tests' databases exist."""
    with psycopg.connect(server_url("postgres"), autocommit=True) as admin:
        # Workers arrive together: one makes the templates, and shows each by its name only when it is whole.
        admin.execute("SELECT pg_advisory_lock(1)")
        if admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [_named(TEMPLATE)]).fetchone() is None:
            _make_templates(server_url, admin)
        admin.execute("SELECT pg_advisory_unlock(1)")
        yield admin


def _make_templates(server_url: ServerUrl, admin: psycopg.Connection[TupleRow]) -> None:
    names = {"unfinished": _named("unfinished"), "bare": bare(), "template": _named(TEMPLATE)}
    parts = {name: sql.Identifier(value) for name, value in names.items()}
    url = server_url(names["unfinished"])
    admin.execute(sql.SQL("CREATE DATABASE {unfinished}").format(**parts))
    with psycopg.connect(url, autocommit=True) as template:
        template.execute("CREATE EXTENSION vector")
    admin.execute(sql.SQL("CREATE DATABASE {bare} TEMPLATE {unfinished}").format(**parts))
    with connection.connect(url, autocommit=True) as template:
        schema.ensure(template, url)
    admin.execute(sql.SQL("ALTER DATABASE {unfinished} RENAME TO {template}").format(**parts))


@pytest.fixture
def database_url(server_url: ServerUrl, postgres_admin: psycopg.Connection[TupleRow]) -> Iterator[str]:
    """The URL of a database of this test's own, with the extension `vector` and an empty catalog, dropped afterwards."""
    with database(server_url, postgres_admin, template()) as url:
        yield url


@pytest.fixture
def bare_database_url(server_url: ServerUrl, postgres_admin: psycopg.Connection[TupleRow]) -> Iterator[str]:
    """The same without a catalog: for what happens on the very first use."""
    with database(server_url, postgres_admin, bare()) as url:
        yield url


def bare() -> str:
    """The template without a catalog."""
    return _named(BARE)


def template() -> str:
    """The template with a catalog; in a run that another one started the bare one, since its copy of the package makes another catalog."""
    return bare() if SHARED_HOME in os.environ else _named(TEMPLATE)


def _named(name: str) -> str:
    return f"{name}_{os.environ[RUN]}" if RUN in os.environ else name


@contextmanager
def database(server_url: ServerUrl, admin: psycopg.Connection[TupleRow], template: str) -> Iterator[str]:
    """A database made from `template`, and dropped afterwards; its URL."""
    name = f"test_{uuid.uuid4().hex}"
    names = {"name": sql.Identifier(name), "template": sql.Identifier(template)}
    admin.execute(sql.SQL("CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy").format(**names))
    yield server_url(name)
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
