"""The catalog's own schema: made on first use by whichever process comes first, migrated by the one that brings a newer package."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import errors, sql

from embed_pipeline.errors import CatalogError, DatabaseUnavailable
from embed_pipeline.postgres import turns
from embed_pipeline.postgres.connection import connect, register_types, vector_schema
from embed_pipeline.postgres.queries import Queries

HEAD = "0001"
TURN = "embed_pipeline.schema"
# The catalog is made in a second, and migrated in some.
TURN_SECONDS = 60.0

# Alembic's context is one for the whole process: two threads with two databases would each run into the other's.
_MIGRATING = threading.Lock()

queries = Queries(__file__, "schema_queries.sql")


def current_revision(conn: psycopg.Connection) -> str | None:
    """The revision that the database is at; None before the first use. CatalogError where that is lost, and other tables are there."""
    row = conn.execute(queries("has_revision")).fetchone()
    found = conn.execute(queries("revision")).fetchone() if row is not None and row[0] else None
    if found is None:
        _refuse_half_a_catalog(conn)
        return None
    return str(found[0])


def ensure(conn: psycopg.Connection, url: str) -> None:
    """Bring the catalog to HEAD. Costs one query when it is there already; concurrent callers take turns."""
    revision = current_revision(conn)
    if revision == HEAD:
        return
    if revision is not None and revision > HEAD:
        require_known(conn, revision)
        return
    with _alone(conn):
        revision = current_revision(conn)
        if revision is None:
            _create_extension(conn)
            register_types(conn)
            _create(conn)
        elif revision != HEAD:
            migrate(url)


def require_known(conn: psycopg.Connection, revision: str) -> None:
    """CatalogError where a newer package has taken something away that this one needs; what was only added disturbs nobody."""
    row = conn.execute(queries("works_from")).fetchone()
    if row is None or row[0] > HEAD:
        raise CatalogError(
            f"The catalog in this database is at revision {revision}, which packages that know {HEAD} cannot work with any more.",
            next_step="Upgrade embed-pipeline here to the version that migrated it.",
        )


def script(conn: psycopg.Connection, path: Path) -> sql.Composed:
    """A script of the catalog, with the schema of the vector extension filled in."""
    return sql.SQL(path.read_text(encoding="utf-8")).format(vector_schema=sql.Identifier(vector_schema(conn)))


def migrate(url: str) -> None:
    """Run the migrations that the database has not seen, from the first one where it has seen none."""
    with _MIGRATING:
        _migrate(url)


def _migrate(url: str) -> None:
    # Imported here: Alembic and SQLAlchemy take half a second, and only a newer package needs them.
    import sqlalchemy
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: connect(url))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    engine.dispose()


@contextmanager
def _alone(conn: psycopg.Connection) -> Iterator[None]:
    # Of the session, on our own connection: the turn outlives the transactions under it and dies with this process.
    turns.take(
        conn,
        TURN,
        "of_session",
        seconds=TURN_SECONDS,
        refused=lambda by: DatabaseUnavailable(
            f"Somebody else has been preparing this database for {TURN_SECONDS:.0f} s{by}.",
            next_step="Run the same command again when that has ended.",
        ),
    )
    try:
        yield
    finally:
        turns.end(conn, TURN, "of_session")


def _refuse_half_a_catalog(conn: psycopg.Connection) -> None:
    """An index is registered, and of which revision the catalog is nobody knows: somebody dropped that table, or restored a part."""
    row = conn.execute(queries("has_tables")).fetchone()
    if row is not None and row[0]:
        raise CatalogError(
            "embed_pipeline.schema_version is gone from this database, or empty, while other tables of the catalog are there.",
            next_step="Put the schema embed_pipeline back from a backup, then compare everything: embed-pipeline sync <index> --full",
            missing="embed_pipeline.schema_version",
        )


def _create(conn: psycopg.Connection) -> None:
    with conn.transaction():
        conn.execute(script(conn, Path(__file__).with_name("schema.sql")))
        conn.execute(queries("make_revision"))
        conn.execute(queries("set_revision"), {"revision": HEAD})


def _create_extension(conn: psycopg.Connection) -> None:
    # Looked up first: IF NOT EXISTS still asks for the right to create.
    row = conn.execute(queries("missing_parts")).fetchone()
    assert row is not None
    try:
        if row[0]:
            conn.execute(queries("create_schema"))
        if row[1]:
            if row[2]:
                raise DatabaseUnavailable(
                    "The database has no schema public to put the extension vector into.",
                    next_step="Have an administrator run: CREATE EXTENSION vector SCHEMA <one of yours>;",
                )
            conn.execute(queries("create_extension"))
    except errors.InsufficientPrivilege as problem:
        raise DatabaseUnavailable(
            f"This role may not prepare the database: {problem.diag.message_primary}.",
            next_step="Have an administrator run: CREATE EXTENSION vector; CREATE SCHEMA embed_pipeline AUTHORIZATION <this role>;",
        ) from problem
