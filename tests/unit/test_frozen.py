"""Every field of a declaration is frozen or free, and said to be in one place."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from pydantic import BaseModel

from embed_pipeline.spec import KINDS, NOT_IDENTITY, DocumentsSpec, IndexSpec, VersionSpec, declaration_of, frozen

TABLES: list[tuple[type[BaseModel], Mapping[str, frozen.Fate]]] = [
    (IndexSpec, frozen.INDEX),
    (DocumentsSpec, frozen.DOCUMENTS),
    *((kind, kind.fates) for kind in map(declaration_of, KINDS)),
    (VersionSpec, frozen.VERSION),
]


@pytest.mark.parametrize(("model", "table"), TABLES)
def test_every_field_has_its_fate(model: type[BaseModel], table: Mapping[str, frozen.Fate]) -> None:
    assert table.keys() == model.model_fields.keys()


def test_what_is_frozen_of_a_version_is_its_fingerprint() -> None:
    """What may change leaves the fingerprint as it is, and nothing else does."""
    assert frozen.of_fate(frozen.VERSION, "frozen") == VersionSpec.model_fields.keys() - NOT_IDENTITY
    assert frozen.of_fate(frozen.INDEX, "frozen") == {"name", "partitions"}
    assert frozen.of_fate(frozen.INDEX, "apart") == {"documents", "store", "versions"}
