"""Every declaration that the documentation shows is taken by `dg check yaml`, which asks the component's schema."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from embed_pipeline.dagster_layer.component import EXAMPLE, EmbeddingIndex

ROOT = Path(__file__).parents[2]
TYPE = "embed_pipeline.EmbeddingIndex"
# Words that stand for what a page has shown before.
FENCED = re.compile(r"^ *```yaml\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def declarations() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each with the page that shows it."""
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for number, (block,) in enumerate(zip(FENCED.findall(page.read_text()), strict=False)):
            if f"type: {TYPE}" in block:
                for document in yaml.safe_load_all(block):
                    yield f"{page.relative_to(ROOT)}-{number}", document
    yield EXAMPLE.name, yaml.safe_load(EXAMPLE.read_text().replace("NAME", "docs"))


SHOWN = list(declarations())


@pytest.mark.parametrize("document", [document for _, document in SHOWN], ids=[name for name, _ in SHOWN])
def test_the_schema_takes_every_declaration_of_the_docs(document: dict[str, Any]) -> None:
    assert document["type"] == TYPE
    model = EmbeddingIndex.get_model_cls()
    jsonschema.validate(document["attributes"], model.model_json_schema())


def test_the_schema_refuses_what_is_none() -> None:
    attributes = dict(SHOWN[0][1]["attributes"]) | {"documents": {"table": "t", "key": 7, "text": []}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(attributes, EmbeddingIndex.get_model_cls().model_json_schema())
