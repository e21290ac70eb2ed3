"""Vectors that an application has made itself beside its articles, and an index that adopts them as version v1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate.opening import open_index
from tests.harness.articles import DOCUMENTS, counted, declared
from tests.harness.fakes import unit_vector


def text_of(number: int) -> str:
    return f"title {number}\n\nbody {number}"


def vector_of(text: str) -> list[float]:
    vector: list[float] = unit_vector(f"\0{text}", 16).tolist()
    return vector


def give_vectors(app: psycopg.Connection, type_: str = "vector(16)", numbers: range = range(1, DOCUMENTS + 1)) -> None:
    """The application's own column, filled by the model that `counted` declares."""
    app.execute(f"ALTER TABLE articles ADD COLUMN embedding {type_}")
    for number in numbers:
        app.execute("UPDATE articles SET embedding = %s WHERE id = %s", (str(vector_of(text_of(number))), number))


Open = Callable[..., OpenIndex]


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return tmp_path / "calls"


@pytest.fixture
def open_adopting(database_url: str, app: psycopg.Connection, holdout: Path, calls: Path) -> Iterator[Open]:
    """Opens index `docs` with version v1, which adopts; nothing is registered yet."""
    opened: list[OpenIndex] = []

    def open_with(adopted: dict[str, Any] | None = None, *, register_new: bool = False, **version: Any) -> OpenIndex:
        overrides = {
            "store": {"kind": "pgvector", "adopt": {"version": "v1"} | (adopted or {})},
            "versions": {"v1": counted(calls, **version)},
        }
        index = open_index(declared(database_url, holdout, **overrides), register_new=register_new)
        opened.append(index)
        return index

    yield open_with
    for index in opened:
        index.close()
