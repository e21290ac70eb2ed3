"""Embedders for tests, small and exact. As a provider: `tests.harness.fakes:HashEmbedder`, `tests.harness.fakes:WordsEmbedder`.

Every option is part of the version's declaration, and so of its fingerprint: also `calls_file`.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embed_pipeline.embedders.protocol import Embedded, Role, Vectors

WORD = re.compile(r"\w+")


def unit_vector(seed: str, dimensions: int) -> Vectors:
    """A direction decided by `seed` alone: the same on every machine, unrelated to every other seed's."""
    digest = hashlib.sha256(seed.encode()).digest()
    drawn = np.random.default_rng(int.from_bytes(digest)).standard_normal(dimensions)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


class FakeEmbedder:
    """What the fakes share: failing on demand, and counting texts across processes.

    `fail_on`: a text that holds it is rejected. `raise_on`: a batch with a text that holds it raises RuntimeError.
    `mended`: once this file exists, `raise_on` raises and `fail_on` rejects no more. `raise_while`: every batch raises, uncounted, while this
    file exists.
    `wait_while`: every batch, once counted, waits while this file exists.
    `turned`: while this file exists, it is another model behind the same name.
    `calls_file`: every text asked for is appended to it as one line, by whichever process, also when the batch raises.
    """

    def __init__(
        self,
        *,
        dimensions: int,
        model_name: str,
        salt: str = "",
        fail_on: str | None = None,
        raise_on: str | None = None,
        mended: str | None = None,
        raise_while: str | None = None,
        wait_while: str | None = None,
        calls_file: str | None = None,
        turned: str | None = None,
    ) -> None:
        self.dimensions = dimensions
        self._salt = salt
        self.turned = turned
        self.fail_on = fail_on
        self.raise_on = raise_on
        self.mended = mended
        self.raise_while = raise_while
        self.wait_while = wait_while
        self.calls_file = calls_file

    @property
    def salt(self) -> str:
        return f"{self._salt} turned" if self.turned is not None and Path(self.turned).exists() else self._salt

    def vector(self, text: str) -> Vectors:
        raise NotImplementedError

    def embed(self, texts: Sequence[str], role: Role) -> Embedded:
        if self.raise_while is not None and Path(self.raise_while).exists():
            raise RuntimeError("the provider is down")
        if self.calls_file is not None:
            append_lines(Path(self.calls_file), [" ".join(text.split()) for text in texts])
        while self.wait_while is not None and Path(self.wait_while).exists():
            time.sleep(0.01)
        mended = self.mended is not None and Path(self.mended).exists()
        if self.raise_on is not None and not mended and any(self.raise_on in text for text in texts):
            raise RuntimeError(f"told to raise on {self.raise_on!r}")
        vectors = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        rejected = {}
        for position, text in enumerate(texts):
            if self.fail_on is not None and not mended and self.fail_on in text:
                rejected[position] = f"told to fail on {self.fail_on!r}"
            else:
                vectors[position] = self.vector(text)
        return Embedded(vectors, rejected)


class HashEmbedder(FakeEmbedder):
    """A random-looking unit vector of the whole text. Two salts are two unrelated spaces; only equal texts are near."""

    def vector(self, text: str) -> Vectors:
        return unit_vector(f"{self.salt}\0{text}", self.dimensions)


class WordsEmbedder(FakeEmbedder):
    """The sum of one unit vector for each distinct word: texts with words in common are near, so search finds them.

    `drop`: the share of all words, from 0 to 1, to which this model is blind, chosen by the word itself: a model with
    more of it is worse, always in the same way. Which words are dropped does not depend on `salt`.
    """

    def __init__(self, *, dimensions: int, model_name: str, drop: float = 0.0, **shared: Any) -> None:
        super().__init__(dimensions=dimensions, model_name=model_name, **shared)
        self.drop = drop

    def vector(self, text: str) -> Vectors:
        seen = sorted({word for word in WORD.findall(text.lower()) if _share(word) >= self.drop})
        if not seen:
            # A text of which nothing is seen still needs a vector: it is near to nothing.
            return unit_vector(f"{self.salt}\0\0{text}", self.dimensions)
        total: Vectors = np.sum([unit_vector(f"{self.salt}\0{word}", self.dimensions) for word in seen], axis=0)
        return total


class TurnedEmbedder(WordsEmbedder):
    """The vectors of a WordsEmbedder of `narrow` dimensions and the same salt, turned into other axes, or more of them: another space in which
    everything is as near as it was."""

    def __init__(self, *, dimensions: int, narrow: int, turn: int = 0, **shared: Any) -> None:
        super().__init__(dimensions=narrow, **shared)
        found, _ = np.linalg.qr(np.random.default_rng(turn).standard_normal((dimensions, narrow)))
        self._turn = found.T.astype(np.float32)
        self.dimensions = dimensions

    def embed(self, texts: Sequence[str], role: Role) -> Embedded:
        narrow, self.dimensions = self._turn.shape[0], self._turn.shape[0]
        try:
            answer = super().embed(texts, role)
        finally:
            self.dimensions = self._turn.shape[1]
        assert answer.vectors.shape[1] == narrow
        return Embedded(answer.vectors @ self._turn, answer.rejected)


def asked_texts(calls_file: Path) -> list[str]:
    """The texts of a `calls_file`, in the order asked; none when nothing was asked."""
    return calls_file.read_text(encoding="utf-8").splitlines() if calls_file.exists() else []


def _share(word: str) -> float:
    """A number in [0, 1) decided by the word alone."""
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:4]) / 2**32


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Append whole lines to a file that several processes write; the lines of one call stay together."""
    # One write with O_APPEND: lines of several processes never mix.
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, "".join(f"{line}\n" for line in lines).encode())
    finally:
        os.close(file)
