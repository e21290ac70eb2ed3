"""The models that the loopback provider serves: what each takes, and which vector a text gets.

Vectors come from a hash of the text (`hash`, fast; only equal texts are near), from its words (`words`: texts with words in common
are near), or from the two packaged models: `small`, `large`, and `turned`, which is `large` under a fixed rotation: as good as
`large`, and a space of its own.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.embedders.providers.onnx import OnnxEmbedder
from embed_pipeline.spec import VersionSpec
from tests.harness.real_models import LARGE, SMALL

WORD = re.compile(r"\w+")
REAL = ("small", "large", "turned")
# How far an input type moves a vector: enough to be seen, too little to make neighbours of strangers.
INPUT_TYPE_WEIGHT = 0.15


@dataclass(frozen=True)
class Served:
    """One model of one provider. `space` decides the vectors: `hash`, `words`, or one of REAL; `salt` makes another space of it."""

    provider: str
    name: str
    native: int
    dimensions: tuple[int, ...] | str = ()
    """Which others may be asked for: these, or `any` up to the native one; none by default."""
    max_tokens: int = 8192
    request_texts: int = 2048
    request_tokens: int | None = None
    space: str = "hash"
    salt: str = ""

    def takes(self, dimensions: int) -> bool:
        if dimensions == self.native:
            return True
        return 1 <= dimensions < self.native if self.dimensions == "any" else dimensions in self.dimensions

    def tokens(self, text: str) -> int:
        """Tokens of a text, special ones not counted: of the packaged tokenizer for a real space, else a quarter of its bytes."""
        if self.space in REAL:
            return len(_real("large").tokens(text))
        return -(-len(text.encode()) // 4)

    def cut(self, text: str) -> str:
        """The longest beginning that fits into max_tokens."""
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.tokens(text[:middle]) <= self.max_tokens else (low, middle - 1)
        return text[:low]

    def vectors(self, texts: Sequence[str], dimensions: int, input_type: str | None) -> Vectors:
        """Unit vectors; shorter ones are the beginning of the native one, as with the models that allow it."""
        width = max(self.native, dimensions)
        if self.space in REAL:
            raw = np.stack([_padded(vector, width, self.space) for vector in _real(self.space).vectors(texts)])
        else:
            seed = f"{self.provider}/{self.name}\0{self.salt}\0"
            raw = np.stack(
                [_hashed(seed + text, width) if self.space == "hash" else self._words(seed, text, width) for text in texts]
            )
        if self.space in REAL and self.salt:
            raw = raw @ _rotation(f"{self.space}\0{self.salt}", width)
        if input_type is not None:
            raw = raw + INPUT_TYPE_WEIGHT * _hashed(f"input type\0{input_type}", width)
        raw = raw[:, :dimensions]
        return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)

    def _words(self, seed: str, text: str, width: int) -> Vectors:
        words = sorted(set(WORD.findall(text.lower()))) or [text]
        total: Vectors = np.sum([_hashed(f"{seed}{word}", width) for word in words], axis=0)
        return total


DEFAULTS = [
    Served("openai", "text-embedding-3-small", 1536, "any", request_tokens=300_000),
    Served("openai", "text-embedding-3-large", 3072, "any", request_tokens=300_000),
    Served("openai", "text-embedding-ada-002", 1536, request_tokens=300_000),
    Served("cohere", "embed-english-v3.0", 1024, max_tokens=512, request_texts=96),
    Served("cohere", "embed-multilingual-v3.0", 1024, max_tokens=512, request_texts=96),
    Served("cohere", "embed-v4.0", 1536, (256, 512, 1024), max_tokens=128_000, request_texts=96),
    Served("voyage", "voyage-3.5", 1024, (256, 512, 2048), max_tokens=32_000, request_texts=1000, request_tokens=320_000),
    Served("voyage", "voyage-3.5-lite", 1024, (256, 512, 2048), max_tokens=32_000, request_texts=1000, request_tokens=1_000_000),
    Served("voyage", "voyage-3-large", 1024, (256, 512, 2048), max_tokens=32_000, request_texts=1000, request_tokens=120_000),
    Served("voyage", "voyage-code-3", 1024, (256, 512, 2048), max_tokens=32_000, request_texts=1000, request_tokens=120_000),
]


@dataclass
class Models:
    """The models by provider and name; a test adds its own and changes them while the server runs."""

    served: dict[tuple[str, str], Served] = field(default_factory=lambda: {(m.provider, m.name): m for m in DEFAULTS})

    def find(self, provider: str, name: str) -> Served | None:
        return self.served.get((provider, name))

    def serve(self, provider: str, name: str, **fields: Any) -> None:
        """Add a model, or change fields of a known one."""
        if isinstance(fields.get("dimensions"), list):
            fields["dimensions"] = tuple(fields["dimensions"])
        known = self.served.get((provider, name))
        first = {"cohere": 96, "voyage": 1000}.get(provider, 2048)
        base = known or Served(provider, name, int(fields["native"]), request_texts=first)
        self.served[provider, name] = replace(base, **fields)


def _hashed(seed: str, dimensions: int) -> Vectors:
    # SHAKE gives as many bytes as wanted at 0.4 GB/s: the cost of a provider that is to seem instant.
    drawn = np.frombuffer(hashlib.shake_256(seed.encode()).digest(2 * dimensions), dtype="<i2").astype(np.float32)
    return drawn / np.float32(np.linalg.norm(drawn))


@lru_cache(maxsize=8)
def _rotation(seed: str, size: int) -> Vectors:
    drawn = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8])).standard_normal((size, size))
    turned, _ = np.linalg.qr(drawn)
    return turned.astype(np.float32)


def _padded(vector: Vectors, native: int, space: str) -> Vectors:
    if space == "turned":
        vector = vector @ _rotation(space, len(vector))
    if native < len(vector):
        return vector[:native]
    return np.concatenate([vector, np.zeros(native - len(vector), dtype=np.float32)])


class _Real:
    """A packaged model with what it has embedded. One text after another: it is the same vector in whichever batch it comes."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._embedder = OnnxEmbedder(VersionSpec(**{**fields, "too_long": "truncate"}))
        self._known: dict[str, Vectors] = {}
        self._lock = threading.Lock()

    def tokens(self, text: str) -> list[int]:
        return self._embedder._tokenizer.encode(text, add_special_tokens=False).ids

    def vectors(self, texts: Sequence[str]) -> list[Vectors]:
        for text in texts:
            if text not in self._known:
                with self._lock:
                    self._known[text] = self._embedder.embed([text], "document").vectors[0]
        return [self._known[text] for text in texts]


_opening = threading.Lock()


def _real(space: str) -> _Real:
    with _opening:
        return _opened("small" if space == "small" else "large")


@lru_cache(maxsize=2)
def _opened(name: str) -> _Real:
    return _Real(SMALL if name == "small" else LARGE)
