"""A Python of its own with frameworks in it: what they need does not go into the project's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest


def python_with(packages: Sequence[str], place: Path, variable: str) -> str:
    """The one that the environment variable names; else one is made in `place`, which takes minutes."""
    if variable in os.environ:
        return os.environ[variable]
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    made = str(place / "bin" / "python")
    installed = subprocess.run([made, "-m", "pip", "install", "-q", *packages], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"the frameworks cannot be installed here: {installed.stderr[-300:]}")
    return made
