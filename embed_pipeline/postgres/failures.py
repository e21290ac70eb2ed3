"""Classifies what psycopg raises (lost connection, refusal, full disk) and turns each into one sentence with the next command.

The one place where an error of PostgreSQL becomes one of ours: the command line and the Dagster layer both ask here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors
from psycopg.pq import PipelineStatus

from embed_pipeline.errors import CatalogError, DatabaseUnavailable, EmbedPipelineError
from embed_pipeline.foreign_words import readable

# The session ended, or none could begin: a restart, a cut connection, an administrator. PostgreSQL's manual, "Error Codes".
_SESSION_ENDED = (
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.IdleSessionTimeout,
    errors.IdleInTransactionSessionTimeout,
)
# What PostgreSQL says of a table, view or function of ours that is not there; of the application's it names another schema, or none.
_OF_OURS = re.compile(r'(?:relation|function|type) "?(embed_pipeline\.\w+)')
_AGAIN = "Everything that was committed is kept; run the same command again."


def is_lost(problem: BaseException, conn: psycopg.Connection | None) -> bool:
    """Whether the connection is gone, so that the same work may succeed over another one.

    Says nothing about the transaction: one whose answer was lost may have been committed.
    """
    if isinstance(problem, DatabaseUnavailable):
        return conn is None  # It could not be opened.
    if not isinstance(problem, psycopg.Error):
        return False
    # A server that goes while a pipeline ends leaves the client in it: of no more use, and not known to be closed yet.
    return isinstance(problem, _SESSION_ENDED) or (
        conn is not None and (conn.closed or conn.info.pipeline_status != PipelineStatus.OFF)
    )


# SQLSTATE classes of refusals that are about the data or the table: data, constraint, undefined or other type, limits.
_ABOUT_THE_DATA = ("22", "23", "42", "54")


def is_about_the_data(problem: psycopg.Error) -> bool:
    """Whether the server refused what it was given, and would refuse it again."""
    return problem.sqlstate is not None and problem.sqlstate.startswith(_ABOUT_THE_DATA)


def words(problem: BaseException) -> str:
    """The first line of PostgreSQL's message, without a password."""
    said = problem.message if isinstance(problem, DatabaseUnavailable) else str(problem)
    first = said.strip().partition("\n")[0].strip()
    return readable(first).rstrip(".") or type(problem).__name__


def sentence(problem: psycopg.Error) -> EmbedPipelineError | None:
    """The error as a person should read it; None for what is a defect of this package."""
    said = words(problem)
    ours = _OF_OURS.match(said)
    if ours is not None and isinstance(problem, (errors.UndefinedTable, errors.UndefinedFunction, errors.UndefinedObject)):
        return CatalogError(
            f"{ours[1]} is gone from this database: somebody dropped it, and what was in it is lost.",
            next_step="Put the schema embed_pipeline back from a backup, then compare everything: "
            "embed-pipeline sync <index> --full",
            missing=ours[1],
        )
    if isinstance(problem, (errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction)):
        return DatabaseUnavailable(
            f"PostgreSQL does not allow this: {said}.", next_step="Use a database_url whose role may write there."
        )
    if isinstance(problem, (errors.UntranslatableCharacter, errors.CharacterNotInRepertoire)):
        return DatabaseUnavailable(
            f"The encoding of this database lacks a character: {said}.",
            next_step="Move to a database with ENCODING 'UTF8', or take the character out.",
        )
    if isinstance(problem, errors.DiskFull):
        return DatabaseUnavailable(
            f"PostgreSQL has no disk space left: {said}.",
            next_step="Everything that was committed is kept; make room on the server and run the same command again.",
        )
    if isinstance(problem, errors.QueryCanceled):
        mend = "raise statement_timeout for this role, and " if "statement timeout" in said else ""
        return DatabaseUnavailable(
            f"PostgreSQL cancelled a statement: {said}.",
            next_step=f"Everything that was committed is kept; {mend}run the same command again.",
        )
    if isinstance(problem, errors.TooManyConnections) or _has_no_slot(said):
        return DatabaseUnavailable(
            f"PostgreSQL has no connection left for us: {said}.",
            next_step="Close connections or raise max_connections, then run the same command again.",
        )
    if isinstance(problem, (errors.DeadlockDetected, errors.SerializationFailure, errors.LockNotAvailable)):
        return DatabaseUnavailable(f"Another transaction was in the way: {said}.", next_step=_AGAIN)
    if isinstance(problem, (psycopg.OperationalError, *_SESSION_ENDED)):
        return DatabaseUnavailable(f"The database stopped answering: {said}.", next_step=_AGAIN)
    return None


@contextmanager
def as_sentences() -> Iterator[None]:
    """Within it, an error of PostgreSQL that a person can act on becomes that sentence; a defect stays what it is."""
    try:
        yield
    except psycopg.Error as problem:
        known = sentence(problem)
        if known is None:
            raise
        raise known from problem


def _has_no_slot(said: str) -> bool:
    # While connecting, libpq hands over the words and not the code.
    return any(phrase in said for phrase in ("too many clients", "connection slots are reserved", "too many connections for"))
