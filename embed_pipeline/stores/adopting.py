"""What a store can do besides, where vectors are in the documents' own database: copy them into a version, without any that may be outdated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import psycopg
from numpy.typing import NDArray

from embed_pipeline.catalog.partitions import Fence
from embed_pipeline.documents.ranges import KeyRange
from embed_pipeline.errors import AdoptRefused


class OldVector(NamedTuple):
    """A vector that was there before, and the text that it should be of."""

    doc_id: str
    text: str
    vector: NDArray[Any]


@dataclass(frozen=True)
class Looked:
    """How many documents there are, how many have a vector that can be adopted, and some of these, drawn as good as by chance."""

    documents: int
    usable: int
    chosen: tuple[str, ...]


class Adoption(Protocol):
    """Where the vectors of a version come from: found, looked at and copied. Reads alone until `copy`, and never writes where they are."""

    @property
    def min_agreement(self) -> float:
        """The share of a sample that has to agree with the declared model."""
        ...

    def find(self, conn: psycopg.Connection) -> str:
        """What is adopted, in words. AdoptRefused where it is not there, or is not of the version's kind."""
        ...

    def look(self, conn: psycopg.Connection, size: int) -> Looked:
        """Look at every document, slice by slice, and choose `size` of those with vectors."""
        ...

    def vectors(self, conn: psycopg.Connection, doc_ids: list[str]) -> list[OldVector]:
        """Of these documents, in order."""
        ...

    def refuse_doubted(self, conn: psycopg.Connection) -> None:
        """AdoptRefused where changes may have been missed since the version was registered: then nobody knows which vector is still of its text,
        of those that were copied before now neither."""
        ...

    def is_over(self, conn: psycopg.Connection) -> bool:
        """Whether the version was made again since, and nothing may be copied any more: it is embedded like any other."""
        ...

    def copy(self, conn: psycopg.Connection, part: KeyRange, fence: Fence) -> int:
        """Copy what can be of one slice, in one transaction under the fence; returns how many documents. What is there already is left alone."""
        ...


@runtime_checkable
class CopyingStore(Protocol):
    """A store whose version may be one that is adopted by copying."""

    @property
    def adoption(self) -> Adoption | None:
        """None where the version is not to be adopted."""
        ...


def adoption_of(store: object) -> Adoption | None:
    """How the version of this store is adopted; None where it is embedded like any other, or its vectors stay where they are."""
    return store.adoption if isinstance(store, CopyingStore) else None


def doubted(index: str, version: str) -> AdoptRefused:
    """The refusal to copy what may be outdated."""
    return AdoptRefused(
        f"Changes of the documents of {index} may have been missed since {version} was registered, and so its vectors may be of older texts: "
        "no more of them are copied.",
        next_step=f"Run: embed-pipeline retire {index} {version}; then adopt the vectors under another name, once your own writers are through.",
    )
