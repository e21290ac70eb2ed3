"""`pip install embed-pipeline` and nothing else: documents are loaded, embedded by a model of the user's own, and searched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.database.cli.conftest import Place

ROOT = Path(__file__).resolve().parents[3]


def ran(place: Place, database_url: str, *arguments: str, but: str = "") -> subprocess.CompletedProcess[str]:
    kept = ["--but", but] if but else []
    return subprocess.run(
        [sys.executable, "-m", "tests.harness.without_extras", *kept, *arguments, "--config", str(place.config)],
        cwd=ROOT,
        env=os.environ | {"TEST_DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        check=False,
    )


def test_from_documents_to_an_answer(place: Place, database_url: str) -> None:
    place.declare(holdout=None)
    for verb in (
        ("load", "docs", place.write_documents()),
        ("backfill", "docs", "v1"),
        ("gate", "docs", "v1"),
        ("cutover", "docs", "v1"),
    ):
        done = ran(place, database_url, *verb)
        assert done.returncode == 0, done.stderr
    found = ran(place, database_url, "search", "docs", "number7")
    assert found.returncode == 0, found.stderr
    assert "number7" in found.stdout or "7" in found.stdout.split()
    place.declare()
    assert ran(place, database_url, "backfill", "docs", "v2").returncode == 0
    refused = ran(place, database_url, "gate", "docs", "v2")
    assert refused.returncode == 2
    assert refused.stderr.endswith("A gate needs ir_measures, which is not installed. Run: pip install 'embed-pipeline[gate]'\n")
    judged = ran(place, database_url, "gate", "docs", "v2", but="gate")
    assert judged.returncode == 0, judged.stderr
