"""What `status` knows of one index, and what of it needs a person."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from embed_pipeline.accounts.terms import AccountState
from embed_pipeline.catalog.control import Control, ThrottleState
from embed_pipeline.catalog.serving import Pointer
from embed_pipeline.report.next_command import Next, Phase
from embed_pipeline.report.running import Running
from embed_pipeline.report.version_status import VersionStatus

Severity = Literal["critical", "warning"]


@dataclass(frozen=True)
class Attention:
    """Something that is wrong and stays so until a person does something. `critical`: an answer may be wrong, or lack documents, now.

    `code` is one word that never changes; `next` the command to type, None where it is an edit or an end to be made elsewhere.
    """

    code: str
    severity: Severity
    sentence: str
    next: str | None
    version: str | None = None


@dataclass(frozen=True)
class Event:
    at: datetime
    version: str | None
    event: str
    from_state: str | None
    to_state: str | None
    actor: str
    reason: str


@dataclass(frozen=True)
class Comparison:
    """The last full comparison of every document with every vector."""

    at: datetime
    sentence: str
    differences: int


@dataclass(frozen=True)
class Watched:
    """What the newest look after a cutover has found. `is_loss`: it is proven that what serves lost; else the look could not tell."""

    sentence: str
    is_loss: bool


@dataclass(frozen=True)
class IndexStatus:
    """Everything that `embed-pipeline status` shows about one index."""

    index: str
    documents_table: str
    documents: int
    serving: Pointer
    control: Control
    versions: tuple[VersionStatus, ...]
    events: tuple[Event, ...]
    next: Next
    phase: Phase = "declared"
    """How far the migration is, in one word."""
    attention: tuple[Attention, ...] = ()
    """What is wrong until a person does something, the worst first; empty: the index is well."""
    coverage: float | None = None
    """The share of the documents that a search can find, by the version that serves; None while nothing serves or nothing could be counted."""
    served_since: Event | None = None
    """The move by which what serves came to serve."""
    running: tuple[Running, ...] = ()
    """Who fills or writes now, by CLI, Dagster or program: what the database knows of them."""
    comparison: Comparison | None = None
    doubts: tuple[str, ...] = ()
    """Why changes may have been missed: what is open, and what a look at the documents table would add now."""
    capture_off: str = ""
    """What of change capture does not fire, in words; empty while all of it does."""
    unusable: str = ""
    """Why the documents cannot be read, and what to do; nothing of them is counted then."""
    throttle: tuple[ThrottleState, ...] = ()
    """The last word of each version's throttle; other than `go` it is why a backfill does not move."""
    declared_otherwise: tuple[str, ...] = ()
    """Frozen facts that the declaration has otherwise than registered: every working verb refuses it."""
    not_yet_set: tuple[str, ...] = ()
    """What may change, and is declared otherwise than when the index was worked on last: the next working verb sets it."""
    left_behind: tuple[str, ...] = ()
    """Processes that search and lack the model of a live version: by version."""
    old_transactions: tuple[str, ...] = ()
    """Transactions of the database that were left open, prepared ones too: who has them, since when, and how to end each."""
    adapters: tuple[str, ...] = ()
    """Of each adapter into what serves, whether it still fits what was written since it was fitted."""
    accounts: tuple[AccountState, ...] = ()
    """The accounts that its live versions are paid from."""
    warnings: tuple[str, ...] = ()
    """What is to be known about the server, though it was accepted."""
    watch: Watched | None = None
    """What the newest look after the cutover has found; None where all was well, or nothing was looked at."""

    @property
    def is_well(self) -> bool:
        return not self.attention
