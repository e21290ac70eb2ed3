"""A declaration in a file of its own, and the command line called in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from embed_pipeline.cli.main import cli
from tests.harness.postgres.other import ACCEPTED

WORDS = ["amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "harbor", "island", "juniper"]
DOCUMENTS = 50


def text_of(number: int) -> str:
    """Three words, in another combination for every number."""
    return f"{WORDS[number % 10]} {WORDS[number // 10 % 10]} number{number}"


def version(**overrides: Any) -> dict[str, Any]:
    base = {
        "provider": "tests.harness.fakes:WordsEmbedder",
        "model_name": "words-1",
        "dimensions": 32,
        "options": {"salt": "one"},
    }
    return base | overrides


@dataclass
class Place:
    """A folder with a defs.yaml."""

    folder: Path
    whole_folder: bool = False
    """Whether verbs are given the folder with all that is in it, and not the file."""

    @property
    def config(self) -> Path:
        return self.folder / "defs.yaml"

    def declare(self, **overrides: Any) -> None:
        attributes: dict[str, Any] = {
            "name": "docs",
            "database_url": "{{ env.TEST_DATABASE_URL }}",
            "partitions": 3,
            "versions": {"v1": version(), "v2": version(model_name="words-2", options={"salt": "two"})},
            "holdout": {"path": "holdout.jsonl"},
            "gate": {"min_queries": 2, "margin": 0.2},
            "retire": {"soak_seconds": 0, "unread_seconds": 0},
        }
        content = {"type": "embed_pipeline.EmbeddingIndex", "attributes": ACCEPTED | attributes | overrides}
        self.config.write_text(yaml.safe_dump(content))

    def write_holdout(self, queries: int = 30) -> None:
        rows = [{"query": f"number{n}", "doc_id": str(n)} for n in range(queries)]
        (self.folder / "holdout.jsonl").write_text("\n".join(json.dumps(row) for row in rows))

    def write_documents(self, *more: dict[str, Any], name: str = "documents.jsonl") -> str:
        rows = [*({"id": n, "text": text_of(n)} for n in range(DOCUMENTS)), *more]
        path = self.folder / name
        path.write_text("\n".join(json.dumps(row) for row in rows))
        return str(path)


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """The result of --json: stdout must be exactly one JSON value."""
        return json.loads(self.out)


@pytest.fixture
def place(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("TEST_DATABASE_URL", database_url)
    made = Place(tmp_path)
    made.declare()
    made.write_holdout()
    return made


@pytest.fixture
def run(place: Place) -> Callable[..., Ran]:
    """Run a verb with the place's declaration; anything that is no exit raises here, as a traceback would be shown."""

    def call(*arguments: str) -> Ran:
        result = CliRunner().invoke(cli, [*arguments, "--config", str(place.folder if place.whole_folder else place.config)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return call
