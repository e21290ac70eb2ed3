"""What `status` knows of one version, and what the next command is chosen by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from embed_pipeline.accounts.terms import Kind as Work
from embed_pipeline.catalog.route import Kind
from embed_pipeline.catalog.serving import RolledBack
from embed_pipeline.catalog.states import State
from embed_pipeline.embedders.metering import Spent


@dataclass(frozen=True)
class GateState:
    """The latest evidence about a version. `stale` says why it describes the past; only asked for what could be cut over to."""

    outcome: str
    sentence: str
    at: datetime
    stale: str | None = None
    queries_needed: int | None = None
    """Of an undecided one: how many queries would probably decide."""
    evidence: int = 0
    """The id of the row that is kept of it."""


@dataclass(frozen=True)
class VersionStatus:
    """One version. `state` is `declared` until its backfill begins; `stored` counts documents that have vectors."""

    name: str
    state: State | Literal["declared"]
    model: str
    dimensions: int
    since: datetime | None = None
    seconds: float = 0.0
    fingerprint: str = ""
    is_declared: bool = True
    partitions: int = 0
    partitions_done: int = 0
    stored: int = 0
    pending: int = 0
    oldest_pending_seconds: float = 0.0
    dead_letters: int = 0
    first_dead_letters: tuple[str, ...] = ()
    ann_index: Literal["valid", "invalid", "missing", "none"] = "none"
    ann_index_bytes: int = 0
    bytes: int = 0
    dropped: bool = False
    gone: str = ""
    """Why it has no vectors (somebody has dropped, emptied or changed them) and what to do; empty while it has."""
    untold: str = ""
    """What does not tell readers of the store's own alias that it serves; empty while it does, and of any other version."""
    another: str = ""
    """Whose its vectors are, where they are not this ledger's, and what to do; nothing of theirs is counted then."""
    unasked: str = ""
    """Why its store could not be asked, and what to do; nothing of it is known then."""
    gate: GateState | None = None
    refine_gate: GateState | None = None
    """The latest evidence that it may refine what serves, as far as it is filled."""
    bridge_gate: GateState | None = None
    """The latest evidence that its queries may be mapped into what serves."""
    ever_passed: bool = False
    """Whether a gate has ever let it serve by itself."""
    rolled_back: Mapping[Kind, RolledBack] = field(default_factory=dict)
    """By kind of route: the rollback that took it off that, while it is still the last word about it."""
    coverage: float | None = None
    """The share of the documents that a search by it can find; None where that is not known."""
    missing: int = 0
    """Of a filled one: documents without a vector that neither a change that waits nor a dead letter explains."""
    model_changed: datetime | None = None
    """Since when its provider's model is known to be another one behind the same name."""
    chunker: str = ""
    spent: Mapping[Work, Spent] = field(default_factory=dict)
    """What its provider was asked and paid for, by kind of work, in all runs and processes; empty where nobody is paid."""

    @property
    def is_live(self) -> bool:
        return self.state not in ("declared", "retired")

    @property
    def is_untouched(self) -> bool:
        """Nothing of it is there: declared, or registered by the way with another one's backfill."""
        return self.state == "declared" or (self.state == "building" and not self.partitions_done and not self.stored)

    @property
    def is_filled(self) -> bool:
        """Every key range was filled and compared: what lacks a vector from here on is a change, or a lack."""
        return self.partitions > 0 and self.partitions_done == self.partitions

    def against(self, documents: int) -> VersionStatus:
        """The same, with its coverage of so many documents: a count of rows, not the comparison that `verify` makes."""
        if not self.is_live or self.unasked or self.another:
            return self
        found = 1.0 if documents == 0 else min(self.stored / documents, 1.0)
        lacking = documents - self.stored - self.dead_letters - self.pending if self.is_filled and not self.gone else 0
        return replace(self, coverage=found, missing=max(lacking, 0))
