"""The kinds of store: the name that a declaration gives, the module that declares the kind, and what every declared store says of itself."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from embed_pipeline.errors import ConfigurationError
from embed_pipeline.spec.base import Declared, Name
from embed_pipeline.spec.frozen import Fate
from embed_pipeline.spec.version import VersionSpec

KINDS: dict[str, str] = {
    "pgvector": "embed_pipeline.stores.pgvector.kind",
    "qdrant": "embed_pipeline.stores.qdrant.kind",
}
"""To add one: its folder, and a line here (CONTRIBUTING.md)."""

DEFAULT_KIND = "pgvector"


class AdoptSpec(Declared):
    """Vectors that were there before: they become a version as they are, and nothing is embedded again. Each kind of store derives its own."""

    version: Name


class AdoptCollectionSpec(AdoptSpec):
    """A collection of Qdrant."""

    collection: str = Field(min_length=1)
    vector: str = Field("", description="name of the vector; empty: the collection's unnamed one")
    text: str = Field(min_length=1, description="payload field that holds the document's text")


class StoreSpec(Declared):
    """Where vectors live: one kind of store and what it needs. Each kind derives its own."""

    # The most dimensions of a vector, by precision.
    max_dimensions: ClassVar[Mapping[str, int]]
    # Whether it keeps a payload beside each vector, which searches filter by.
    carries_payload: ClassVar[bool] = False
    takes_store_config: ClassVar[bool] = False
    # What is frozen of its fields, and what is free: each of them (spec/frozen.py).
    fates: ClassVar[Mapping[str, Fate]]

    kind: str

    @property
    def is_one_process(self) -> bool:
        """Whether one process at a time can open it."""
        return False

    def place(self, index: str) -> str:
        """The fields that may not change while the index lives, in words: another place would leave every stored vector behind."""
        return self.kind

    def facts(self, index: str) -> dict[str, Any]:
        """Its fields as they are compared with what is registered, defaults that depend on the index filled in."""
        return self.model_dump(mode="json")

    def adopted(self) -> Mapping[str, AdoptSpec]:
        """Versions whose vectors were there before, by name."""
        return {}

    def text_field(self) -> str | None:
        """Payload field that repeats the document's text, in the points of every version: readers of an adopted collection know it."""
        return None

    def anchored(self, folder: Path) -> Self:
        """Relative paths made absolute from `folder`."""
        return self

    def require(self, name: str, version: VersionSpec) -> None:
        """ValueError when it cannot hold a version that is declared so."""
        limit = self.max_dimensions[version.precision]
        if version.dimensions > limit:
            raise ValueError(
                f"versions.{name}.dimensions: an index over {version.precision} in {self.kind} takes at most {limit} dimensions, "
                f"not {version.dimensions}"
            )
        if version.store_config and not self.takes_store_config:
            raise ValueError(f"versions.{name}.store_config: a store of kind {self.kind} takes none")


def declaration_of(kind: str) -> type[StoreSpec]:
    """The model of what is declared of a kind. Raises ConfigurationError where none has this name, or where it is half added."""
    module = KINDS.get(kind)
    if module is None:
        raise ConfigurationError(
            f"There is no kind of store {kind!r} in this process; there are {', '.join(KINDS)}.",
            next_step="Use one of these, or import the module that adds it.",
        )
    found = getattr(getattr(import_module(module), "KIND", None), "spec", None)
    if not (isinstance(found, type) and issubclass(found, StoreSpec)):
        raise ConfigurationError(
            f"The module {module} of the kind of store {kind!r} declares no KIND.",
            next_step=f"Declare it there: KIND = StoreKind(...), or take {kind!r} out of KINDS.",
        )
    fields, fates = found.model_fields.keys(), getattr(found, "fates", {}).keys()
    if fields != fates:
        raise ConfigurationError(
            f"{found.__name__} of the kind of store {kind!r} does not say what is frozen of {', '.join(sorted(fields ^ fates))}.",
            next_step=f"Give each field its fate in {found.__name__}.fates.",
        )
    return found


def read_store(kept: Mapping[str, Any]) -> StoreSpec:
    """The store as the catalog keeps it (`model_dump(mode="json")`)."""
    kind = kept.get("kind", DEFAULT_KIND)
    return declaration_of(kind).model_validate({"kind": kind} | dict(kept))


def _declared(value: Any) -> StoreSpec:
    """The store as it is declared. ValueError is pydantic's to report, with its place in the declaration."""
    if isinstance(value, StoreSpec):
        return value
    if not isinstance(value, Mapping):
        raise ValueError("must say which kind of store it is, and what that needs")
    kind = value.get("kind", DEFAULT_KIND)
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"there is no kind of store {kind!r}; use {', '.join(KINDS)}")
    return read_store(value)


class _ByKind:
    """Has pydantic look the kind up when a store is read, and again when the JSON schema is asked for: it lists those there are then."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # `any`: each is written by its own kind's fields, not by those that all kinds share.
        whole = core_schema.simple_ser_schema("any")
        return core_schema.no_info_plain_validator_function(_declared, serialization=whole)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        kinds: dict[Hashable, CoreSchema] = {kind: declaration_of(kind).__pydantic_core_schema__ for kind in KINDS}
        return handler(core_schema.tagged_union_schema(kinds, discriminator="kind"))


AnyStore = Annotated[StoreSpec, _ByKind]
"""A store of whichever kind is declared."""
