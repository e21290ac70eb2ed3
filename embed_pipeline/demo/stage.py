"""The store-specific part of the demo. The story, the traffic and the trap are the same on all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import psycopg

from embed_pipeline.catalog.versions import Version
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.spec import IndexSpec

StageKind = Literal["pgvector", "qdrant"]
LayoutKind = Literal["collections", "named_vectors"]


@dataclass(frozen=True)
class StoredVector:
    """A document's vector as the store holds it now, the space it is labelled with, and when it was made (seconds since 1970)."""

    vector: Vectors
    fingerprint: str
    made_at: float


class Scratch(Protocol):
    """A scratch copy of some vectors, for the trap: made and searched by the store's own means, without this package."""

    def put(self, numbers: Sequence[int], vectors: Vectors) -> None:
        """Write vectors, over those that have the same numbers."""
        ...

    def nearest(self, query: Vectors) -> list[int]:
        """Numbers of the ten nearest, by exact search."""
        ...


class Stage(Protocol):
    """One store under the demo."""

    spec: IndexSpec
    folder: Path
    """Where the demo keeps what it writes; emptied at its beginning."""
    in_one_process: bool
    """Whether everything that touches the vectors has to be in one process: then the traffic is threads."""
    opening: str
    """What to know about this store before anything is shown; empty: nothing."""
    ann_words: str
    """What is true of the ANN index once it is built."""

    def declare(self) -> None:
        """Leave a declaration of the index where the commands of `next_steps` look for it."""
        ...

    def scratch(self, conn: psycopg.Connection) -> Scratch:
        """An empty scratch copy; it goes with the connection or with the process."""
        ...

    def stored(self, conn: psycopg.Connection, version: Version, doc_ids: Sequence[str]) -> dict[str, StoredVector]:
        """What the store holds of these documents in this version's space."""
        ...

    def told(self, index: OpenIndex) -> str:
        """What a client that does not ask the catalog is led to, in one line; empty where there is no such client."""
        ...

    def next_steps(self) -> str:
        """Commands to go on with."""
        ...
