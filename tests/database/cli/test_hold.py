"""Pause, resume and abort from the command line, from SQL and from Dagster, against a backfill that runs in another process."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from embed_pipeline.cli.progress import _Lines
from embed_pipeline.configuration import load_indexes
from embed_pipeline.dagster_layer.component import build_definitions
from tests.database.cli.conftest import DOCUMENTS, Place, Ran, version
from tests.database.cli.test_process import REPOSITORY, SCRIPT
from tests.harness.fakes import asked_texts
from tests.harness.paced import permit
from tests.harness.postgres.standby import eventually

Run = Callable[..., Ran]
Say = Callable[[str, str], None]
BATCH = 5


@pytest.fixture(params=["cli", "sql", "dagster"])
def say(request: pytest.FixtureRequest, place: Place, run: Run, database_url: str) -> Say:
    """Says `pause`, `resume` or `abort` to index docs, with a reason, through one of the three channels."""

    def by_cli(verb: str, reason: str) -> None:
        assert run(verb, "docs", "--reason", reason).code == 0

    def by_sql(verb: str, reason: str) -> None:
        with psycopg.connect(database_url, autocommit=True) as conn:
            conn.execute(f"SELECT embed_pipeline.{verb}('docs', %s)", (reason,))  # type: ignore[arg-type]

    def by_dagster(verb: str, reason: str) -> None:
        job = build_definitions(load_indexes(place.config)["docs"]).resolve_job_def(f"docs_{verb}")
        config = {"ops": {f"docs_{verb}__op": {"config": {"reason": reason}}}}
        with dg.DagsterInstance.ephemeral() as instance:
            assert job.execute_in_process(run_config=config, instance=instance).success

    return {"cli": by_cli, "sql": by_sql, "dagster": by_dagster}[request.param]


def test_each_channel_reaches_a_backfill_that_runs_elsewhere(
    place: Place, run: Run, say: Say, database_url: str, tmp_path: Path
) -> None:
    permits, calls = tmp_path / "permits", tmp_path / "calls"
    options = {"salt": "one", "permits": str(permits), "calls_file": str(calls)}
    paced = version(provider="tests.harness.paced:PacedEmbedder", batch_size=BATCH, options=options)
    place.declare(versions={"v1": paced}, partitions=1, backfill={"write_batch": BATCH})
    assert run("load", "docs", place.write_documents()).code == 0
    command = [*SCRIPT, "backfill", "docs", "v1", "--config", str(place.config)]
    with psycopg.connect(database_url, autocommit=True) as conn:

        def throttle() -> tuple[str, str]:
            row = conn.execute("SELECT answer, reason FROM embed_pipeline.throttle").fetchone()
            return (row[0], row[1]) if row else ("", "")

        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            permit(permits, 2)
            eventually(lambda: len(asked_texts(calls)) == 2 * BATCH, "the backfill is under way", 60)
            say("pause", "lunch")
            permit(permits, 1000)
            eventually(lambda: throttle()[0] == "wait", "the backfill waits")
            assert "paused by" in throttle()[1]
            assert "lunch" in throttle()[1]
            assert "backfill of v1 waits for" in run("status", "docs").out
            held = len(asked_texts(calls))
            assert held < DOCUMENTS
            permit(permits, held // BATCH + 1)
            say("resume", "")
            eventually(lambda: throttle()[0] == "go", "the backfill goes on")
            eventually(lambda: len(asked_texts(calls)) == held + BATCH, "it embeds again")
            say("abort", "wrong model")
            permit(permits, 1000)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "waiting: paused by" in err
        assert "error: Index 'docs' is aborted by" in err
        assert "wrong model" in err
        assert err.rstrip().endswith("Run: embed-pipeline resume docs")
        changes = conn.execute(
            "SELECT from_state, to_state, actor <> '' FROM embed_pipeline.events WHERE event = 'control' ORDER BY id"
        ).fetchall()
    assert changes == [("running", "paused", True), ("paused", "running", True), ("running", "aborted", True)]
    assert len(asked_texts(calls)) < DOCUMENTS
    say("resume", "")
    assert run("backfill", "docs", "v1").code == 0
    assert len(asked_texts(calls)) == DOCUMENTS, "nothing is embedded twice"


def test_who_may_say_it_from_sql(place: Place, run: Run, database_url: str) -> None:
    """An operator needs EXECUTE and no right on a table; a reader of the schema may not stop a migration."""
    assert run("load", "docs", place.write_documents()).code == 0
    assert run("backfill", "docs", "v1").code == 0
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("CREATE ROLE test_operator LOGIN; GRANT USAGE ON SCHEMA embed_pipeline TO test_operator")
        try:
            conn.execute("SET SESSION AUTHORIZATION test_operator")
            for verb in ("pause", "resume", "abort"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    conn.execute(f"SELECT embed_pipeline.{verb}('docs')")  # type: ignore[arg-type]
            conn.execute("RESET SESSION AUTHORIZATION")
            conn.execute("GRANT EXECUTE ON FUNCTION embed_pipeline.pause(text, text) TO test_operator")
            conn.execute("SET SESSION AUTHORIZATION test_operator")
            conn.execute("SELECT embed_pipeline.pause(index => 'docs', reason => 'backup')")
            with pytest.raises(psycopg.errors.UndefinedObject, match="index 'other' is not registered"):
                conn.execute("SELECT embed_pipeline.pause('other')")
            conn.execute("RESET SESSION AUTHORIZATION")
            row = conn.execute("SELECT actor, reason FROM embed_pipeline.events WHERE event = 'control'").fetchone()
            assert row == ("test_operator", "backup")
        finally:
            conn.execute("RESET SESSION AUTHORIZATION; DROP OWNED BY test_operator; DROP ROLE test_operator")


def test_a_lasting_wait_is_one_line_and_another_reason_another(capsys: pytest.CaptureFixture[str]) -> None:
    lines = _Lines("docs")
    for words in (
        "waiting: replication lag: 9 MB",
        "waiting: replication lag: 8 MB",
        "waiting: paused by ada: lunch",
        "1 document/s",
    ):
        lines.tell(1, 2, words)
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(" of 2, ")[2] for line in said] == [
        "waiting: replication lag: 9 MB",
        "waiting: paused by ada: lunch",
        "1 document/s",
    ]
