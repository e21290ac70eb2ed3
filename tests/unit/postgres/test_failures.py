"""Errors of PostgreSQL as sentences."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from embed_pipeline.errors import CatalogError, DatabaseUnavailable
from embed_pipeline.postgres import failures


@pytest.mark.parametrize(
    ("problem", "begins"),
    [
        (errors.DiskFull("could not extend file"), "PostgreSQL has no disk space left: could not extend file."),
        (errors.QueryCanceled("canceling statement due to user request"), "PostgreSQL cancelled a statement: "),
        (errors.TooManyConnections("sorry, too many clients already"), "PostgreSQL has no connection left for us: "),
        (psycopg.OperationalError("FATAL:  sorry, too many clients already"), "PostgreSQL has no connection left for us: "),
        (errors.AdminShutdown("terminating connection due to administrator command"), "The database stopped answering: "),
        (errors.IdleInTransactionSessionTimeout("terminating connection"), "The database stopped answering: "),
        (errors.InsufficientPrivilege("permission denied for table articles"), "PostgreSQL does not allow this: "),
        (errors.LockNotAvailable("canceling statement due to lock timeout"), "Another transaction was in the way: "),
    ],
)
def test_each_is_one_sentence_with_a_next_step(problem: psycopg.Error, begins: str) -> None:
    said = failures.sentence(problem)
    assert said is not None
    assert said.message.startswith(begins)
    assert said.next_step


def test_what_somebody_dropped_of_ours_is_named() -> None:
    for problem in (
        errors.UndefinedTable('relation "embed_pipeline.inbox" does not exist\nLINE 1: SELECT'),
        errors.UndefinedFunction("function embed_pipeline.inbox(text) does not exist"),
    ):
        said = failures.sentence(problem)
        assert isinstance(said, CatalogError)
        assert said.message.startswith("embed_pipeline.inbox is gone from this database: somebody dropped it")
        assert said.fields == {"missing": "embed_pipeline.inbox"}
        assert said.next_step is not None
        assert "sync <index> --full" in said.next_step


def test_a_defect_is_no_sentence() -> None:
    for problem in (
        errors.SyntaxError("syntax error"),
        errors.UniqueViolation("duplicate key"),
        errors.UndefinedColumn("no"),
        errors.UndefinedTable('relation "public.articles" does not exist'),
    ):
        assert failures.sentence(problem) is None
        with pytest.raises(type(problem)), failures.as_sentences():
            raise problem


def test_no_password_is_shown() -> None:
    said = failures.sentence(psycopg.OperationalError("could not reach postgresql://me:secret@host/db\nmore"))
    assert said is not None
    assert "secret" not in str(said)
    assert "more" not in said.message


def test_a_connection_that_cannot_be_opened_is_an_outage_only_for_who_has_none() -> None:
    assert failures.is_lost(DatabaseUnavailable("away"), None)
    assert not failures.is_lost(ValueError("a defect"), None)
