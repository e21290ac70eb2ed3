"""Whatever is wrong is one sentence on stderr with the next step, and an exit code; no traceback, no secret."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from embed_pipeline import signals
from embed_pipeline.cli import verb
from embed_pipeline.postgres import session
from tests.database.cli.conftest import Place, Ran, version

Run = Callable[..., Ran]

PASSWORD = "a-secret-pass"
NOBODY = f"postgresql://someone:{PASSWORD}@127.0.0.1:1/nowhere"


def refused(ran: Ran, code: int, sentence: str) -> None:
    """One sentence that says it, nothing on stdout."""
    assert ran.code == code, ran
    assert ran.out == ""
    lines = ran.err.splitlines()
    assert lines[-1].startswith("error: ")
    assert sentence in lines[-1]
    assert "Traceback" not in ran.err
    assert PASSWORD not in ran.err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a: [", "line 1 is not valid YAML"),
        ("type: something.Else\n", "No index is declared in"),
        ("type: embed_pipeline.EmbeddingIndex\n", "declares an index without attributes"),
        (
            "type: embed_pipeline.EmbeddingIndex\nattributes: {name: docs, colour: blue}",
            "versions: Field required (and 1 more). Correct this attribute.",
        ),
        (
            "type: embed_pipeline.EmbeddingIndex\nattributes: {name: docs, database_url: '{{ env.NOT_THERE }}'}",
            "environment variable NOT_THERE is not set",
        ),
    ],
)
def test_a_wrong_declaration_is_exit_2(place: Place, run: Run, content: str, sentence: str) -> None:
    place.config.write_text(content)
    refused(run("status", "docs"), 2, sentence)


def test_an_unknown_index_or_version_is_exit_2(place: Place, run: Run, conn: psycopg.Connection[Any]) -> None:
    refused(run("status", "shop"), 2, "No index 'shop' is declared in")
    refused(run("plan", "docs", "v9"), 2, "declares no version 'v9'; it declares v1, v2")
    refused(run("backfill", "docs", "v9"), 2, "declares no version 'v9'")
    place.config.unlink()
    refused(run("status"), 2, "There is no file or folder")


OWN = {"table": "articles", "key": "id", "text": ["title", "body"]}


@pytest.mark.parametrize(
    ("made", "documents", "sentence"),
    [
        ("SELECT", OWN, "The documents table public.articles does not exist. Create it"),
        (
            "CREATE TABLE articles (id bigint, title text, body text)",
            OWN,
            "has no key: (id) is not both unique and NOT NULL. Run: ALTER",
        ),
        ("CREATE TABLE articles (id bigint PRIMARY KEY, title text)", OWN, "has no column 'body'; it has id, title"),
        (
            "CREATE VIEW articles AS SELECT 1 AS id, 'a' AS title, 'b' AS body",
            OWN,
            "is not a table whose changes can be captured",
        ),
    ],
)
def test_a_documents_table_that_cannot_be_used_is_named(
    place: Place, run: Run, conn: psycopg.Connection[Any], made: Any, documents: dict[str, Any], sentence: str
) -> None:
    conn.execute(made)
    place.declare(documents=documents)
    for arguments in (("status", "docs"), ("plan", "docs", "v1"), ("backfill", "docs", "v1")):
        refused(run(*arguments), 1, sentence)


def test_load_into_a_table_of_ones_own_is_refused(place: Place, run: Run, conn: psycopg.Connection[Any]) -> None:
    conn.execute("CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text)")
    place.declare(documents=OWN)
    refused(run("load", "docs", place.write_documents()), 1, "live in your own table articles. Write there")


def test_a_bad_file_is_refused_with_its_line(place: Place, run: Run) -> None:
    refused(run("load", "docs", place.write_documents({"id": None, "text": "x"})), 1, "line 51, has no id (it is null)")
    refused(run("load", "docs", "nowhere.csv"), 1, "There is no file nowhere.csv")


def test_an_embedder_of_another_dimension_stores_nothing(place: Place, run: Run) -> None:
    run("load", "docs", place.write_documents())
    place.declare(versions={"v1": version(provider="tests.database.cli.test_refusals:ShortEmbedder", options={})})
    refused(run("plan", "docs", "v1"), 1, "vectors of 16 dimensions, not the declared 32")
    filled = run("backfill", "docs", "v1", "--json")
    assert filled.code == 1
    assert "vectors of 16 dimensions, not the declared 32" in filled.value["error"]
    assert "Nothing of this answer was stored" in filled.value["next_step"]
    shown = run("status", "docs", "--json").value["versions"][0]
    assert (shown["stored"], shown["dead_letters"], shown["partitions_done"]) == (0, 0, 0)


class ShortEmbedder:
    """Answers with half of the dimensions that were declared."""

    def __init__(self, *, dimensions: int, model_name: str) -> None:
        self.size = dimensions // 2

    def embed(self, texts: list[str], role: str) -> list[list[float]]:
        return [[1.0] * self.size for _ in texts]


@pytest.mark.parametrize(
    "arguments",
    [
        ("load", "docs", "FILE"),
        ("plan", "docs", "v1"),
        ("backfill", "docs", "v1"),
        ("sync", "docs"),
        ("gate", "docs", "v1"),
        ("cutover", "docs", "v1"),
        ("rollback", "docs"),
        ("retire", "docs", "v1", "--confirm", "v1"),
        ("pause", "docs"),
        ("status", "docs"),
        ("verify", "docs"),
        ("search", "docs", "text"),
    ],
)
def test_an_unreachable_database_is_one_sentence_for_every_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_nowhere: Run, arguments: tuple[str, ...]
) -> None:
    ran = run_nowhere(*arguments)
    refused(ran, 1, "PostgreSQL at postgresql://someone:***@127.0.0.1:1/nowhere is not available")


def test_status_of_all_goes_on_after_one_that_cannot_be_reached(place: Place, run: Run, database_url: str) -> None:
    first = place.config.read_text()
    place.declare(name="far", database_url=NOBODY)
    place.config.write_text(f"{place.config.read_text()}---\n{first}")
    ran = run("status", "--json")
    assert ran.code == 1
    assert "is not available" in ran.value["indexes"]["far"]["error"]
    assert ran.value["indexes"]["docs"]["next"]["command"] == "embed-pipeline load docs FILE"
    assert PASSWORD not in ran.out + ran.err


def test_a_lost_connection_is_told_and_outlived(
    place: Place, run: Run, database_url: str, postgres_admin: psycopg.Connection[Any]
) -> None:
    run("load", "docs", place.write_documents())

    def kill() -> None:
        postgres_admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (database_url.rpartition("/")[2],)
        )

    signals.listen("backfill.embedded", kill)
    try:
        ran = run("backfill", "docs", "v1")
    finally:
        signals.forget_all()
    assert ran.code == 0, ran
    assert "waiting: PostgreSQL does not answer: terminating connection" in ran.err
    assert "Traceback" not in ran.err


def test_a_server_that_stays_away_is_one_sentence(
    place: Place, run: Run, database_url: str, postgres_admin: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("load", "docs", place.write_documents())
    name = sql.Identifier(database_url.rpartition("/")[2])

    def away() -> None:
        signals.forget_all()
        postgres_admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        postgres_admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (database_url.rpartition("/")[2],)
        )

    monkeypatch.setattr(session, "GIVE_UP_SECONDS", 0.3)
    signals.listen("backfill.embedded", away)
    try:
        ran = run("backfill", "docs", "v1")
    finally:
        signals.forget_all()
        postgres_admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
    refused(ran, 1, "PostgreSQL has not answered for")
    assert run("backfill", "docs", "v1").code == 0


def test_a_role_without_rights_is_told_so(place: Place, run: Run, conn: psycopg.Connection[Any], monkeypatch: Any) -> None:
    run("load", "docs", place.write_documents())
    run("backfill", "docs", "v1")
    name = conn.info.dbname
    conn.execute(f"CREATE ROLE reader_{name} LOGIN PASSWORD '{PASSWORD}'")  # type: ignore[arg-type]
    try:
        url = f"postgresql://reader_{name}:{PASSWORD}@{conn.info.host}:{conn.info.port}/{name}"
        monkeypatch.setenv("TEST_DATABASE_URL", url)
        refused(run("status", "docs"), 1, "PostgreSQL does not allow this: permission denied for schema embed_pipeline")
    finally:
        conn.execute(f"DROP ROLE reader_{name}")  # type: ignore[arg-type]


def test_an_interrupt_says_that_the_work_is_kept(place: Place, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("load", "docs", place.write_documents())

    def interrupt() -> None:
        raise KeyboardInterrupt

    signals.listen("register.locked", interrupt)
    try:
        ran = run("backfill", "docs", "v1")
    finally:
        signals.forget_all()
    assert (ran.code, ran.out) == (130, "")
    assert "what is done is kept" in ran.err


def test_a_defect_is_not_dressed_up(place: Place, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(spec: Any, **_: Any) -> Any:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("embed_pipeline.report.status.look", broken)
    with pytest.raises(ZeroDivisionError):
        run("status", "docs")


def test_no_json_form_is_a_defect() -> None:
    with pytest.raises(TypeError, match="object has no JSON form"):
        verb.Output(True).result({"x": object()})


@pytest.fixture
def run_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a verb for an index whose server does not exist. Needs no database."""
    from click.testing import CliRunner

    from embed_pipeline.cli.main import cli

    monkeypatch.setenv("TEST_DATABASE_URL", NOBODY)
    place = Place(tmp_path)
    place.declare()
    place.write_documents(name="FILE.jsonl")

    def call(*arguments: str) -> Ran:
        given = [str(tmp_path / "FILE.jsonl") if each == "FILE" else each for each in arguments]
        result = CliRunner().invoke(cli, [*given, "--config", str(place.config)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return call
