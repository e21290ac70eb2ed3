"""`make dev` without Dagster's processes: where its home is, and that it can be stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from embed_pipeline.dagster_layer.dev import command, find_project, prepare_home
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.postgres.home import HOME_VARIABLE

# Says that it is ready, waits for SIGINT, and ends with a code of its own.
CHILD = """
import os, signal, sys
signal.signal(signal.SIGINT, lambda *_: sys.exit(7))
print(os.getpid(), flush=True)
while True:
    signal.pause()
"""
PARENT = """
import os, sys
from pathlib import Path
from embed_pipeline.dagster_layer.dev import run
sys.exit(run([sys.executable, "-c", sys.argv[1]], Path.cwd(), dict(os.environ)))
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_also_where_a_shell_started_it_in_the_background(sent: signal.Signals) -> None:
    # A shell without job control starts `command &` with SIGINT ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        os.kill(process.pid, sent)
        assert process.wait(timeout=20) == 7
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        process.stdout.close()


def test_the_home_follows_the_projects_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dagster.yaml").write_text(name)
        home = prepare_home(tmp_path / name)
        assert home == tmp_path / "home" / "dagster_home"
        assert (home / "dagster.yaml").read_text() == name
        assert prepare_home(tmp_path / name) == home


def test_the_project_is_found_from_below(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Run it in the project's folder"):
        find_project(tmp_path)
    for name in ("dagster.yaml", "workspace.yaml"):
        (tmp_path / name).touch()
    (tmp_path / "assets" / "docs").mkdir(parents=True)
    assert find_project(tmp_path / "assets" / "docs") == tmp_path


def test_only_this_machine_can_reach_it() -> None:
    assert command(3001)[-4:] == ["-h", "127.0.0.1", "-p", "3001"]
