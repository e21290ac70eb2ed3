"""Connections to PostgreSQL: opened one way, failing in one sentence, never showing a password."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from pgvector.psycopg.halfvec import register_halfvec_info
from pgvector.psycopg.sparsevec import register_sparsevec_info
from pgvector.psycopg.vector import register_vector_info
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow
from psycopg.types import TypeInfo

from embed_pipeline.errors import DatabaseUnavailable
from embed_pipeline.postgres.queries import Cursor, Queries

MINIMUM_SERVER = 15
# pgvector before 0.8.4 can corrupt an HNSW index in VACUUM (its CHANGELOG, 0.8.3 and 0.8.4).
MINIMUM_VECTOR = (0, 8, 4)
CONNECT_TIMEOUT = 10
# The longest that an application can wait for a lock of ours: a process may be stopped, or its machine gone, in mid-transaction.
FROZEN_MS = 30_000

# No name of ours is looked up in a schema where somebody else can make one: what pg_catalog does not have is written with its schema.
_OWN_NAMES = "-c search_path=pg_catalog,pg_temp"
# Keys are compared and hashed as text. These settings decide how a date, a float or a bytea is written, and a role or a
# database may have others. Given at connect time they cost no round trip.
_STABLE_TEXT = "-c DateStyle=ISO,YMD -c TimeZone=UTC -c IntervalStyle=postgres -c bytea_output=hex -c extra_float_digits=1"
_QUERIES = Queries(__file__, "connection.sql")
_REGISTER = {"vector": register_vector_info, "halfvec": register_halfvec_info, "sparsevec": register_sparsevec_info}
_SCHEME = re.compile(r"^postgres(?:ql)?(?:\+\w+)?://")
# Another database of the embedded server than the one that an index without a URL is in.
_EMBEDDED = re.compile(r"^embedded:([a-z][a-z0-9_]{0,62})$")


def resolve_url(database_url: str | None) -> str:
    """The URL to connect to: the given one without a driver name, or the embedded server's, which is started.

    `embedded:NAME` is the database NAME of the embedded server, made when it is missing. A libpq string (`host=... dbname=...`)
    passes as it is. Raises DatabaseUnavailable.
    """
    named = None if database_url is None else _EMBEDDED.match(database_url.strip())
    if database_url is None or named is not None:
        from embed_pipeline.postgres import embedded  # only who uses the embedded server needs it

        return embedded.ensure_running().url() if named is None else embedded.ensure_database(named[1])
    return _SCHEME.sub("postgresql://", database_url.strip(), count=1)


def redact(url: str) -> str:
    """The URL or libpq string with passwords replaced by ***, for messages. Hides too much rather than too little."""
    # To the last @: a password with an unescaped @ or / must not show its tail.
    hidden = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url, flags=re.DOTALL)
    return re.sub(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'|[^&\s]*)", r"\1***", hidden, flags=re.IGNORECASE)


def connect(url: str, *, autocommit: bool = False, application_name: str = "embed-pipeline") -> psycopg.Connection[TupleRow]:
    """A connection with pgvector's types registered (where the extension exists) and settings that make text stable.

    Its search_path is pg_catalog alone: names of tables, and types and operators of extensions, are written with their schema.

    The URL's own `connect_timeout` (else 10 s), `application_name` and `options` are kept; of two equal options
    ours counts. Raises DatabaseUnavailable, in one sentence, when there is no server or it refuses us.
    """
    parameters = _parameters(url)
    mine = {"connect_timeout": CONNECT_TIMEOUT, "application_name": application_name, "client_encoding": "UTF8"}
    options = (
        f"{parameters.pop('options', '')} {_OWN_NAMES} {_STABLE_TEXT} -c idle_in_transaction_session_timeout={FROZEN_MS}".strip()
    )
    try:
        # Autocommit at first, so that looking up the types leaves no transaction open.
        conn = psycopg.connect("", autocommit=True, **{**mine, **parameters, "options": options}, cursor_factory=Cursor)  # type: ignore[arg-type]
    except psycopg.Error as error:
        raise _unavailable(url, parameters, error) from None
    try:
        register_types(conn)
        conn.autocommit = autocommit
    except psycopg.Error as error:
        conn.close()
        raise _unavailable(url, parameters, error) from None
    return conn


def carried_on_within(conn: psycopg.Connection[Any], seconds: float) -> None:
    """For a transaction that may rightly wait for so long for something that is not the server, where that is longer than FROZEN_MS."""
    conn.execute(_QUERIES("carried_on_within"), {"milliseconds": str(max(FROZEN_MS, round(1000 * seconds)))})


@contextmanager
def unhurried(conn: psycopg.Connection[Any]) -> Iterator[None]:
    """A transaction for a statement that reads a whole table: no statement_timeout that a role or database has set ends it.

    Such a timeout is meant for the application's queries; ours would die of it at the same place at every try.
    """
    with conn.transaction():
        begin_unhurried(conn)
        yield


def begin_unhurried(conn: psycopg.Connection[Any]) -> None:
    """The same for the transaction that has begun."""
    conn.execute(_QUERIES(by_server("unhurried", conn)))


def by_server(name: str, conn: psycopg.Connection[Any]) -> str:
    """The query of this name for this server: one before 17 does not know transaction_timeout."""
    return f"{name}_17" if conn.info.server_version >= 170_000 else name


def set_unhurried(conn: psycopg.Connection[Any]) -> None:
    """The same for the rest of the session, and without lock_timeout: for what runs in no transaction (CONCURRENTLY)."""
    conn.execute(_QUERIES(by_server("session_unhurried", conn)))


def register_types(conn: psycopg.Connection[Any]) -> bool:
    """Teach the connection vector, halfvec and sparsevec, in one query. False when the extension is not there (yet).

    `connect` does this; call it again after CREATE EXTENSION on the same connection.
    """
    # pgvector's own register_vector asks for each type in a transaction of its own: 12 round trips.
    rows = conn.execute(_QUERIES("vector_types")).fetchall()
    for name, oid, array_oid, regtype in rows:
        info = TypeInfo(name, oid, array_oid, regtype=regtype)
        _REGISTER[name](conn, info)
    return bool(rows)


def vector_schema(conn: psycopg.Connection[Any]) -> str:
    """The schema that pgvector is in now: an administrator may move it (ALTER EXTENSION vector SET SCHEMA)."""
    row = conn.execute(_QUERIES("vector_schema")).fetchone()
    if row is None:
        raise DatabaseUnavailable(
            "The extension vector is gone from this database, and with it every stored vector.",
            next_step="Restore the database from a backup.",
        )
    return str(row[0])


def check_server(conn: psycopg.Connection[Any]) -> None:
    """Raises DatabaseUnavailable unless the server is PostgreSQL 15 or later with pgvector 0.8.4 or later."""
    row = conn.execute(_QUERIES("vector_versions")).fetchone()
    available, installed = (None, None) if row is None else row
    refusal = judge_versions(conn.info.server_version, available, installed)
    if refusal is not None:
        raise refusal


def judge_versions(server: int, available: str | None, installed: str | None) -> DatabaseUnavailable | None:
    """The refusal that these versions deserve, or None.

    `server` as PostgreSQL numbers itself (160004 is 16.4); `available` is the pgvector that CREATE EXTENSION would
    make, `installed` the one in this database, None where there is none.
    """
    needed = ".".join(map(str, MINIMUM_VECTOR))
    if server < MINIMUM_SERVER * 10000:
        return DatabaseUnavailable(
            f"The server is PostgreSQL {server // 10000}.{server % 10000}; {MINIMUM_SERVER} or later is needed.",
            next_step="Upgrade it, or use another database_url.",
        )
    if available is None and installed is None:
        return DatabaseUnavailable(
            f"The server has no pgvector; {needed} or later is needed.",
            next_step="Install pgvector on the server (for example the package postgresql-NN-pgvector).",
        )
    if installed is not None and _numbers(installed) < MINIMUM_VECTOR:
        if available is not None and _numbers(available) >= MINIMUM_VECTOR:
            return DatabaseUnavailable(
                f"The database uses pgvector {installed}; {needed} or later is needed, and the server has {available}.",
                next_step="Run: ALTER EXTENSION vector UPDATE;",
            )
        return _old_vector(installed, needed)
    if installed is None and available is not None and _numbers(available) < MINIMUM_VECTOR:
        return _old_vector(available, needed)
    return None


def _old_vector(found: str, needed: str) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"The server has pgvector {found}, whose HNSW indexes VACUUM can damage; {needed} or later is needed.",
        next_step="Install a newer pgvector on the server, then run: ALTER EXTENSION vector UPDATE;",
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _parameters(url: str) -> dict[str, str]:
    """The URL's parts by libpq name. One that libpq would cut in the wrong place is refused: its errors quote it."""
    rest = url.partition("://")[2]
    unreadable = rest.count("@") > 1 or "@" in rest.partition("/")[2]
    if not unreadable:
        try:
            return {name: str(value) for name, value in conninfo_to_dict(url).items()}
        except psycopg.ProgrammingError:
            pass
    # Nothing of it is passed on: the parser's text and a URL cut in the wrong place can both show the password.
    raise DatabaseUnavailable(
        "The database URL cannot be read (it is not shown, since it may hold a password).",
        next_step="Write postgresql://user:password@host:port/database, with @ : / % in a password as %40 %3A %2F %25.",
    ) from None


def _unavailable(url: str, parameters: dict[str, str], error: psycopg.Error) -> DatabaseUnavailable:
    reason = " ".join(str(error).split())
    for phrase in ("connection failed: ", "Is the server running on that host and accepting TCP/IP connections?"):
        reason = reason.replace(phrase, "")
    if parameters.get("password"):
        reason = reason.replace(parameters["password"], "***")
    if "password authentication failed" in reason or "no password supplied" in reason:
        next_step = "Correct the user or the password in database_url."
    elif "too many" in reason or "connection slots" in reason:
        next_step = "Close connections or raise max_connections, then run the same command again."
    elif "does not exist" in reason:
        next_step = "Create it, or correct database_url."
    else:
        next_step = "Start the server or correct database_url; without one the embedded PostgreSQL is used."
    return DatabaseUnavailable(
        f"PostgreSQL at {redact(url)} is not available: {reason.strip().rstrip('.')}.", next_step=next_step
    )
