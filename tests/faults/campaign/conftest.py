"""Campaigns, each on a database of its own; and a slice of them, by SLICE_SECONDS."""

from __future__ import annotations

import itertools
import random
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import TupleRow

from tests.conftest import template
from tests.faults.campaign.declared import with_parameter
from tests.faults.campaign.load import Load
from tests.faults.campaign.scenario import IMPORTED, Campaign
from tests.harness.forkserver import preload
from tests.harness.strikes import SEED, SLICE_SECONDS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A slice takes scenes and struck migrations in turn, so that it comes to both."""
    if SLICE_SECONDS:
        drawn = random.Random(SEED).sample(items, len(items))
        scenes = [item for item in drawn if "/test_moments.py" in item.nodeid]
        others = [item for item in drawn if "/test_moments.py" not in item.nodeid]
        items[:] = [item for pair in itertools.zip_longest(scenes, others) for item in pair if item is not None]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Only where the campaign is run: what its processes need is much for the others to wait for."""
    if any("/faults/campaign/" in item.nodeid and item.get_closest_marker("soak") for item in session.items):
        preload(*IMPORTED)


@pytest.fixture(scope="session")
def end_of_the_slice() -> float:
    """When this worker begins nothing more. The scenario that it is in is finished."""
    return time.monotonic() + (SLICE_SECONDS or float("inf"))


@pytest.fixture(autouse=True)
def in_the_slice(end_of_the_slice: float) -> None:
    if time.monotonic() > end_of_the_slice:
        pytest.skip("the time of the slice is over")


@pytest.fixture
def campaign(
    server_url: Callable[[str], str],
    postgres_admin: psycopg.Connection[TupleRow],
    tmp_path: Path,
    record_property: Callable[[str, Any], None],
) -> Iterator[Callable[..., Campaign]]:
    """Makes campaigns, each on a database of its own with v1 serving: `campaign(seed, keys=..., writers=..., ...)`."""
    made: list[Campaign] = []
    databases: list[str] = []

    def make(
        seed: int = SEED,
        *,
        url: str = "",
        keys: int = 120,
        writers: int = 2,
        truncates: bool = False,
        hot: bool = False,
        chunked: bool = False,
        most_waiting: int = 0,
        **more: Any,
    ) -> Campaign:
        if not url:
            name = f"campaign_{uuid.uuid4().hex}"
            postgres_admin.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template()))
            )
            databases.append(name)
            url = server_url(name)
        # The application's statements take as long as they take, whatever the database says for others.
        application = with_parameter(url, "options", "-c statement_timeout=0")
        load = Load(application, keys, writers, truncates=truncates, hot=hot, long_texts=chunked, most_waiting=most_waiting)
        each = Campaign(tmp_path / str(len(made)), seed, load, url=url, chunked=chunked, **more)
        made.append(each)
        record_property("strikes", each.strikes)
        each.prepare()
        return each

    yield make
    for each in made:
        each.abandon()
    for database in databases:
        _forget_prepared(server_url(database))
        postgres_admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))


def _forget_prepared(url: str) -> None:
    """A writer that was killed leaves what it has prepared, and no database with such a transaction can be dropped."""
    with psycopg.connect(url, autocommit=True) as conn:
        left = conn.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()").fetchall()
        for (name,) in left:
            conn.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(name)))
