"""The two real models of the demo, opened once for a worker: opening one takes about 0.3 s."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from embed_pipeline.embedders.providers.onnx import OnnxEmbedder
from tests.harness.real_models import Models


@pytest.fixture(scope="session")
def models() -> Models:
    return Models()


@pytest.fixture(scope="session")
def small(models: Models) -> Iterator[OnnxEmbedder]:
    """paraphrase-MiniLM-L3-v2: mean pooling, 128 tokens, no token_type_ids."""
    embedder = OnnxEmbedder(models.small())
    yield embedder
    embedder.close()


@pytest.fixture(scope="session")
def large(models: Models) -> Iterator[OnnxEmbedder]:
    """all-MiniLM-L6-v2 int8: mean pooling, 256 tokens, with token_type_ids."""
    embedder = OnnxEmbedder(models.large())
    yield embedder
    embedder.close()
