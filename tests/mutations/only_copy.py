"""A pytest plugin for runs against a copy of the package: the run ends at once where the copy is not what is imported."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import embed_pipeline


def pytest_configure(config: pytest.Config) -> None:
    found, wanted = Path(embed_pipeline.__file__).parents[1], Path(os.environ["PYTHONPATH"])
    if found != wanted:
        pytest.exit(f"{found} was imported instead of the copy in {wanted}", returncode=9)
