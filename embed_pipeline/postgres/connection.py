"""Connections to PostgreSQL: opened one way, failing in one sentence, never showing a password."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
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
from embed_pipeline.foreign_words import HIDDEN, masked_url
from embed_pipeline.postgres import poolers
from embed_pipeline.postgres.queries import Cursor, Queries
from embed_pipeline.postgres.storable import server_encoding

MINIMUM_SERVER = 15
# pgvector before 0.8.4 can corrupt an HNSW index in VACUUM (its CHANGELOG, 0.8.3 and 0.8.4). Managed services have older ones, which
# nobody can replace there: a declaration may accept them, back to the first that scans an index iteratively.
MINIMUM_VECTOR = (0, 8, 4)
OLDEST_VECTOR = (0, 8, 0)
CONNECT_TIMEOUT = 10
# The longest that an application can wait for a lock of ours: a process may be stopped, or its machine gone, in mid-transaction.
FROZEN_MS = 30_000

# No name of ours is looked up in a schema where somebody else can make one: what pg_catalog does not have is written with its schema.
_OWN_NAMES = "-c search_path=pg_catalog,pg_temp"
# Keys are compared and hashed as text. These settings decide how a date, a float or a bytea is written, and a role or a
# database may have others. Given at connect time they cost no round trip.
_STABLE_TEXT = (
    "-c DateStyle=ISO,YMD -c TimeZone=UTC -c IntervalStyle=postgres -c bytea_output=hex -c extra_float_digits=1 -c lc_monetary=C"
)
# A role or a database may have other defaults for its application. A serializable session of ours would be a partner in the conflicts of
# the application's own transactions, and theirs would fail of it; and one that waits for a safe snapshot never writes.
_OWN_TRANSACTIONS = (
    "-c default_transaction_isolation=read\\ committed -c default_transaction_read_only=off -c default_transaction_deferrable=off"
)
# Documents that a policy hides would count as gone. With this PostgreSQL raises where it would hide a row.
_EVERY_ROW = "-c row_security=off"
# Workers wait for each other's rows, in short turns; where an application would wait behind them, a limit of our own is set.
_PATIENT = "-c lock_timeout=0"
# A machine whose network is gone closes nothing. By its own settings the server would keep the session, and the turns that it holds, for two
# hours, and who has lost the server would wait as long for an answer. In seconds; of neither side a time in which it must have read what was
# sent: a backfill that is paused reads nothing for hours.
GONE_IDLE, GONE_INTERVAL, GONE_COUNT = 30, 10, 3
_NOTICED = f"-c tcp_keepalives_idle={GONE_IDLE} -c tcp_keepalives_interval={GONE_INTERVAL} -c tcp_keepalives_count={GONE_COUNT}"
_NOTICES = {"keepalives_idle": GONE_IDLE, "keepalives_interval": GONE_INTERVAL, "keepalives_count": GONE_COUNT}
log = logging.getLogger(__name__)
_warned: set[str] = set()
_QUERIES = Queries(__file__, "connection.sql")
_REGISTER = {"vector": register_vector_info, "halfvec": register_halfvec_info, "sparsevec": register_sparsevec_info}
_SCHEME = re.compile(r"^postgres(?:ql)?(?:\+\w+)?://")
# Another database of the embedded server than the one that an index without a URL is in.
_EMBEDDED = re.compile(r"^embedded:([a-z][a-z0-9_]{0,62})$")


def resolve_url(database_url: str | None, *, start: bool = True) -> str:
    """The URL to connect to: the given one without a driver name, or the embedded server's, which is started.

    `start`: False for who only looks: a server that somebody has stopped stays stopped. One that was never there is made all the same.
    `embedded:NAME` is the database NAME of the embedded server, made when it is missing. A libpq string (`host=... dbname=...`)
    passes as it is. Raises DatabaseUnavailable.
    """
    named = None if database_url is None else _EMBEDDED.match(database_url.strip())
    if database_url is None or named is not None:
        from embed_pipeline.postgres import embedded  # only who uses the embedded server needs it

        if not start:
            embedded.refuse_stopped()
        return embedded.ensure_running().url() if named is None else embedded.ensure_database(named[1])
    return _SCHEME.sub("postgresql://", database_url.strip(), count=1)


def connect(
    url: str, *, autocommit: bool = False, application_name: str = "embed-pipeline", every_row: bool = True
) -> psycopg.Connection[TupleRow]:
    """A connection with pgvector's types registered (where the extension exists) and settings that make text stable.

    Its search_path is pg_catalog alone: names of tables, and types and operators of extensions, are written with their schema.

    The URL's own `connect_timeout` (else 10 s), `application_name` and `options` are kept; of two equal options
    ours counts. `every_row`: a statement fails where row security would hide a row from it, and waits for locks whatever the role's lock_timeout;
    a reader sees what its policies let it see, and waits as its role does.
    Raises DatabaseUnavailable, in one sentence, when there is no server or it refuses us.
    """
    parameters = _parameters(url)
    # Our name goes with the settings, since a pooler that is refused would leave it to the application that gets the session next. Empty,
    # so that none of the environment's takes its place.
    mine = {"connect_timeout": CONNECT_TIMEOUT, "application_name": "", "client_encoding": "UTF8"}
    name = [] if parameters.get("application_name") else ["-c application_name=" + re.sub(r"([\s\\])", r"\\\1", application_name)]
    ours = [*name, _OWN_NAMES, _STABLE_TEXT, _OWN_TRANSACTIONS, f"-c idle_in_transaction_session_timeout={FROZEN_MS}"]
    options = " ".join([parameters.pop("options", ""), *ours, *([_EVERY_ROW, _PATIENT] if every_row else [])]).strip()

    def begin(*, plain: bool = False) -> psycopg.Connection[TupleRow]:
        # Not for the session behind a pooler, whose other end is the pooler.
        asked = {**_NOTICES, **mine, **parameters} | ({} if plain else {"options": f"{options} {_NOTICED} -c {poolers.MARK}"})
        # Autocommit at first, so that looking at the session leaves no transaction open.
        return psycopg.connect("", autocommit=True, cursor_factory=Cursor, **asked)  # type: ignore[arg-type]

    try:
        try:
            conn = begin()
        except psycopg.Error as error:
            if not poolers.refuses_options(error):
                raise
            conn = begin(plain=True)
    except psycopg.Error as error:
        raise _unavailable(url, parameters, error) from None
    try:
        pid, mark, _ = _look_at(conn)
        if poolers.is_between(conn, pid, mark):
            poolers.settle(conn, options, lambda: begin(plain=True), masked_url(url))
        conn.autocommit = autocommit
    except psycopg.Error as error:
        conn.close()
        raise _unavailable(url, parameters, error) from None
    except DatabaseUnavailable:
        conn.close()
        raise
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
    return _look_at(conn)[2]


def _look_at(conn: psycopg.Connection[Any]) -> tuple[int, str | None, bool]:
    """Register the types that are there; returns the server's process, the session's mark, and whether there are any."""
    # pgvector's own register_vector asks for each type in a transaction of its own: 12 round trips.
    rows = conn.execute(_QUERIES("session")).fetchall()
    for _, _, name, oid, array_oid, regtype in rows:
        if name is not None:
            _REGISTER[name](conn, TypeInfo(name, oid, array_oid, regtype=regtype))
    pid, mark, name = rows[0][:3]
    return pid, mark, name is not None


def vector_schema(conn: psycopg.Connection[Any]) -> str:
    """The schema that pgvector is in now: an administrator may move it (ALTER EXTENSION vector SET SCHEMA)."""
    row = conn.execute(_QUERIES("vector_schema")).fetchone()
    if row is None:
        raise DatabaseUnavailable(
            "The extension vector is gone from this database, and with it every stored vector.",
            next_step="Restore the database from a backup.",
        )
    return str(row[0])


def check_server(conn: psycopg.Connection[Any], accepted: str | None = None) -> tuple[str, ...]:
    """Raises DatabaseUnavailable unless the server is PostgreSQL 15 or later with pgvector 0.8.4 or later, and knows its texts' encoding.

    `accepted`: the oldest pgvector that the index declares to live with. Returns what a person must be warned of then.
    """
    row = conn.execute(_QUERIES("vector_versions")).fetchone()
    available, installed = (None, None) if row is None else row
    refusal = judge_encoding(server_encoding(conn)) or judge_versions(conn.info.server_version, available, installed, accepted)
    if refusal is not None:
        raise refusal
    return tuple(filter(None, [warning_of(installed or available or "")]))


def warn(of: Iterable[str]) -> None:
    """Log each of these, once in the life of a process: a sensor that looks every few seconds must not fill its log with them."""
    for each in of:
        if each not in _warned:
            _warned.add(each)
            log.warning("%s", each)


def judge_encoding(encoding: str) -> DatabaseUnavailable | None:
    """The refusal of a database whose server does not know what its bytes mean, or None."""
    if encoding != "SQL_ASCII":
        return None
    return DatabaseUnavailable(
        "The database is encoded in SQL_ASCII, in which nobody knows what the bytes of a text mean: it has no characters to embed.",
        next_step="Restore a dump of it into a database made with ENCODING 'UTF8', and name that in database_url.",
    )


def judge_versions(
    server: int, available: str | None, installed: str | None, accepted: str | None = None
) -> DatabaseUnavailable | None:
    """The refusal that these versions deserve, or None.

    `server` as PostgreSQL numbers itself (160004 is 16.4); `available` is the pgvector that CREATE EXTENSION would
    make, `installed` the one in this database, None where there is none. `accepted`: the oldest that is declared to be good enough.
    """
    least = MINIMUM_VECTOR if accepted is None else max(OLDEST_VECTOR, min(MINIMUM_VECTOR, _numbers(accepted)))
    needed = ".".join(map(str, least))
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
    if installed is not None and _numbers(installed) < least:
        if available is not None and _numbers(available) >= least:
            return DatabaseUnavailable(
                f"The database uses pgvector {installed}; {needed} or later is needed, and the server has {available}.",
                next_step="Run: ALTER EXTENSION vector UPDATE;",
            )
        return _old_vector(installed, needed)
    if installed is None and available is not None and _numbers(available) < least:
        return _old_vector(available, needed)
    return None


def warning_of(found: str) -> str | None:
    """Why an accepted pgvector is not as good as a newer one; None where it is."""
    faults = _faults(found)
    return f"pgvector {found} {faults}: update it as soon as the server offers a newer one" if faults else None


def _faults(found: str) -> str:
    version = _numbers(found)
    known = ["can damage an HNSW index in VACUUM (mended in 0.8.4)"] if version < MINIMUM_VECTOR else []
    known += ["has CVE-2026-3172, an overflow in a parallel build of one (mended in 0.8.2)"] if version < (0, 8, 2) else []
    return " and ".join(known)


def _old_vector(found: str, needed: str) -> DatabaseUnavailable:
    if _numbers(found) < OLDEST_VECTOR:
        return DatabaseUnavailable(
            f"The server has pgvector {found}, which cannot scan an HNSW index iteratively; {needed} or later is needed.",
            next_step="Install a newer pgvector on the server, then run: ALTER EXTENSION vector UPDATE;",
        )
    return DatabaseUnavailable(
        f"The server has pgvector {found}, which {_faults(found)}; {needed} or later is needed.",
        next_step="Install a newer pgvector on the server, then run: ALTER EXTENSION vector UPDATE; where nobody can, write "
        f'pgvector: {{accept: "{found}"}} into the index\'s defs.yaml.',
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
        reason = reason.replace(parameters["password"], HIDDEN)
    if "password authentication failed" in reason or "no password supplied" in reason:
        next_step = "Correct the user or the password in database_url."
    elif "too many" in reason or "connection slots" in reason:
        next_step = "Close connections or raise max_connections, then run the same command again."
    elif "does not exist" in reason:
        next_step = "Create it, or correct database_url."
    else:
        next_step = "Start the server or correct database_url; without one the embedded PostgreSQL is used."
    return DatabaseUnavailable(
        f"PostgreSQL at {masked_url(url)} is not available: {reason.strip().rstrip('.')}.", next_step=next_step
    )
