"""Pairs to fit a map on: vectors that two versions have of the very same passage, read from their stores. Nothing is embedded."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import psycopg
from numpy.typing import NDArray

from embed_pipeline.documents.drawn import drawn
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.stores.protocol import StoredVectors, VersionStore

# Documents whose vectors are held in memory together.
AT_ONCE = 500
# So many times the documents wanted are drawn: some have another text by now, or other passages, in the other version.
SPARE = 2


@dataclass(frozen=True, eq=False)
class Pairs:
    """Row n of `sources` (the new model's) and of `targets` (the old one's) are of one passage; `documents[n]` counts its document.

    `compared`: documents that both versions had, `same_text` those of them with one hash in both. What is left has the same passages too.
    """

    sources: Vectors
    targets: Vectors
    documents: NDArray[np.int64]
    compared: int
    same_text: int
    sha256: str

    def __len__(self) -> int:
        return len(self.documents)

    def of(self, chosen: NDArray[np.bool_]) -> tuple[Vectors, Vectors]:
        """Sources and targets of the chosen rows."""
        return self.sources[chosen], self.targets[chosen]

    def split(self, held_out: int) -> NDArray[np.bool_]:
        """Rows to be held out: those of the last documents, at least so many rows. No document is on both sides."""
        last = self.documents[max(len(self) - held_out, 0)] if len(self) else 0
        return self.documents >= last


@dataclass
class _Gathered:
    sources: list[Vectors] = field(default_factory=list)
    targets: list[Vectors] = field(default_factory=list)
    documents: list[int] = field(default_factory=list)
    seen: set[tuple[bytes, tuple[int, int] | None]] = field(default_factory=set)
    compared: int = 0
    same_text: int = 0

    def add(self, source: StoredVectors, target: StoredVectors) -> None:
        self.compared += 1
        if source.source_hash != target.source_hash:
            return
        self.same_text += 1
        if source.offsets != target.offsets or len(source.vectors) != len(target.vectors):
            return
        # A text that stands in many documents is one pair: as many it would count as many, and say nothing new.
        passages = source.offsets or (None,) * len(source.vectors)
        new = [n for n, passage in enumerate(passages) if (source.source_hash, passage) not in self.seen]
        self.seen.update((source.source_hash, passages[n]) for n in new)
        if new:
            self.sources.append(source.vectors[new])
            self.targets.append(target.vectors[new])
            self.documents += [self.same_text] * len(new)

    def digest(self) -> str:
        named = sorted(f"{digest.hex()} {passage}" for digest, passage in self.seen)
        return hashlib.sha256("\n".join(named).encode()).hexdigest()


def read(conn: psycopg.Connection, source: VersionStore, target: VersionStore, wanted: int, *, seed: int = 0) -> Pairs:
    """Up to `wanted` pairs (and the rest of the last document's) of documents drawn at random from what both versions have."""
    every = (doc_id for portion in source.stored_ids(conn) for doc_id in portion)
    chance = random.Random(seed)
    ids = drawn(every, SPARE * wanted, chance)
    chance.shuffle(ids)
    return of_documents(conn, source, target, ids, wanted)


def of_documents(
    conn: psycopg.Connection, source: VersionStore, target: VersionStore, doc_ids: Sequence[str], wanted: int
) -> Pairs:
    """The same of these documents, in this order."""
    found = _Gathered()
    for portion in _portions(doc_ids):
        if len(found.documents) >= wanted:
            break
        there = target.stored_vectors(conn, portion)
        here = source.stored_vectors(conn, list(there))
        for doc_id in portion:
            if doc_id in here and doc_id in there and len(found.documents) < wanted:
                found.add(here[doc_id], there[doc_id])
    return Pairs(
        sources=_stacked(found.sources, source.version.dimensions),
        targets=_stacked(found.targets, target.version.dimensions),
        documents=np.asarray(found.documents, dtype=np.int64),
        compared=found.compared,
        same_text=found.same_text,
        sha256=found.digest(),
    )


def _portions(doc_ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(doc_ids), AT_ONCE):
        yield list(doc_ids[start : start + AT_ONCE])


def _stacked(parts: list[Vectors], dimensions: int) -> Vectors:
    return np.concatenate(parts) if parts else np.zeros((0, dimensions), dtype=np.float32)
