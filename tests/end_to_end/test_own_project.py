"""docs/how-to/own-dagster-project.md, typed: every command but `pip`, in a project that `create-dagster` has made.

`EMBED_PIPELINE_TESTS_CREATE_DAGSTER` names a `create-dagster` that is there; without it the test installs one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from embed_pipeline.postgres import embedded
from embed_pipeline.postgres.home import HOME_VARIABLE

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/how-to/own-dagster-project.md"
STEP = re.compile(r"^```sh\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
CREATE = "EMBED_PIPELINE_TESTS_CREATE_DAGSTER"
# What is answered, by a word of the commands.
ANSWERS = {
    "dg scaffold defs": ["embed_pipeline.EmbeddingIndex"],
    "dg launch --assets": ["All component YAML validated successfully", "articles", "RUN_SUCCESS"],
    "dg launch --job": ["RUN_SUCCESS", "v1", "2"],
    "components/search_index.py": ["my_search.components.search_index.SearchIndex", "validated successfully", "v1"],
}


@pytest.fixture
def create_dagster(tmp_path: Path) -> Path:
    given = os.environ.get(CREATE)
    if given is not None:
        return Path(given)
    made = tmp_path / "creator"
    subprocess.run([sys.executable, "-m", "venv", made], check=True)
    pip = [made / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check", "create-dagster"]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"create-dagster cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    return made / "bin/create-dagster"


@pytest.mark.soak
def test_the_page_as_written(tmp_path: Path, create_dagster: Path) -> None:
    steps = STEP.findall(PAGE.read_text(encoding="utf-8"))
    assert len(steps) >= 6
    assert all(any(word in step for step in steps) for word in ANSWERS)
    # What `pip install -e .` of the page does: the project and this package are found. And the one program is, not its environment.
    only = tmp_path / "only"
    only.mkdir()
    (only / "create-dagster").symlink_to(create_dagster)
    environment = {name: value for name, value in os.environ.items() if name not in (HOME_VARIABLE, "DATABASE_URL")} | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), str(only), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "my-search/src"), str(ROOT)]),
        HOME_VARIABLE: str(tmp_path / "home"),
        "DAGSTER_HOME": str(tmp_path / "dagster"),
        "COLUMNS": "200",
    }
    (tmp_path / "dagster").mkdir()
    folder = tmp_path
    try:
        for step in steps:
            commands = "".join(line for line in step.splitlines(keepends=True) if not line.startswith("pip "))
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", commands],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{commands}\n{done.stdout}"
            folder = tmp_path / "my-search"
            for word, said in ANSWERS.items():
                if word in step:
                    for each in said:
                        assert each in done.stdout, f"{each}\n{done.stdout}"
    finally:
        embedded.stop(tmp_path / "home")
