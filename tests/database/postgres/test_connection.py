"""Connections: stable text, pgvector's types, and errors of one sentence that show no password."""

from __future__ import annotations

import os
import socket
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psycopg
import pytest
from pgvector import HalfVector, Vector
from psycopg import sql
from psycopg.rows import TupleRow

from embed_pipeline.errors import DatabaseUnavailable
from embed_pipeline.foreign_words import masked_url
from embed_pipeline.postgres import connection, embedded
from tests.harness.postgres.other import ACCEPTED

KEY_TEXT = "SELECT '2024-01-31 12:00:00+02'::timestamptz::text, '\\x00ff'::bytea::text, '1 day 02:00'::interval::text"


def test_key_text_does_not_depend_on_the_role(conn: psycopg.Connection[TupleRow], database_url: str) -> None:
    expected = conn.execute(KEY_TEXT).fetchone()
    assert expected == ("2024-01-31 10:00:00+00", "\\x00ff", "1 day 02:00:00")
    database = sql.Identifier(conn.info.dbname)
    for setting, value in (
        ("DateStyle", "German"),
        ("TimeZone", "Asia/Tokyo"),
        ("IntervalStyle", "iso_8601"),
        ("bytea_output", "escape"),
    ):
        change = sql.SQL("ALTER DATABASE {} SET {} = {}")
        conn.execute(change.format(database, sql.Identifier(setting), sql.Literal(value)))
    with psycopg.connect(database_url) as plain:
        assert plain.execute(KEY_TEXT).fetchone() != expected
    with connection.connect(database_url) as ours:
        assert ours.execute(KEY_TEXT).fetchone() == expected


def test_defaults_of_a_role_or_database_are_not_ours(conn: psycopg.Connection[TupleRow], database_url: str) -> None:
    """Isolation, read-only and deferrable transactions and an impatience with locks are for its application. Row security raises for us,
    and filters for a reader."""
    ours_alone = ("default_transaction_isolation", "default_transaction_read_only", "default_transaction_deferrable")
    names = (*ours_alone, "row_security", "lock_timeout")
    database = sql.Identifier(conn.info.dbname)
    for name, value in zip(names, ("serializable", "on", "on", "on", "20ms"), strict=True):
        conn.execute(sql.SQL("ALTER DATABASE {} SET {} = {}").format(database, sql.Identifier(name), sql.Literal(value)))
    shown = sql.SQL("SELECT {}").format(sql.SQL(", ").join(sql.SQL("current_setting({})").format(name) for name in names))
    with connection.connect(database_url) as ours:
        assert ours.execute(shown).fetchone() == ("read committed", "off", "off", "off", "0")
    with connection.connect(database_url, every_row=False) as reader:
        assert reader.execute(shown).fetchone() == ("read committed", "off", "off", "on", "20ms")


def test_a_machine_that_is_gone_is_noticed_by_both_sides(database_url: str) -> None:
    """And a number in the URL counts for our side."""
    with connection.connect(f"{database_url}?keepalives_idle=7") as conn:
        shown = "SELECT current_setting('tcp_keepalives_idle'), current_setting('tcp_keepalives_interval'), current_setting('tcp_keepalives_count')"
        assert conn.execute(shown).fetchone() == ("30", "10", "3")
        with socket.socket(fileno=os.dup(conn.fileno())) as ours:
            asked = [ours.getsockopt(socket.IPPROTO_TCP, each) for each in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)]
        assert asked == [7, 10]


def test_options_of_the_url_are_kept(database_url: str) -> None:
    url = f"{database_url}?options=-c%20work_mem%3D7MB%20-c%20DateStyle%3DGerman&application_name=mine"
    with connection.connect(url) as conn:
        shown = "SELECT current_setting('work_mem'), current_setting('DateStyle'), current_setting('application_name')"
        assert conn.execute(shown).fetchone() == ("7MB", "ISO, YMD", "mine")


@pytest.mark.parametrize("autocommit", [True, False])
def test_connection_is_idle_and_in_the_asked_mode(database_url: str, autocommit: bool) -> None:
    with connection.connect(database_url, autocommit=autocommit, application_name="reader") as conn:
        assert conn.autocommit is autocommit
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert conn.execute("SELECT current_setting('application_name')").fetchone() == ("reader",)


@pytest.mark.parametrize("binary", [True, False])
def test_vectors_go_both_ways(conn: psycopg.Connection[TupleRow], binary: bool) -> None:
    statement = "SELECT %b::vector, %b::halfvec, %b::vector[]" if binary else "SELECT %t::vector, %t::halfvec, %t::vector[]"
    given = (np.array([1.5, 2.0], dtype=np.float32), HalfVector([0.5]), [Vector([1]), Vector([2])])
    assert conn.execute(statement, given, binary=binary).fetchone() == (
        Vector([1.5, 2.0]),
        HalfVector([0.5]),
        [Vector([1]), Vector([2])],
    )


def test_types_are_found_in_a_schema_off_the_search_path(conn: psycopg.Connection[TupleRow], database_url: str) -> None:
    conn.execute("CREATE SCHEMA extensions")
    conn.execute("ALTER EXTENSION vector SET SCHEMA extensions")
    with connection.connect(database_url) as elsewhere:
        assert elsewhere.execute("SELECT '[1]'::extensions.vector").fetchone() == (Vector([1]),)


def test_database_without_the_extension_connects_and_learns_later(conn: psycopg.Connection[TupleRow], database_url: str) -> None:
    conn.execute("DROP EXTENSION vector CASCADE")
    with connection.connect(database_url, autocommit=True) as bare:
        assert connection.register_types(bare) is False
        connection.check_server(bare, ACCEPTED.get("pgvector", {}).get("accept"))
        bare.execute("CREATE EXTENSION vector")
        assert connection.register_types(bare) is True
        assert bare.execute("SELECT '[1]'::vector").fetchone() == (Vector([1]),)


def refusal(url: str) -> str:
    with pytest.raises(DatabaseUnavailable) as caught:
        connection.connect(url)
    assert caught.value.__cause__ is None
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_unreachable_server_is_one_sentence_without_the_password() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        text = refusal(f"postgresql://app:hunter2@127.0.0.1:{port}/docs?connect_timeout=2")
    assert "hunter2" not in text
    assert f"app:***@127.0.0.1:{port}/docs" in text
    assert "Connection refused" in text


def test_wrong_password_and_missing_database_are_told_apart(postgres_server: embedded.Server) -> None:
    text = refusal(postgres_server.url().replace(postgres_server.password, "hunter2"))
    assert "password authentication failed" in text
    assert "hunter2" not in text
    text = refusal(postgres_server.url("no_such_database"))
    assert '"no_such_database" does not exist' in text
    assert postgres_server.password not in text


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:hunter2@x@127.0.0.1/docs",
        "postgresql://app:hun/ter2@127.0.0.1/docs",
        "postgresql://app:hunter2%zz@127.0.0.1/docs",
        "postgresql//app:hunter2@127.0.0.1/docs",
        "host=127.0.0.1 password='hunter2",
        "127.0.0.1:hunter2",
    ],
)
def test_unreadable_url_shows_no_part_of_the_password(url: str) -> None:
    text = refusal(url)
    assert "cannot be read" in text
    assert "hunter2" not in text
    assert "ter2" not in text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://app:s3@h:1/d", "postgresql://app:***@h:1/d"),
        ("postgresql://app@h/d", "postgresql://app@h/d"),
        ("postgresql://h/d?user=a&password=s3&sslmode=require", "postgresql://h/d?user=a&password=***&sslmode=require"),
        ("host=h password=s3 dbname=d", "host=h password=*** dbname=d"),
        (r"host=h password = 's\'3 x' dbname=d", "host=h password = *** dbname=d"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert masked_url(url) == shown


def test_resolve_url_takes_sqlalchemy_urls_and_starts_the_embedded_server(postgres_server: embedded.Server) -> None:
    assert connection.resolve_url("postgresql+psycopg2://u@h/d") == "postgresql://u@h/d"
    assert connection.resolve_url(" postgres://u@h/d\n") == "postgresql://u@h/d"
    assert connection.resolve_url("host=h dbname=d") == "host=h dbname=d"
    assert connection.resolve_url(None) == postgres_server.url()


def test_a_named_database_of_the_embedded_server_is_made_once(postgres_admin: psycopg.Connection[TupleRow]) -> None:
    name = f"named_{uuid.uuid4().hex[:8]}"
    try:
        with ThreadPoolExecutor(2) as pool:
            urls = set(pool.map(connection.resolve_url, [f"embedded:{name}"] * 4))
        assert len(urls) == 1
        with connection.connect(urls.pop()) as conn:
            assert conn.execute("SELECT current_database()").fetchone() == (name,)
    finally:
        postgres_admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def test_this_server_is_good_enough(conn: psycopg.Connection[TupleRow]) -> None:
    connection.check_server(conn, ACCEPTED.get("pgvector", {}).get("accept"))


@pytest.mark.parametrize(
    ("server", "available", "installed", "said"),
    [
        (140011, "0.8.6", "0.8.6", "PostgreSQL 14.11; 15 or later"),
        (160004, None, None, "no pgvector"),
        (160004, "0.8.3", None, 'pgvector: {accept: "0.8.3"}'),
        (160004, "0.8.3", "0.8.2", 'pgvector: {accept: "0.8.2"}'),
        (160004, "0.7.4", None, "pgvector 0.7.4, which cannot scan"),
        (160004, "0.8.6", "0.7.4", "ALTER EXTENSION vector UPDATE"),
        (160004, "0.10.0", "0.7", "ALTER EXTENSION vector UPDATE"),
        (150000, "0.8.4", None, None),
        (180006, "0.10.0", "0.8.4", None),
        (180006, None, "1.0", None),
    ],
)
def test_old_versions_are_refused(server: int, available: str | None, installed: str | None, said: str | None) -> None:
    refused = connection.judge_versions(server, available, installed)
    if said is None:
        assert refused is None
    else:
        assert said in str(refused)


@pytest.mark.parametrize(
    ("accepted", "available", "installed", "said"),
    [
        ("0.8.0", "0.8.0", None, None),
        ("0.8.0", "0.8.3", "0.8.2", None),
        ("0.8.2", "0.8.1", None, 'pgvector: {accept: "0.8.1"}'),
        ("0.8.2", "0.8.1", "0.8.1", "0.8.2 or later"),
        ("0.8.2", "0.8.6", "0.8.2", None),
        ("0.8.0", "0.8.0", "0.7.4", "0.8.0 or later is needed, and the server has 0.8.0"),
        ("0.7.0", "0.7.4", None, "0.8.0 or later"),
        ("1.0", "0.8.4", None, None),
    ],
)
def test_an_older_pgvector_is_accepted_by_name(accepted: str, available: str, installed: str | None, said: str | None) -> None:
    refused = connection.judge_versions(160004, available, installed, accepted)
    if said is None:
        assert refused is None
    else:
        assert said in str(refused)


def test_an_accepted_pgvector_is_warned_of() -> None:
    old, newer = connection.warning_of("0.8.1"), connection.warning_of("0.8.3")
    assert old is not None
    assert "VACUUM" in old
    assert "CVE-2026-3172" in old
    assert newer is not None
    assert "VACUUM" in newer
    assert "CVE" not in newer
    assert connection.warning_of("0.8.4") is None
