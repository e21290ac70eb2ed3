"""docs/how-to/tutorial.md, typed by hand: every command of the page in its order, in a fresh folder, and what the page says that it answers."""

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
PAGE = ROOT / "docs/how-to/tutorial.md"
# A block of commands, and what they answer where the page shows it.
STEP = re.compile(r"^```sh\n(.*?)^```\n(?:\n?```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
# The one that the page shows to be refused.
REFUSED = "embed-pipeline cutover articles v2\n"


def shape(line: str) -> str:
    """The line without what is another one in each run: numbers, units of time, who was at work, blanks."""
    line = re.sub(r"[-+]?\d[\d,.:-]*( (ms|s|min|h|kB|MB|B)\b)?", "#", line)
    return re.sub(r"\s+", " ", re.sub(r"\bby \w+:", "by #:", line)).replace("# #", "#").strip()


@pytest.mark.soak
def test_every_command_answers_what_the_page_says(tmp_path: Path) -> None:
    steps = STEP.findall(PAGE.read_text(encoding="utf-8"))
    assert len(steps) > 15
    taken = {name: value for name, value in os.environ.items() if name != HOME_VARIABLE}
    path = os.pathsep.join([str(Path(sys.executable).parent), taken["PATH"]])
    # What the page exports in one block holds in the next one.
    environment = taken | {"PATH": path, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    met: set[str] = set()
    try:
        for commands, shown in steps:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", commands],
                cwd=tmp_path,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            refused = commands == REFUSED and commands in met
            assert done.returncode == (1 if refused else 0), f"{commands}\n{done.stdout}"
            met.add(commands)
            answered = {shape(line) for line in done.stdout.splitlines()}
            for line in shown.splitlines():
                # A row of a search or of the audit is of one run.
                if line.strip() not in ("", "…") and not re.match(r" +\d", line):
                    assert any(told.startswith(shape(line.removesuffix("…"))) for told in answered), f"{line}\n{done.stdout}"
    finally:
        embedded.stop(tmp_path / ".embed_pipeline")
