"""One index, whole: the attributes of `defs.yaml`."""

from __future__ import annotations

from pydantic import Field, model_validator

from embed_pipeline.errors import ConfigurationError
from embed_pipeline.spec.accounts import AccountSpec, BudgetSpec, ModelCheckSpec, PriceSpec
from embed_pipeline.spec.base import Declared, Name
from embed_pipeline.spec.places import DocumentsSpec, PgvectorServerSpec, PgvectorSpec
from embed_pipeline.spec.rules import (
    AdapterSpec,
    BackfillSpec,
    ChecksSpec,
    DoctorSpec,
    GateSpec,
    HoldoutSpec,
    ReconcileSpec,
    RetireSpec,
    ThrottleSpec,
    WatchSpec,
    WhileBuildingSpec,
)
from embed_pipeline.spec.stores import AnyStore
from embed_pipeline.spec.version import VersionSpec


class IndexSpec(Declared):
    """One logical search index. The attribute names are the contract of `defs.yaml`."""

    name: Name
    database_url: str | None = Field(
        None, repr=False, description="absent: the embedded PostgreSQL; embedded:NAME: another database there"
    )
    documents: DocumentsSpec | None = Field(
        None, description="absent: public.<name> (id, title, text, metadata), made on first use"
    )
    store: AnyStore = PgvectorSpec()
    pgvector: PgvectorServerSpec = PgvectorServerSpec()
    partitions: int = Field(64, ge=1, le=10_000)
    versions: dict[Name, VersionSpec] = Field(min_length=1)
    accounts: dict[Name, AccountSpec] = Field(default_factory=dict, description="accounts with providers, by name")
    prices: dict[str, PriceSpec] = Field(default_factory=dict, description="by model name; absent: the packaged price table")
    budget: BudgetSpec | None = None
    model_check: ModelCheckSpec = ModelCheckSpec()
    holdout: HoldoutSpec | None = None
    gate: GateSpec = GateSpec()
    while_building: WhileBuildingSpec = WhileBuildingSpec()
    adapter: AdapterSpec = AdapterSpec()
    backfill: BackfillSpec = BackfillSpec()
    reconcile: ReconcileSpec = ReconcileSpec()
    checks: ChecksSpec = ChecksSpec()
    doctor: DoctorSpec = DoctorSpec()
    throttle: ThrottleSpec = ThrottleSpec()
    retire: RetireSpec = RetireSpec()
    watch: WatchSpec | None = None

    @model_validator(mode="after")
    def _store_takes_every_version(self) -> IndexSpec:
        for name, version in self.versions.items():
            self.store.require(name, version)
            if version.is_retired and name not in self.store.adopted():
                raise ValueError(
                    f"versions.{name}.provider: retired is for a version whose vectors are there, which store.adopt names"
                )
        return self

    @property
    def asks_providers(self) -> bool:
        """Whether a version's model is a provider's, which may change it behind its name."""
        return any(version.is_remote for version in self.versions.values())

    @property
    def may_refine(self) -> list[str]:
        """The versions that may put in order what is found in another one: all but the first, where that is declared."""
        return list(self.versions)[1:] if self.while_building.refine else []

    @property
    def makes_table(self) -> bool:
        """Whether the documents table is this package's own."""
        return self.documents is None or not self.documents.table

    def source(self) -> DocumentsSpec:
        """The declared documents table, or the one that this package makes itself."""
        if self.documents is not None and not self.makes_table:
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
