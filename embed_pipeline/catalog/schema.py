"""The catalog's own schema: made and migrated on first use, by whichever process comes first."""

from __future__ import annotations

from pathlib import Path

import psycopg
from psycopg import errors

from embed_pipeline.errors import CatalogError, DatabaseUnavailable

HEAD = "0007"


def current_revision(conn: psycopg.Connection) -> str | None:
    """The revision that the database is at; None before the first migration."""
    row = conn.execute("SELECT to_regclass('embed_pipeline.schema_version') IS NOT NULL").fetchone()
    if row is None or not row[0]:
        return None
    found = conn.execute("SELECT version_num FROM embed_pipeline.schema_version").fetchone()
    return None if found is None else str(found[0])


def ensure(conn: psycopg.Connection, url: str) -> None:
    """Bring the catalog to HEAD. Costs one query when it is there already; concurrent callers take turns."""
    revision = current_revision(conn)
    if revision == HEAD:
        return
    if revision is not None and revision > HEAD:
        raise CatalogError(
            f"The catalog in this database is at revision {revision}, newer than this package knows ({HEAD}).",
            next_step="Upgrade embed-pipeline here to the version that migrated it.",
        )
    # Session-level, on our own connection: the lock outlives the migration's transactions and dies with this process.
    conn.execute("SELECT pg_advisory_lock(hashtextextended('embed_pipeline.schema', 0))")
    try:
        if current_revision(conn) != HEAD:
            _create_extension(conn)
            _upgrade(url)
    finally:
        conn.execute("SELECT pg_advisory_unlock(hashtextextended('embed_pipeline.schema', 0))")


def _create_extension(conn: psycopg.Connection) -> None:
    # Looked up first: IF NOT EXISTS still asks for the right to create.
    row = conn.execute(
        "SELECT to_regnamespace('embed_pipeline') IS NULL, NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'vector')"
    ).fetchone()
    assert row is not None
    try:
        if row[0]:
            conn.execute("CREATE SCHEMA embed_pipeline")
        if row[1]:
            conn.execute("CREATE EXTENSION vector")
    except errors.InsufficientPrivilege as problem:
        raise DatabaseUnavailable(
            f"This role may not prepare the database: {problem.diag.message_primary}.",
            next_step="Have an administrator run: CREATE EXTENSION vector; CREATE SCHEMA embed_pipeline AUTHORIZATION <this role>;",
        ) from problem


def _upgrade(url: str) -> None:
    # Imported here: Alembic and SQLAlchemy take half a second, and only the very first use of a database needs them.
    import sqlalchemy
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except errors.LockNotAvailable as problem:
            raise DatabaseUnavailable(
                "The catalog could not be migrated: long transactions hold the tables of the vectors. Nothing was changed.",
                next_step="End them (see pg_stat_activity; a running index build is one) and run the same command again.",
            ) from problem
    engine.dispose()
