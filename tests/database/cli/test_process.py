"""The console script as a process of its own: exit codes, clean stdout, signals, and how fast help is."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import psycopg
import pytest

from embed_pipeline.cli.main import cli
from embed_pipeline.postgres import home
from embed_pipeline.postgres.embedded import Server
from tests.database.cli.conftest import DOCUMENTS, Place, Ran

REPOSITORY = Path(__file__).parents[3]
SCRIPT = [sys.executable, "-m", "embed_pipeline.cli.main"]
VERBS = {
    *(
        "load",
        "plan",
        "dead-letters",
        "check-model",
        "backfill",
        "sync",
        "gate",
        "cutover",
        "rollback",
        "retire",
        "pause",
        "resume",
        "abort",
    ),
    *("status", "health", "history", "verify", "search", "demo", "db", "adopt", "take-over", "holdout", "fit", "preview"),
    *("doctor", "remove", "shadow", "watch", "metrics"),
}
HEAVY = ("dagster", "pydantic", "numpy", "psycopg", "pyarrow", "rich", "sqlalchemy")


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SCRIPT, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)


def test_help_lists_every_verb_and_loads_nothing_heavy() -> None:
    program = (
        "import sys\nfrom embed_pipeline.cli.main import cli\n"
        "try:\n    cli(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for verb in VERBS:
        assert f"\n  {verb} " in done.stdout
    assert set(cli.commands) == VERBS


def test_the_command_line_never_imports_dagster(place: Place) -> None:
    program = (
        "import sys\nfrom embed_pipeline.cli.main import cli\n"
        f"try:\n    cli(['status', '--json', '--config', {str(place.config)!r}])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print('dagster' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "False\n"
    assert list(json.loads(done.stdout)["indexes"]) == ["docs"]


@pytest.mark.parametrize(
    "arguments",
    [["status", "--shiny"], ["plan", "docs"], ["retire", "docs"], ["search", "docs", "x", "-k", "0"], ["db", "sing"]],
)
def test_wrong_usage_is_exit_2(arguments: list[str]) -> None:
    done = process(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_refusal_is_one_sentence_and_with_json_an_object(place: Place) -> None:
    done = process("rollback", "docs", "--json", "--config", str(place.config))
    assert done.returncode == 1
    assert json.loads(done.stdout) == {
        "error": "No version of index 'docs' is registered in its database yet.",
        "next_step": "Run: embed-pipeline backfill docs v1",
        "code": "catalog_error",
        "fields": {},
    }
    assert done.stderr == (
        "error: No version of index 'docs' is registered in its database yet. Run: embed-pipeline backfill docs v1\n"
    )


def test_json_stdout_stays_pure_while_progress_is_told(place: Place, run: Callable[..., Ran]) -> None:
    run("load", "docs", place.write_documents())
    done = process("backfill", "docs", "v1", "--json", "--config", str(place.config))
    assert done.returncode == 0
    assert json.loads(done.stdout)["stored"] == DOCUMENTS
    assert done.stderr.splitlines()[0].startswith("docs.v1: ")


def test_watch_ends_in_peace_when_told_to(place: Place, run: Callable[..., Ran], database_url: str) -> None:
    run("load", "docs", place.write_documents())
    run("backfill", "docs", "v1")
    watching = subprocess.Popen(
        [*SCRIPT, "sync", "docs", "--watch", "--json", "--config", str(place.config)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    try:
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert watching.stderr.readline().startswith("watching docs")
        with psycopg.connect(database_url, autocommit=True) as app:
            app.execute("UPDATE docs SET text = 'changed while watched' WHERE id = '3'")
        told = json.loads(watching.stdout.readline())
        assert sum(each["written"] for each in told["versions"]) >= 1
        watching.send_signal(signal.SIGTERM)
        _, errors = watching.communicate(timeout=30)
    finally:
        watching.kill()
        watching.wait()
    assert watching.returncode == 0
    assert errors == ""


def test_a_status_that_is_watched_is_a_line_where_no_terminal_is(place: Place, run: Callable[..., Ran]) -> None:
    run("load", "docs", place.write_documents())
    run("backfill", "docs", "v1")
    command = [*SCRIPT, "status", "docs", "--watch", "--config", str(place.config)]
    watching = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        assert watching.stdout is not None
        assert watching.stdout.readline() == "docs: judging, nothing serves; v2 0/3 partitions; queue 0; well\n"
        watching.send_signal(signal.SIGTERM)
        _, errors = watching.communicate(timeout=30)
    finally:
        watching.kill()
        watching.wait()
    assert (watching.returncode, errors) == (0, "")


@pytest.mark.parametrize("verb", [["sync", "docs", "--watch", "--metrics"], ["metrics", "--listen"]])
def test_metrics_are_served_until_told_to_end(place: Place, run: Callable[..., Ran], verb: list[str]) -> None:
    pytest.importorskip("prometheus_client")
    run("load", "docs", place.write_documents())
    run("backfill", "docs", "v1")
    serving = subprocess.Popen(
        [*SCRIPT, *verb, "127.0.0.1:0", "--config", str(place.config)],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    try:
        assert serving.stderr is not None
        said = re.search(r"^metrics on (\S+?)(;|$)", serving.stderr.readline())
        assert said is not None
        with urlopen(said[1], timeout=30) as answer:
            text = answer.read().decode()
            assert re.search(r'^embed_pipeline_up\{index="docs"\} 1\.0$', text, re.MULTILINE)
        serving.send_signal(signal.SIGTERM)
        serving.communicate(timeout=30)
    finally:
        serving.kill()
        serving.wait()
    assert serving.returncode == 0


def test_metrics_of_what_ends_at_once_are_refused(place: Place) -> None:
    done = process("sync", "docs", "--metrics", "127.0.0.1:0", "--config", str(place.config))
    assert done.returncode == 2
    assert "--metrics is of --watch" in done.stderr


def test_the_place_of_the_embedded_server_is_told_without_its_password(postgres_server: Server) -> None:
    shown = process("db", "status", "--json")
    assert shown.returncode == 0
    value = json.loads(shown.stdout)
    assert (value["running"], value["port"]) == (True, postgres_server.port)
    started = process("db", "start")
    assert started.returncode == 0
    assert postgres_server.password not in shown.stdout + shown.stderr + started.stdout + started.stderr
    assert process("db", "url").stdout == f"{postgres_server.url()}\n"


def test_there_is_nothing_to_stop_where_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(home.HOME_VARIABLE, str(tmp_path))
    done = process("db", "stop")
    assert (done.returncode, done.stdout) == (0, "PostgreSQL was not running.\n")
