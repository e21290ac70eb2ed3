"""Runs tests against a copy of the package, in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import SHARED_HOME
from tests.migrate.test_state_machine import NO_SHRINKING

ROOT = Path(__file__).resolve().parents[2]
# What the tests read besides the package and themselves.
PLACES = ("embed_pipeline", "tests", "assets", "pyproject.toml", "workspace.yaml", "dagster.yaml")

OUTCOME = re.compile(r"^(FAILED|ERROR|PASSED|SKIPPED) (tests/[\w/]+\.py::\w+)(?:\[.*?\])?(?: - (.*))?$", flags=re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """What a run of tests said. `failed`: test -> the first line of its failure. `code`: pytest's; None when it ran out of time."""

    code: int | None
    failed: dict[str, str]
    passed: frozenset[str]
    output: str


def copy(place: Path) -> Path:
    """A copy of the package and its tests in `place`; returns the copied package."""
    for name in PLACES:
        source = ROOT / name
        if source.is_dir():
            # With the compiled modules: the times of the files are kept, so only what is edited is compiled again.
            shutil.copytree(source, place / name)
        else:
            shutil.copy(source, place / name)
    return place / "embed_pipeline"


def run(place: Path, tests: Sequence[str], server_home: Path, seconds: float) -> Run:
    """Run the named tests of the copy in `place`, on the server that runs in `server_home`."""
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", ONLY_COPY, *tests]
    # A wide terminal, or pytest cuts the reasons short; nothing of a pytest that may run us.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    environment = kept | {
        "PYTHONPATH": str(place),
        "COLUMNS": "400",
        SHARED_HOME: str(server_home),
        NO_SHRINKING: "1",
    }
    process = subprocess.Popen(
        command,
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
        code: int | None = process.returncode
    except subprocess.TimeoutExpired:
        # Its own processes too: a worker that was left would go on writing.
        os.killpg(process.pid, 9)
        output, _ = process.communicate()
        code = None
    failed: dict[str, str] = {}
    passed: set[str] = set()
    for outcome, test, reason in OUTCOME.findall(output):
        if outcome == "FAILED":
            failed.setdefault(test, reason)
        elif outcome == "PASSED":
            passed.add(test)
    return Run(code, failed, frozenset(passed), output)


ONLY_COPY = "tests.protections.only_copy"
