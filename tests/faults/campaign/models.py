"""Models whose vectors prove where they come from, and that fail on demand.

Every space has dimensions of its own inside one width, so that the vectors of two spaces are exactly at right angles: a query that meets
another version's vectors has distance 1 to all of them. A query is turned away from its text by an angle of its space: the distance of
a query to its own document tells which model made the two.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from embed_pipeline.embedders.protocol import Embedded, Role, Vectors
from tests.harness.fakes import append_lines, unit_vector

SPACES = 3
BLOCK = 16
DIMENSIONS = SPACES * BLOCK

# Texts that no model of the campaign takes, whenever it is asked: they must become dead letters.
POISON = "poison"

# Faults of a provider, written into the file `faults`, that hold until the file says otherwise.
FAULTS = ("slow", "down", "some", "few", "wide", "nan", "reordered")
SLOW_SECONDS = 0.2
# A provider that fails for some fails for one text in so many.
SOME = 40

# While the provider is this, a text waits, or fails, that says so.
AWKWARD, WAITS, FAILS = "awkward", "this waits:", "this fails:"

# While the provider is this, and the number of a space, the model of that space is another one under the same name.
TURNED = "turned"

# The readers of the campaign are applications: what is done to our workers' provider is not done to theirs.
exempt = False


@dataclass
class Held:
    """A query that stands in its model: it is there, and may go on."""

    there: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)


# Queries of this process that are held, by their text.
held: dict[str, Held] = {}


def document_vector(space: int, text: str) -> Vectors:
    """What the model of `space` answers for a document, as it is stored (unit length)."""
    vector = np.zeros(DIMENSIONS, dtype=np.float32)
    start = space * BLOCK
    # The first dimension of a block is the one that queries are turned to.
    vector[start + 1 : start + BLOCK] = unit_vector(f"{space}\0{text}", BLOCK - 1)
    return vector


def query_vector(space: int, text: str) -> Vectors:
    """The document's vector, turned so that the two are `own_distance(space)` apart."""
    cosine = 1.0 - own_distance(space)
    vector = document_vector(space, text) * np.float32(cosine)
    vector[space * BLOCK] = math.sqrt(1.0 - cosine**2)
    return vector


def own_distance(space: int) -> float:
    """Cosine distance between a text as a query and the same text as a document, in one space: a number for each space."""
    return 0.01 * (space + 1)


def refused(text: str) -> bool:
    """Whether this text can have no vector: blank, or poison."""
    return not text.strip() or POISON in text


class SpaceEmbedder:
    """The model of one space.

    `calls_file`: one JSON line for each text that was asked as a document: the process, the monotonic time, the text.
    `faults_file`: holds one word of FAULTS while the provider misbehaves. `delay`: seconds that every call takes.
    """

    def __init__(
        self, *, dimensions: int, model_name: str, space: int, calls_file: str, faults_file: str, delay: float = 0.0
    ) -> None:
        if dimensions != DIMENSIONS:
            raise ValueError(f"the models of the campaign have {DIMENSIONS} dimensions, not {dimensions}")
        self.space = space
        self.calls_file = Path(calls_file)
        self.faults_file = Path(faults_file)
        self.delay = delay

    def identity(self) -> Mapping[str, str]:
        return {"space": str(self.space)}

    def embed(self, texts: Sequence[str], role: Role) -> Embedded:
        for query in [held[text] for text in texts if role == "query" and text in held]:
            query.there.set()
            assert query.go.wait(60), "a query was held for ever"
        fault = self._fault()
        if fault in ("down", f"down in {self.space}"):
            raise RuntimeError("the provider is down")
        if role == "document":
            now = time.monotonic()
            append_lines(self.calls_file, [json.dumps([os.getpid(), now, text]) for text in texts])
        if fault == "some" and any(unlucky(text) for text in texts):
            raise RuntimeError("the provider fails for some texts")
        if fault == AWKWARD:
            self._be_awkward(texts)
        time.sleep(SLOW_SECONDS if fault == "slow" else self.delay)
        make = document_vector if role == "document" else query_vector
        seen = f"{TURNED} " if fault == f"{TURNED} {self.space}" else ""
        rejected = {n: "told to refuse it" for n, text in enumerate(texts) if refused(text)}
        vectors = np.array([make(self.space, seen + text) for text in texts], dtype=np.float32).reshape(len(texts), DIMENSIONS)
        return Embedded(_spoiled(vectors, fault), rejected)

    def close(self) -> None:
        """Nothing is held."""

    def _be_awkward(self, texts: Sequence[str]) -> None:
        if any(FAILS in text for text in texts):
            raise RuntimeError("the provider fails for this text")
        while any(WAITS in text for text in texts) and self._fault() == AWKWARD:
            time.sleep(0.005)

    def _fault(self) -> str:
        if exempt:
            return ""
        try:
            return self.faults_file.read_text()
        except FileNotFoundError:
            return ""


def unlucky(text: str) -> bool:
    """Whether a provider that fails for some texts fails for this one."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) % SOME == 0


def _spoiled(vectors: Vectors, fault: str) -> Vectors:
    """A wrong answer of the kind asked for."""
    if fault == "few":
        return vectors[:-1]
    if fault == "wide":
        return np.hstack([vectors, vectors[:, :1]])
    if fault == "nan":
        vectors = vectors.copy()
        vectors[-1, 0] = np.nan
        return vectors
    if fault == "reordered":
        return np.roll(vectors, 1, axis=0)
    return vectors
