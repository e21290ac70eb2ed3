"""The state machine in Python and the one that the database enforces are the same."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from embed_pipeline.catalog import schema
from embed_pipeline.catalog.states import LIVE, STATES, TRANSITIONS, allows
from embed_pipeline.postgres import connection


@pytest.fixture
def catalog(conn: psycopg.Connection, database_url: str) -> psycopg.Connection:
    schema.ensure(conn, database_url)
    conn.execute("INSERT INTO embed_pipeline.indexes VALUES ('docs', 't', '{id}', '{text}', '{\"kind\": \"pgvector\"}')")
    return conn


def insert(conn: psycopg.Connection, state: str) -> None:
    conn.execute(
        "INSERT INTO embed_pipeline.index_versions (index_name, version, state, fingerprint, model_name, model_version, dimensions, "
        "precision, distance, partitions, spec, settings) "
        "VALUES ('docs', 'v1', %s, repeat('a', 64), 'm', '1', 3, 'vector', 'cosine', 1, '{}', '{}')",
        (state,),
    )


@pytest.mark.parametrize(("current", "target"), list(itertools.permutations(STATES, 2)))
def test_database_and_python_agree(catalog: psycopg.Connection, current: str, target: str) -> None:
    # The pointer is left out: whether it agrees is a deferred check of its own.
    catalog.execute("ALTER TABLE embed_pipeline.index_versions DISABLE TRIGGER pointer_agrees")
    insert(catalog, current)
    update = "UPDATE embed_pipeline.index_versions SET state = %s"
    if allows(current, target):  # type: ignore[arg-type]
        catalog.execute(update, (target,))
    else:
        with pytest.raises(psycopg.errors.CheckViolation, match=f"cannot go from {current} to {target}"):
            catalog.execute(update, (target,))


def test_every_state_has_its_transitions() -> None:
    assert set(TRANSITIONS) == set(STATES)
    assert set(LIVE) == set(STATES) - {"retired"}


def test_schema_is_made_once_by_many(bare_database_url: str) -> None:
    """All of them see at once that there is no catalog; one makes it, the others wait and find it."""
    together = threading.Barrier(4)

    def make() -> None:
        with connection.connect(bare_database_url, autocommit=True) as mine:
            together.wait(timeout=30)
            # What waits for another one's half-made catalog ends, so that this test does.
            schema.ensure(mine, f"{bare_database_url}?options=-c%20lock_timeout%3D20s")

    with ThreadPoolExecutor(together.parties) as pool:
        for made in [pool.submit(make) for _ in range(together.parties)]:
            made.result()
    with connection.connect(bare_database_url) as conn:
        assert schema.current_revision(conn) == schema.HEAD


def test_the_public_views_are_there(catalog: psycopg.Connection) -> None:
    for view in ("provenance", "versions", "serving", "queue", "evidence", "events"):
        assert catalog.execute(f"SELECT count(*) FROM embed_pipeline.{view}").fetchone() is not None  # type: ignore[arg-type]
