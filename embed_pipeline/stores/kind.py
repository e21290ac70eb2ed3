"""What a kind of store declares of itself in its own folder, and how it is found by the kind's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, TypeVar

from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents.source import Source
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.spec import KINDS, DocumentsSpec, StoreSpec, VersionSpec, declaration_of
from embed_pipeline.stores.protocol import VersionStore

Spec = TypeVar("Spec", bound=StoreSpec)


@dataclass(frozen=True)
class Disk:
    """Estimated bytes of a version."""

    vectors: int
    documents: int
    ann_index: int
    basis: str
    """What the estimate is made from."""
    quantized: int = 0
    """Of the vectors once more, in fewer bits."""

    @property
    def total(self) -> int:
        return self.vectors + self.documents + self.ann_index + self.quantized


def _nothing_to_say(store: StoreSpec, source: DocumentsSpec, name: str, version: VersionSpec) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class StoreKind(Generic[Spec]):
    """One kind of store."""

    spec: type[Spec]
    """The model of what is declared of it."""
    load: Callable[[], Callable[[Version, Source, Spec], VersionStore]]
    """Imports the store, and gives what opens it for a version: a client takes seconds to import."""
    disk: Callable[[Spec, int, VersionSpec, float], Disk]
    """Bytes that a version will take where its vectors live, of so many documents with so many passages each."""
    ann_locks: str
    """What building the ANN index locks in PostgreSQL, in words."""
    made: Callable[[Spec, DocumentsSpec, str, VersionSpec], tuple[str, ...]] = _nothing_to_say
    """How the place of the vectors of a version of this name will be made, in words, where there is something to say of it."""
    in_tables: bool = False
    """Whether a version's vectors are in its own table of the ledger's database, with the columns of the view embed_pipeline.provenance."""


def kind_of(store: StoreSpec) -> StoreKind[Any]:
    """The kind of a declared store. Raises ConfigurationError where no kind has this name, or its module declares none."""
    return kind_named(store.kind)


def kind_named(name: str) -> StoreKind[Any]:
    """The same by its name, as the catalog keeps it."""
    declaration_of(name)
    found = import_module(KINDS[name]).KIND
    if not isinstance(found, StoreKind):
        raise ConfigurationError(
            f"KIND of the module {KINDS[name]} is no StoreKind.",
            next_step=f"Declare it there: KIND = StoreKind(...), or take {name!r} out of KINDS.",
        )
    return found
