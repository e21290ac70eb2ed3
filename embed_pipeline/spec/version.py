"""One embedding version: what decides a vector, and the fingerprint of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from embed_pipeline.spec.base import Declared, Name, plain_url
from embed_pipeline.spec.collection_config import store_config
from embed_pipeline.spec.frozen import VERSION as FATES
from embed_pipeline.spec.frozen import of_fate
from embed_pipeline.spec.providers import PROVIDERS

# Fields of a version that leave every vector as it is: its settings. Of these, the paths of files are true of one machine only.
NOT_IDENTITY = of_fate(FATES, "free", "local")
LOCAL = of_fate(FATES, "local")
# Fields that came later: a version that does not declare one keeps the fingerprint that it had before there was one.
LATER = ("chunker", "document_input_type", "query_input_type")


class HnswSpec(Declared):
    """Parameters of the ANN index. They do not change the space, so they are no part of the fingerprint."""

    m: int = Field(16, ge=2, le=100)
    ef_construction: int = Field(64, ge=4, le=1000)
    ef_search: int = Field(100, ge=1, le=1000)


MOST_CHARACTERS = 100_000


class ChunkerSpec(Declared):
    """How a text is split into the passages that are embedded. Lengths are in characters, not tokens (docs/decisions/0012)."""

    kind: Literal["recursive", "too_long"] = Field(
        "recursive",
        description="too_long: whole but for what is over max_tokens; it comes with `too_long: chunk` and is not declared",
    )
    size: int = Field(ge=1, le=MOST_CHARACTERS, description="characters of a chunk at most")
    overlap: int = Field(0, ge=0, description="characters that a chunk may repeat of the one before, at most")

    @model_validator(mode="after")
    def _overlap_leaves_something_new(self) -> ChunkerSpec:
        if self.overlap >= self.size:
            raise ValueError(
                f"overlap ({self.overlap}) must be smaller than size ({self.size}): each chunk has to bring new text"
            )
        return self

    def __str__(self) -> str:
        if self.kind == "too_long":
            return "whole, or split where it is over max_tokens"
        return f"{self.kind}, {self.size} characters, overlap {self.overlap}"


class VersionSpec(Declared):
    """One embedding version: everything that decides which vector a text gets."""

    provider: str = Field(
        description="openai, cohere, voyage, onnx, package.module:Class for an embedder of your own, or retired"
    )
    model_name: str = Field(min_length=1)
    model_version: str | None = Field(None, description="the provider's revision; for onnx the model file's hash is taken")
    dimensions: int = Field(ge=1, description="how many at most is the store's to say")
    distance: Literal["cosine", "inner_product", "l2"] = "cosine"
    precision: Literal["vector", "halfvec"] = "vector"
    normalize: bool = True
    query_prefix: str = ""
    document_prefix: str = ""
    document_input_type: str | None = Field(
        None, min_length=1, description="what the provider is told that a document is; absent: the provider's own word for it"
    )
    query_input_type: str | None = Field(None, min_length=1, description="the same for a query")
    account: Name | None = Field(
        None, description="the entry of `accounts` that pays and has the limits; absent: the provider's name"
    )
    base_url: str | None = Field(None, description="a server that speaks the provider's protocol; absent: the provider's own")
    api_version: str | None = Field(
        None, min_length=1, description="of Azure's endpoint, whose base_url ends in /openai; model_name is the deployment"
    )
    send_dimensions: bool | None = Field(
        None, description="whether requests name the dimensions; absent: for models that are known to shorten their vectors"
    )
    max_tokens: int | None = Field(None, ge=2, description="absent: what is known of the model (docs/reference/models.md)")
    too_long: Literal["reject", "truncate", "chunk"] = Field(
        "reject",
        description="a text over max_tokens becomes a dead letter, or is cut and counted, or is split into passages; never cut silently",
    )
    pooling: Literal["mean", "cls"] = "mean"
    model_path: str | None = Field(None, description="a file, or package://DISTRIBUTION/FILE of an installed package")
    tokenizer_path: str | None = None
    model_sha256: str | None = None
    tokenizer_sha256: str | None = None
    output: str | None = Field(None, description="name of the ONNX output that holds the token vectors; default: the first")
    chunker: ChunkerSpec | None = Field(None, description="absent: a document is one vector")
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of an embedder of your own")
    batch_size: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="texts per call of the embedder at most; absent: 64, of a provider 128 and never above its limit",
    )
    max_in_flight: int | None = Field(
        None, ge=1, le=512, description="calls of the embedder at once in a backfill; absent: 1, of a provider 32"
    )
    hnsw: HnswSpec = HnswSpec()
    min_score: float | None = Field(
        None,
        description='what a hit has to score for `search(min_score="declared")`: a threshold means something in one space only',
    )
    store_config: dict[str, Any] = Field(
        default_factory=dict,
        description="how Qdrant keeps and searches this version, in the words of its API, over store.collection_config",
    )

    @field_validator("store_config", mode="before")
    @classmethod
    def _store_config_is_qdrants(cls, declared: Any) -> dict[str, Any]:
        return store_config(declared)

    @model_validator(mode="before")
    @classmethod
    def _chunks_what_is_too_long(cls, declared: Any) -> Any:
        # A version that may split a document has a chunker: by that its store gives a document several vectors.
        if isinstance(declared, Mapping) and declared.get("too_long") == "chunk" and declared.get("chunker") is None:
            return {**declared, "chunker": {"kind": "too_long", "size": MOST_CHARACTERS}}
        return declared

    @model_validator(mode="after")
    def _provider_has_what_it_needs(self) -> VersionSpec:
        if self.chunker is not None and self.chunker.kind == "too_long" and self.too_long != "chunk":
            raise ValueError("chunker.kind too_long is what `too_long: chunk` declares; declare that instead")
        if self.provider == "onnx":
            missing = [n for n in ("model_path", "tokenizer_path", "max_tokens") if getattr(self, n) is None]
            if missing:
                raise ValueError(f"provider onnx needs {', '.join(missing)}")
        elif not self.is_remote and not self.is_retired and ":" not in self.provider:
            raise ValueError(
                f"unknown provider {self.provider!r}: use {', '.join(PROVIDERS)}, onnx, or package.module:Class for your own"
            )
        if not self.is_remote:
            only = ("account", "base_url", "document_input_type", "query_input_type", "api_version", "send_dimensions")
            given = [name for name in only if getattr(self, name) is not None]
            if given:
                raise ValueError(f"{', '.join(given)}: only for the providers {', '.join(PROVIDERS)}, not for {self.provider}")
        if self.api_version is not None and (self.provider != "openai" or self.base_url is None):
            raise ValueError(
                "api_version is Azure's: declare it with provider openai and base_url https://RESOURCE.openai.azure.com/openai"
            )
        return self

    @field_validator("base_url")
    @classmethod
    def _base_url_holds_no_secret(cls, url: str | None) -> str | None:
        return None if url is None else plain_url(url, "put the key in the variable that accounts.NAME.api_key_env names")

    @property
    def is_remote(self) -> bool:
        """Whether a provider is asked over the network, with an account, its limits and its bill."""
        return self.provider in PROVIDERS

    @property
    def is_retired(self) -> bool:
        """Whether its model is gone: of an adopted version, whose vectors are there."""
        return self.provider == "retired"

    @property
    def account_name(self) -> str | None:
        """The account that pays for this version; None where nobody is paid."""
        return (self.account or self.provider) if self.is_remote else None

    @property
    def texts_per_call(self) -> int:
        """The declared or default number of texts in one call, before a provider's own limit."""
        return self.batch_size or (128 if self.is_remote else 64)

    @property
    def calls_in_flight(self) -> int:
        """The declared or default number of calls at once."""
        return self.max_in_flight or (32 if self.is_remote else 1)

    def identity(self) -> dict[str, Any]:
        """The fields that decide a vector, as the catalog keeps them: never changed once registered."""
        return self.model_dump(mode="json", exclude=set(NOT_IDENTITY))

    def settings(self) -> dict[str, Any]:
        """Everything else, as the catalog keeps it: what was declared last."""
        return self.model_dump(mode="json", include=set(NOT_IDENTITY))

    def local_paths(self) -> dict[str, str]:
        """Those of the settings that are true of the machine of this declaration only."""
        return self.model_dump(mode="json", include=set(LOCAL), exclude_none=True)

    @classmethod
    def not_identity(cls) -> frozenset[str]:
        """Names of the fields that may change without making a new space."""
        return NOT_IDENTITY

    def fingerprint(self, identity: Mapping[str, str]) -> str:
        """sha256 (hex) over every field that decides a vector and over `identity`, what the embedder adds (file hashes)."""
        absent = {name for name in LATER if getattr(self, name) is None}
        fields = self.model_dump(mode="json", exclude={*NOT_IDENTITY, *absent})
        canonical = json.dumps({"spec": fields, "identity": dict(identity)}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
