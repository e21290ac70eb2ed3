"""What a user declares: one index, its documents, its store, its embedding versions, its gate.

These models are the contract of `defs.yaml` and the only place where pydantic is used. Everything below them takes plain values.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, field_validator, model_validator

from embed_pipeline.errors import ConfigurationError

# Index and version names become parts of table names, Dagster asset keys and job names; 24 + 24 leaves room in 63 bytes.
NAME_PATTERN = r"^[a-z][a-z0-9_]{0,23}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]

# Fields of a version that steer speed or the index, or say where a file is, and leave every vector as it is.
NOT_IDENTITY = frozenset(
    {
        "account",
        "base_url",
        "batch_size",
        "hnsw",
        "max_in_flight",
        "model_path",
        "model_sha256",
        "send_dimensions",
        "tokenizer_path",
        "tokenizer_sha256",
    }
)
# Fields that came later: a version that does not declare one keeps the fingerprint that it had before there was one.
LATER = ("chunker", "document_input_type", "query_input_type")

# Providers that are asked over the network, by the official library of each.
REMOTE = ("openai", "cohere", "voyage")


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Columns = Annotated[list[str], BeforeValidator(_as_list), Field(min_length=1)]
# A function of PostgreSQL takes at most 100 arguments, and a payload column is two of jsonb_build_object.
PayloadColumns = Annotated[list[str], BeforeValidator(_as_list), Field(max_length=50)]


def _plain_url(url: str, instead: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    if "@" in url or "?" in url:
        raise ValueError(f"must hold no user, password or key: the catalog keeps it; {instead}")
    return url.rstrip("/")


class Declared(BaseModel):
    """Base of every declared model: unknown attributes are refused, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class DocumentsSpec(Declared):
    """The user's own table: where it is, what identifies a row, which columns are the text, in order."""

    table: str = Field(description="schema.table of the documents; the schema defaults to public")
    key: Columns = Field(description="key column, or columns of a composite key; must be unique and not null")
    text: Columns = Field(description="text columns in the order in which they are joined")
    payload: PayloadColumns = Field(
        default_factory=list, description="columns that a store outside PostgreSQL keeps beside each vector, to filter by"
    )
    payload_object: str | None = Field(None, description="a jsonb column whose keys are kept beside each vector like payload")


class PgvectorSpec(Declared):
    """Vectors in tables of the same database. Searches filter by the documents' own columns."""

    # An HNSW index takes up to 2,000 dimensions for vector and 4,000 for halfvec (pgvector's README, "Reference").
    max_dimensions: ClassVar[Mapping[str, int]] = {"vector": 2_000, "halfvec": 4_000}
    carries_payload: ClassVar[bool] = False

    kind: Literal["pgvector"] = "pgvector"

    def place(self, index: str) -> str:
        """What may not change while the index lives, in words: another place would leave every stored vector behind."""
        return self.kind

    def adopted(self) -> Mapping[str, AdoptSpec]:
        """Versions whose vectors were there before, by name: none."""
        return {}

    def text_field(self) -> str | None:
        """Payload field that repeats the document's text: none."""
        return None

    def anchored(self, folder: Path) -> PgvectorSpec:
        """Relative paths made absolute from `folder`: there are none."""
        return self


class AdoptSpec(Declared):
    """A collection that was there before: it becomes a version as it is, and nothing is embedded again."""

    version: Name
    collection: str = Field(min_length=1)
    vector: str = Field("", description="name of the vector; empty: the collection's unnamed one")
    text: str = Field(min_length=1, description="payload field that holds the document's text")


class QdrantSpec(Declared):
    """Vectors in Qdrant, each point one document with its provenance in the payload. PostgreSQL stays ledger and control plane."""

    # What the server accepts as the size of a vector (Qdrant's API, VectorParams), whatever its datatype.
    max_dimensions: ClassVar[Mapping[str, int]] = {"vector": 65_536, "halfvec": 65_536}
    carries_payload: ClassVar[bool] = True

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
    adopt: AdoptSpec | None = None

    @field_validator("url")
    @classmethod
    def _holds_no_secret(cls, url: str | None) -> str | None:
        return None if url is None else _plain_url(url, "put the key in store.api_key_env's variable")

    @model_validator(mode="after")
    def _is_in_one_place(self) -> QdrantSpec:
        if self.url is not None and self.path is not None:
            raise ValueError("url and path are both given: a server has no folder here; drop one of them")
        return self

    def place(self, index: str) -> str:
        """What may not change while the index lives, in words. The server may move, and so may limits and timeouts."""
        return f"{self.kind}, layout {self.layout}, collection {self.collection or index}"

    def adopted(self) -> Mapping[str, AdoptSpec]:
        """Versions whose vectors were there before, by name."""
        return {} if self.adopt is None else {self.adopt.version: self.adopt}

    def text_field(self) -> str | None:
        """Payload field that repeats the document's text, in the points of every version: readers of an adopted collection know it."""
        return None if self.adopt is None else self.adopt.text

    def anchored(self, folder: Path) -> QdrantSpec:
        """Relative paths made absolute from `folder`."""
        return self if self.path is None else self.model_copy(update={"path": (folder / self.path).resolve()})


def _with_kind(value: Any) -> Any:
    return {"kind": "pgvector"} | value if isinstance(value, dict) else value


StoreSpec = Annotated[PgvectorSpec | QdrantSpec, Field(discriminator="kind"), BeforeValidator(_with_kind)]
"""Where vectors live: one kind of store and what it needs."""

_STORE: TypeAdapter[PgvectorSpec | QdrantSpec] = TypeAdapter(StoreSpec)


def read_store(kept: Any) -> PgvectorSpec | QdrantSpec:
    """The store as the catalog keeps it (`model_dump(mode="json")`)."""
    return _STORE.validate_python(kept)


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

    provider: str = Field(description="openai, cohere, voyage, onnx, or package.module:Class for an embedder of your own")
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
        elif not self.is_remote and ":" not in self.provider:
            raise ValueError(
                f"unknown provider {self.provider!r}: use {', '.join(REMOTE)}, onnx, or package.module:Class for your own"
            )
        if not self.is_remote:
            only = ("account", "base_url", "document_input_type", "query_input_type", "send_dimensions")
            given = [name for name in only if getattr(self, name) is not None]
            if given:
                raise ValueError(f"{', '.join(given)}: only for the providers {', '.join(REMOTE)}, not for {self.provider}")
        return self

    @field_validator("base_url")
    @classmethod
    def _base_url_holds_no_secret(cls, url: str | None) -> str | None:
        return None if url is None else _plain_url(url, "put the key in the variable that accounts.NAME.api_key_env names")

    @property
    def is_remote(self) -> bool:
        """Whether a provider is asked over the network, with an account, its limits and its bill."""
        return self.provider in REMOTE

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


class AccountSpec(Declared):
    """An account with a provider: where its key is, and what it may ask for. Limits hold for all processes of a database together."""

    api_key_env: str | None = Field(
        None,
        min_length=1,
        description="environment variable that holds the key; absent: the one that the provider's library reads",
    )
    requests_per_minute: int | None = Field(None, ge=1, description="absent: what the provider's answers say")
    tokens_per_minute: int | None = Field(None, ge=1, description="absent: what the provider's answers say")
    timeout_seconds: float = Field(60.0, gt=0, description="of one request")
    max_tries: int = Field(6, ge=1, le=100, description="of one request that fails in a way that may pass; then the run stops")


class PriceSpec(Declared):
    """What a model costs, where the packaged price table is wrong or does not know it."""

    usd_per_million_tokens: float = Field(ge=0)
    batch_usd_per_million_tokens: float | None = Field(None, ge=0, description="absent: batch mode costs the same")


class BudgetSpec(Declared):
    """What may be spent on one version before its backfill stops. What serves is never stopped for money."""

    usd_per_version: float = Field(gt=0)


class ModelCheckSpec(Declared):
    """When a stored sample is embedded again, to see whether a provider still answers with the same model."""

    schedule: str = Field("41 4 * * *", description="cron, UTC; it embeds 16 short texts for each version of a provider")
    min_cosine: float = Field(0.995, gt=0, le=1, description="the least cosine between a stored vector and the one of today")


class HoldoutSpec(Declared):
    """Queries with graded judgements, never used to fit or tune anything."""

    path: Path


class GateSpec(Declared):
    """When a version may serve: non-inferiority of `metric` by `margin` at `confidence`, on at least `min_queries` queries."""

    metric: str = "recall@10"
    margin: float = Field(0.02, gt=0, lt=1)
    confidence: float = Field(0.95, gt=0.5, lt=1)
    min_queries: int = Field(100, ge=2)
    max_dead_letters: int = Field(0, ge=0)
    floor: float | None = Field(None, ge=0, le=1, description="absolute floor of the metric, also for the first version")
    min_ann_recall: float = Field(0.95, ge=0, le=1, description="ANN index against exact search, same model")
    max_age_seconds: int = Field(86_400, ge=1, description="evidence older than this is stale")
    max_row_change: float = Field(0.05, ge=0, le=1, description="share by which the row count may move before evidence is stale")


class BackfillSpec(Declared):
    """How history is filled."""

    mode: Literal["online", "batch"] = Field(
        "online", description="batch: through the provider's batch interface, at its price, within a day"
    )
    schedule: str = Field(
        "*/15 1-4 * * *", description="cron of the ticks in the off-peak window, UTC; each fills the next partitions"
    )
    partitions_per_run: int = Field(4, ge=1)
    write_batch: int = Field(3_000, ge=1, le=50_000, description="documents per write transaction at most")


class ReconcileSpec(Declared):
    """When every document is compared with every vector, whatever change capture has seen."""

    schedule: str = Field("17 5 * * *", description="cron of the full comparison, UTC; it reads the whole documents table")


class ThrottleSpec(Declared):
    """When a backfill must wait, or stop, for the sake of the server. Nothing that is not declared is looked at."""

    standbys: list[str] = Field(
        default_factory=list,
        description="application_name of every standby that must keep up; empty declares that there is none to wait for",
    )
    max_lag_bytes: int = Field(64 * 2**20, ge=0, description="WAL that a standby may have left to replay")
    max_lag_seconds: float = Field(1.0, gt=0, description="time a standby may be behind while it has something to replay")
    max_reply_age_seconds: float = Field(
        20.0, gt=0, description="a standby that was silent for longer is unknown; twice its wal_receiver_status_interval"
    )
    slots: list[str] = Field(
        default_factory=list, description="replication slots whose retained WAL is watched, logical ones too"
    )
    max_slot_bytes: int = Field(2**30, ge=0, description="retained WAL of a slot above which backfills wait")
    stop_slot_bytes: int = Field(8 * 2**30, ge=0, description="retained WAL of a slot above which backfills stop")
    max_wal_bytes_per_second: int | None = Field(
        None, ge=1, description="WAL that the whole server may write, the backfill included"
    )
    wait_for_autovacuum: bool = Field(
        False, description="wait while the documents table or a table of the version is vacuumed; this can take hours"
    )
    max_active_backends: int | None = Field(
        None, ge=0, description="other sessions of this database at work, above which backfills wait"
    )
    max_write_seconds: float | None = Field(
        5.0, gt=0, description="after a write batch that took longer, wait as long as it took, 30 s at most"
    )
    check_seconds: float = Field(0.5, ge=0.1, le=60, description="at most one reading of the server in this time")
    stale_after_seconds: float = Field(5.0, gt=0, description="an older reading is unknown, and unknown means wait")

    @model_validator(mode="after")
    def _limits_agree(self) -> ThrottleSpec:
        if self.stop_slot_bytes < self.max_slot_bytes:
            raise ValueError("throttle.stop_slot_bytes is below throttle.max_slot_bytes: it would stop before it waits")
        if self.stale_after_seconds <= self.check_seconds:
            raise ValueError("throttle.stale_after_seconds must be longer than throttle.check_seconds")
        return self

    @property
    def watches_server(self) -> bool:
        """Whether anything of the server has to be read at all."""
        limits = (self.max_wal_bytes_per_second, self.max_active_backends)
        return bool(self.standbys or self.slots or self.wait_for_autovacuum) or any(limit is not None for limit in limits)


class RetireSpec(Declared):
    """What must have passed before a version's vectors may go."""

    soak_seconds: int = Field(86_400, ge=0, description="time the version must have been standby")
    unread_seconds: int = Field(3_600, ge=0, description="time without any read of it")


class IndexSpec(Declared):
    """One logical search index. The attribute names are the contract of `defs.yaml`."""

    name: Name
    database_url: str | None = Field(
        None, repr=False, description="absent: the embedded PostgreSQL; embedded:NAME: another database there"
    )
    documents: DocumentsSpec | None = Field(
        None, description="absent: public.<name> (id, title, text, metadata), made on first use"
    )
    store: StoreSpec = PgvectorSpec()
    partitions: int = Field(64, ge=1, le=10_000)
    versions: dict[Name, VersionSpec] = Field(min_length=1)
    accounts: dict[Name, AccountSpec] = Field(default_factory=dict, description="accounts with providers, by name")
    prices: dict[str, PriceSpec] = Field(default_factory=dict, description="by model name; absent: the packaged price table")
    budget: BudgetSpec | None = None
    model_check: ModelCheckSpec = ModelCheckSpec()
    holdout: HoldoutSpec | None = None
    gate: GateSpec = GateSpec()
    backfill: BackfillSpec = BackfillSpec()
    reconcile: ReconcileSpec = ReconcileSpec()
    throttle: ThrottleSpec = ThrottleSpec()
    retire: RetireSpec = RetireSpec()

    @model_validator(mode="after")
    def _store_takes_every_version(self) -> IndexSpec:
        kind = self.store.kind
        for name, version in self.versions.items():
            limit = self.store.max_dimensions[version.precision]
            if version.dimensions > limit:
                raise ValueError(
                    f"versions.{name}.dimensions: an index over {version.precision} in {kind} takes at most {limit} dimensions, "
                    f"not {version.dimensions}"
                )
        return self

    @property
    def asks_providers(self) -> bool:
        """Whether a version's model is a provider's, which may change it behind its name."""
        return any(version.is_remote for version in self.versions.values())

    def source(self) -> DocumentsSpec:
        """The declared documents table, or the one that this package makes itself."""
        if self.documents is not None:
            return self.documents
        own = DocumentsSpec(table=f"public.{self.name}", key=["id"], text=["title", "text"])
        return own.model_copy(update={"payload_object": "metadata"}) if self.store.carries_payload else own

    def account(self, version: VersionSpec) -> AccountSpec:
        """The account of a version, with its defaults where it is not declared."""
        return self.accounts.get(version.account_name or "", AccountSpec())

    def version(self, name: str) -> VersionSpec:
        """The declared version `name`; ConfigurationError names the declared ones when there is none."""
        try:
            return self.versions[name]
        except KeyError:
            raise ConfigurationError(
                f"Index {self.name!r} declares no version {name!r}; it declares {', '.join(self.versions)}.",
                next_step="Add the version to its defs.yaml, or name one of these.",
            ) from None

    def partition_keys(self) -> list[str]:
        """Static, zero-padded keys of the key-range partitions, in key order."""
        return partition_keys(self.partitions)


def partition_keys(count: int) -> list[str]:
    """`count` zero-padded partition keys: 00, 01, ... wide enough that text order is number order."""
    width = max(2, len(str(count - 1)))
    return [f"{number:0{width}d}" for number in range(count)]


def is_name(value: str) -> bool:
    """Whether `value` may name an index or a version."""
    return re.match(NAME_PATTERN, value) is not None
