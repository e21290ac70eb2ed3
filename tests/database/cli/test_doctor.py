"""doctor on a table that knows nothing of this package, as a role that may only read it, and on a declared index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from click.testing import CliRunner
from psycopg import conninfo, sql

from embed_pipeline.cli.main import cli
from tests.database.cli.conftest import DOCUMENTS, Place, Ran, version
from tests.harness.html import Seen
from tests.unit.doctor.test_judging import ROWS, embedded, texts

Run = Callable[..., Ran]
SCHEMA = """
    CREATE TABLE items (id bigint PRIMARY KEY, body text, embedding public.vector);
    CREATE TABLE bare (body text, embedding public.vector(3), tags text[]);
    CREATE FUNCTION writes(t text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS
        $$ BEGIN INSERT INTO public.bare (body) VALUES (t); RETURN t; END $$;
    CREATE VIEW sly AS SELECT id, public.writes(body) AS body, embedding FROM items;
"""


@pytest.fixture
def reader_url(bare_database_url: str) -> Iterator[str]:
    """A table with every fifth vector of another model, and a role that has SELECT and nothing else."""
    written = texts()
    stored = embedded(written, "one")
    stored[::5] = embedded(written[::5], "two")
    with psycopg.connect(bare_database_url, autocommit=True) as admin:
        admin.execute(SCHEMA)
        with admin.cursor() as cursor, cursor.copy("COPY items FROM STDIN") as copy:
            for row, (text, vector) in enumerate(zip(written, stored, strict=True)):
                copy.write_row((row, text, str(vector.tolist())))
        name = f"doctor_{admin.info.dbname}"
        role = sql.Identifier(name)
        admin.execute("CREATE INDEX by_cosine ON items USING hnsw ((embedding::public.vector(64)) public.vector_cosine_ops)")
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'doctor'").format(role))
        try:
            admin.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}").format(role))
            yield conninfo.make_conninfo(bare_database_url, user=name, password="doctor")
        finally:
            admin.execute(sql.SQL("DROP OWNED BY {}").format(role))
            admin.execute(sql.SQL("DROP ROLE {}").format(role))


def doctor(url: str, *arguments: str) -> Ran:
    result = CliRunner().invoke(cli, ["doctor", *arguments, "--database-url", url])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


def test_a_role_that_may_only_read_finds_a_mixture_and_nothing_changes(
    reader_url: str, bare_database_url: str, tmp_path: Path
) -> None:
    with psycopg.connect(bare_database_url, autocommit=True) as admin:
        before = _everything(admin)
        arguments = ("--table", "public.items", "--column", "embedding", "--text", "body")
        seen = doctor(reader_url, *arguments, "--json", "--html", str(tmp_path / "page.html"))
        assert _everything(admin) == before
    found = {each["code"]: each for each in seen.value["findings"]}
    assert (seen.code, seen.value["needs_a_person"], seen.value["looked_at"]) == (4, True, f"all {ROWS} rows")
    assert set(found) == {"mixture", "any_dimensions"}
    assert 19 < float(found["mixture"]["sentence"].split(" % ")[0].rpartition(" ")[2]) < 21
    assert "mixture" in Seen((tmp_path / "page.html").read_text()).text
    some = doctor(reader_url, *arguments, "--sample", "50", "--json")
    assert some.value["looked_at"] == f"50 rows of about {ROWS}"


def test_it_reads_in_a_session_that_cannot_write(reader_url: str, bare_database_url: str) -> None:
    """Even where the reading itself would: a view of the application's calls a function with its owner's rights."""
    with psycopg.connect(bare_database_url, autocommit=True) as admin:
        refused = doctor(reader_url, "--table", "sly", "--column", "embedding", "--text", "body")
        assert admin.execute("SELECT count(*) FROM bare").fetchone() == (0,)
    assert refused.code == 1
    assert "read-only" in refused.err


def test_what_cannot_be_looked_at_is_said_in_a_sentence(reader_url: str) -> None:
    for arguments, words in (
        (("--table", "nothing", "--column", "embedding"), "There is no table public.nothing"),
        (("--table", "items", "--column", "embeding"), "has no column 'embeding'; it has id, body, embedding"),
        (("--table", "items", "--column", "body"), "which holds no vectors"),
        (("--table", "items"), "--table needs --column"),
        (("--table", "items", "--collection", "items"), "One thing at a time"),
    ):
        said = doctor(reader_url, *arguments)
        assert said.code in (1, 2)
        assert words in said.err
    empty = doctor(reader_url, "--table", "bare", "--column", "embedding", "--json")
    assert {each["code"] for each in empty.value["findings"]} == {"empty", "no_key"}
    assert empty.code == 0


def test_a_declared_index_is_looked_at_with_its_own_model(place: Place, run: Run, database_url: str) -> None:
    assert run("doctor", "docs", "--json").value["findings"][0]["code"] == "not_registered"
    place.declare(versions={"v1": version()})
    assert run("load", "docs", place.write_documents()).code == 0
    assert run("backfill", "docs", "v1").code == 0
    well = run("doctor", "docs", "--json")
    assert ([each["code"] for each in well.value["findings"]], well.code) == (["mixture_not_looked_for"], 0)
    assert well.value["looked_at"] == f"v1 all {DOCUMENTS} vectors"
    with psycopg.connect(database_url, autocommit=True) as conn:
        other = np.random.default_rng(0).standard_normal(32)
        conn.execute(
            "UPDATE embed_pipeline.docs__v1 SET embedding = %s::public.vector WHERE doc_id = '3'",
            [str((other / np.linalg.norm(other)).tolist())],
        )
        conn.execute("ALTER TABLE docs DISABLE TRIGGER USER; DROP INDEX embed_pipeline.docs__v1__hnsw")
        conn.execute("UPDATE docs SET text = 'another' WHERE id = '5'")
    ill = run("doctor", "docs")
    assert ill.code == 4
    for words in ("error another_model: v1: 1 of", "error capture", "error index_missing", "note stale: v1: 1 of 50"):
        assert words in ill.out, words


def _everything(admin: psycopg.Connection[Any]) -> list[Any]:
    return [
        admin.execute(query).fetchall()
        for query in (
            "SELECT oid, relname, relacl, reloptions, relfilenode FROM pg_class ORDER BY oid",
            "SELECT oid, proname, proacl FROM pg_proc ORDER BY oid",
            "SELECT oid, nspname, nspacl FROM pg_namespace ORDER BY oid",
            "SELECT xmin, ctid, md5(i::text) FROM items i ORDER BY ctid",
        )
    ]
