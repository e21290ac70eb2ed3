"""The documents table, and the stores of the vectors that come with this package, as declared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from embed_pipeline.spec.base import Columns, Declared, IndexKind, OptionalColumns, PayloadColumns, plain_url
from embed_pipeline.spec.collection_config import OF_A_COLLECTION, collection_config
from embed_pipeline.spec.frozen import Fate
from embed_pipeline.spec.stores import AdoptCollectionSpec, AdoptSpec, StoreSpec
from embed_pipeline.spec.version import VersionSpec


class DocumentsSpec(Declared):
    """The user's own table: where it is, what identifies a row, which columns are the text, in order. With `asset` alone the table is the one
    that this package makes."""

    table: str = Field("", description="schema.table of the documents; the schema defaults to public")
    key: OptionalColumns = Field([], description="key column, or columns of a composite key; must be unique and not null")
    text: OptionalColumns = Field([], description="text columns in the order in which they are joined")
    asset: str | None = Field(
        None,
        pattern=r"^[^/\s]+(/[^/\s]+)*$",
        description="key of the Dagster asset that makes the documents, warehouse/articles; absent: NAME/documents",
    )
    payload: PayloadColumns = Field(
        default_factory=list, description="columns that a store outside PostgreSQL keeps beside each vector, to filter by"
    )
    payload_object: str | None = Field(None, description="a jsonb column whose keys are kept beside each vector like payload")
    payload_indexes: dict[str, IndexKind] = Field(
        default_factory=dict,
        description="payload fields to index in Qdrant, by what searches filter by; of columns: payload itself",
    )

    @model_validator(mode="before")
    @classmethod
    def _indexes_stand_beside_their_columns(cls, declared: Any) -> Any:
        """`payload: [{column: category, index: keyword}]`: the column, and its index among the others."""
        payload = declared.get("payload") if isinstance(declared, Mapping) else None
        if not isinstance(payload, list) or not any(isinstance(each, Mapping) for each in payload):
            return declared
        indexes = dict(declared.get("payload_indexes") or {})
        columns: list[Any] = []
        for each in payload:
            if isinstance(each, Mapping):
                if set(each) - {"column", "index"} or "column" not in each:
                    raise ValueError(f"a payload column is a name, or {{column: NAME, index: KIND}}, not {dict(each)}")
                if each.get("index") is not None:
                    indexes[each["column"]] = each["index"]
                columns.append(each["column"])
            else:
                columns.append(each)
        return {**declared, "payload": columns, "payload_indexes": indexes}

    @model_validator(mode="after")
    def _is_a_table_or_an_asset(self) -> DocumentsSpec:
        missing = [name for name in ("table", "key", "text") if not getattr(self, name)]
        if missing and not (len(missing) == 3 and self.asset is not None):
            raise ValueError(f"needs {' and '.join(missing)}, or nothing but the asset that makes the documents")
        if missing and (self.payload or self.payload_object is not None or self.payload_indexes):
            raise ValueError("payload is of a table of your own; the one that is made on first use keeps its metadata")
        return self

    @model_validator(mode="after")
    def _indexes_are_of_the_payload(self) -> DocumentsSpec:
        unknown = sorted(set(self.payload_indexes) - set(self.payload))
        if unknown and self.payload_object is None:
            raise ValueError(f"documents.payload_indexes: {unknown[0]} is no column of documents.payload")
        return self


class PgvectorServerSpec(Declared):
    """What is declared about the server's pgvector itself, wherever the vectors are: the catalog needs it too."""

    accept: str | None = Field(
        None,
        pattern=r"^\d+\.\d+(\.\d+)?$",
        description="oldest pgvector to live with, 0.8.0 at least, where the server's cannot be replaced; absent: 0.8.4",
    )

    @field_validator("accept")
    @classmethod
    def _scans_iteratively(cls, accept: str | None) -> str | None:
        if accept is not None and tuple(map(int, accept.split("."))) < (0, 8):
            raise ValueError(f"pgvector {accept} cannot be accepted: before 0.8.0 it cannot scan an HNSW index iteratively")
        return accept


class AdoptVectorsSpec(AdoptSpec):
    """Vectors in a column of the documents table, or of a table beside it."""

    column: str | None = Field(None, min_length=1, description="the vector column; absent: the only one of the table")
    table: str | None = Field(None, description="schema.table of the vectors; absent: the documents table")
    key: Columns | None = Field(
        None, description="columns of `table` that name the document, in the order of documents.key; absent: the same names"
    )
    chunk: str | None = Field(
        None, min_length=1, description="column of `table` that numbers the passages of a document, in order"
    )
    text: str | None = Field(None, min_length=1, description="column of `table` with the text that a vector was made of")
    min_agreement: float = Field(0.98, gt=0, le=1, description="share of the sample that has to agree with the declared model")

    @model_validator(mode="after")
    def _columns_are_of_a_table(self) -> AdoptVectorsSpec:
        given = [name for name in ("key", "chunk", "text") if getattr(self, name) is not None]
        if given and self.table is None:
            raise ValueError(f"store.adopt.{given[0]}: a column of store.adopt.table, which is not declared")
        if self.chunk is not None and self.text is None:
            raise ValueError("store.adopt.text: which passage a vector is of is told by its text; name the column")
        return self


class PgvectorSpec(StoreSpec):
    """Vectors in tables of the same database. Searches filter by the documents' own columns."""

    # An HNSW index takes up to 2,000 dimensions for vector and 4,000 for halfvec (pgvector's README, "Reference").
    max_dimensions: ClassVar[Mapping[str, int]] = {"vector": 2_000, "halfvec": 4_000}
    fates: ClassVar[Mapping[str, Fate]] = {"kind": "frozen", "adopt": "frozen"}

    kind: Literal["pgvector"] = "pgvector"
    adopt: AdoptVectorsSpec | None = None

    def facts(self, index: str) -> dict[str, Any]:
        """What is adopted is compared by itself: it may change when its version is retired."""
        return self.model_dump(mode="json", exclude={"adopt"})

    def adopted(self) -> Mapping[str, AdoptSpec]:
        return {} if self.adopt is None else {self.adopt.version: self.adopt}


class QdrantSpec(StoreSpec):
    """Vectors in Qdrant, each point one document with its provenance in the payload. PostgreSQL stays ledger and control plane."""

    # What the server accepts as the size of a vector (Qdrant's API, VectorParams), whatever its datatype.
    max_dimensions: ClassVar[Mapping[str, int]] = {"vector": 65_536, "halfvec": 65_536}
    carries_payload: ClassVar[bool] = True
    takes_store_config: ClassVar[bool] = True
    # The server may move, and so may limits and timeouts. What was adopted stays while its version lives.
    fates: ClassVar[Mapping[str, Fate]] = {
        "kind": "frozen",
        "url": "free",
        "path": "free",
        "layout": "frozen",
        "collection": "frozen",
        "api_key_env": "free",
        "timeout_seconds": "free",
        "max_update_queue": "free",
        "max_queued_points": "free",
        "max_yellow_seconds": "free",
        "collection_config": "free",
        "adopt": "frozen",
    }

    kind: Literal["qdrant"]
    url: str | None = Field(None, description="the server; absent: local mode, in this process and without an ANN index")
    path: Path | None = Field(None, description="folder of local mode; absent: in the package's own folder")
    layout: Literal["collections", "named_vectors"] = Field(
        "collections", description="a collection for each version behind an alias, or one collection with a named vector for each"
    )
    collection: str | None = Field(
        None, min_length=1, description="the alias, or the one collection of named_vectors; absent: the index's name"
    )
    api_key_env: str = Field("QDRANT_API_KEY", min_length=1, description="environment variable that holds the API key")
    timeout_seconds: float = Field(30.0, gt=0, description="of one request")
    max_update_queue: int = Field(50, ge=0, description="updates that a shard may have left to do, above which backfills wait")
    max_queued_points: int = Field(200_000, ge=0, description="points that wait for the optimizer, above which backfills wait")
    max_yellow_seconds: float = Field(60.0, ge=0, description="time a collection may be yellow before backfills wait")
    collection_config: dict[str, Any] = Field(
        default_factory=dict,
        description="how new collections are made, in the words of Qdrant's API; absent: like the one that serves",
    )
    adopt: AdoptCollectionSpec | None = None

    @field_validator("url")
    @classmethod
    def _holds_no_secret(cls, url: str | None) -> str | None:
        return None if url is None else plain_url(url, "put the key in store.api_key_env's variable")

    @field_validator("collection_config", mode="before")
    @classmethod
    def _is_qdrants(cls, declared: Any) -> dict[str, Any]:
        return collection_config(declared)

    @model_validator(mode="after")
    def _is_in_one_place(self) -> QdrantSpec:
        if self.url is not None and self.path is not None:
            raise ValueError("url and path are both given: a server has no folder here; drop one of them")
        return self

    @property
    def is_one_process(self) -> bool:
        """Local mode's folder."""
        return self.url is None

    def place(self, index: str) -> str:
        """The server may move, and so may limits and timeouts."""
        return f"{self.kind}, layout {self.layout}, collection {self.collection or index}"

    def facts(self, index: str) -> dict[str, Any]:
        """What is adopted is compared by itself: it may change when its version is retired."""
        return self.model_dump(mode="json", exclude={"adopt"}) | {"collection": self.collection or index}

    def adopted(self) -> Mapping[str, AdoptSpec]:
        return {} if self.adopt is None else {self.adopt.version: self.adopt}

    def text_field(self) -> str | None:
        return None if self.adopt is None else self.adopt.text

    def anchored(self, folder: Path) -> Self:
        return self if self.path is None else self.model_copy(update={"path": (folder / self.path).resolve()})

    def require(self, name: str, version: VersionSpec) -> None:
        super().require(name, version)
        of_all = [each for each in OF_A_COLLECTION if each in version.store_config]
        if of_all and self.layout == "named_vectors":
            raise ValueError(
                f"versions.{name}.store_config.{of_all[0]}: of the whole collection, which all versions share in named_vectors; "
                "declare it in store.collection_config"
            )
