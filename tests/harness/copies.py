"""A copy of a database, as staging is made: with everything that is in it, on the same server and under another name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest
from psycopg import conninfo
from psycopg.rows import TupleRow

from tests.conftest import ServerUrl, database


@pytest.fixture
def copied(server_url: ServerUrl, postgres_admin: psycopg.Connection[TupleRow]) -> Iterator[Callable[[str], str]]:
    """Copies the database of a URL and gives the copy's; dropped at the end. Whoever is connected to the original is thrown out."""
    with ExitStack() as copies:

        def copy(url: str) -> str:
            name = str(conninfo.conninfo_to_dict(url)["dbname"])
            postgres_admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,))
            return copies.enter_context(database(server_url, postgres_admin, name))

        yield copy
