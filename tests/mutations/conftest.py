"""Copies of the package, and a process that runs tests against them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutations import patched
from tests.mutations.patched import Preloaded


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A copy of the package and its tests."""
    patched.copy(tmp_path / "copy")
    yield tmp_path / "copy"
    shutil.rmtree(tmp_path / "copy")


@pytest.fixture(scope="module")
def preloaded() -> Iterator[Preloaded]:
    with Preloaded() as made:
        yield made
