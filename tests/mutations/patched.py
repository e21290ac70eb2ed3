"""Runs tests against copies of the package, each in a process of its own."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import SHARED_HOME
from tests.races.test_state_machine import NO_SHRINKING

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


class Preloaded:
    """Runs tests of copies, one run at a time (`preloaded.py`)."""

    def __init__(self) -> None:
        # Unbuffered, so that waiting for its answer sees what has arrived.
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("preloaded.py"))],
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def __enter__(self) -> Preloaded:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, place: Path, tests: Sequence[str], server_home: Path, seconds: float) -> Run:
        """Run the named tests of the copy in `place`, on the server that runs in `server_home`."""
        said = place.with_name("output")
        wanted = {
            "place": str(place),
            "environment": _environment()
            # A wide terminal, or pytest cuts the reasons short.
            | {"PYTHONPATH": str(place), "COLUMNS": "400", SHARED_HOME: str(server_home), NO_SHRINKING: "1"},
            # Plugins that other libraries bring along cost more than many a test.
            "arguments": ["-q", "-rA", "--disable-plugin-autoload", "-p", "no:cacheprovider", "-p", ONLY_COPY, *tests],
            "output": str(said),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
        pid = int(self._process.stdout.readline())
        ended, _, _ = select.select([self._process.stdout], [], [], seconds)
        with suppress(ProcessLookupError):
            # Its own processes too: a worker that was left would go on writing.
            os.killpg(pid, 9)
        code = int(self._process.stdout.readline())
        return _read(code if ended else None, said.read_text(encoding="utf-8", errors="replace"))


def _environment() -> dict[str, str]:
    """Nothing of a pytest that may run us."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}


def _read(code: int | None, output: str) -> Run:
    failed: dict[str, str] = {}
    passed: set[str] = set()
    for outcome, test, reason in OUTCOME.findall(output):
        if outcome == "FAILED":
            failed.setdefault(test, reason)
        elif outcome == "PASSED":
            passed.add(test)
    return Run(code, failed, frozenset(passed), output)


ONLY_COPY = "tests.mutations.only_copy"
