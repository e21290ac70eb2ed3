"""When a version may serve, how history is filled, when to wait, and when a version may go."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from embed_pipeline.spec.base import Declared


class HoldoutSpec(Declared):
    """Queries with graded judgements, never used to fit or tune anything."""

    path: Path
    max_missing: float = Field(
        0.05, ge=0, lt=1, description="share of the judged documents that may be gone; their judgements are left out"
    )
    min_baseline: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="mean of the version that serves below which the set is not believed, unless the candidate is proven better",
    )


class SliceSpec(Declared):
    """The queries of each value of a column of the held-out set, judged by themselves."""

    margin: float | None = Field(
        None, gt=0, lt=1, description="what a slice may lose; without it slices are shown and decide nothing"
    )
    values: list[str] = Field([], description="the values that decide; without them each value that the set has")

    @model_validator(mode="after")
    def _decides_by_something(self) -> SliceSpec:
        if self.values and self.margin is None:
            raise ValueError("values needs margin: without it no slice decides")
        return self


class GateSpec(Declared):
    """When a version may serve: non-inferiority of `metric` by `margin` at `confidence`, on at least `min_queries` queries."""

    metric: str = "recall@10"
    margin: float = Field(0.02, gt=0, lt=1)
    confidence: float = Field(0.95, gt=0.5, lt=1)
    min_queries: int = Field(100, ge=2)
    max_dead_letters: int = Field(0, ge=0)
    floor: float | None = Field(None, ge=0, le=1, description="absolute floor of the metric, also for the first version")
    floor_alone: bool = Field(
        False, description="the floor may decide alone where what serves cannot be measured: its model is gone"
    )
    slices: dict[str, SliceSpec] = Field(
        {}, description="by column of the held-out set; each slice that decides may fail the gate"
    )
    min_ann_recall: float = Field(0.95, ge=0, le=1, description="ANN index against exact search, same model")
    max_age_seconds: int = Field(86_400, ge=1, description="evidence older than this is stale")
    max_row_change: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of the documents that may change, come or go before evidence is stale; of the judged ones none may",
    )

    @model_validator(mode="after")
    def _floor_decides(self) -> GateSpec:
        if self.floor_alone and self.floor is None:
            raise ValueError("gate.floor_alone needs gate.floor: without it nothing would decide")
        return self


class AdapterSpec(Declared):
    """From how much the map of a bridge is fitted."""

    pairs: int = Field(2_000, ge=300, le=100_000, description="passages that both versions have a vector of, drawn at random")


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
    max_loss: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of a version's documents, of more than 100, that a comparison or `load --full` removes unasked",
    )


class DoctorSpec(Declared):
    """When the doctor looks at what is stored, and at how much."""

    schedule: str = Field("29 6 * * 0", description="cron of the check `doctor` in Dagster, UTC")
    sample: int = Field(2_000, ge=1, description="documents of each live version that this check reads")


class WatchSpec(Declared):
    """How a version is watched after the cutover to it."""

    for_seconds: float = Field(86_400, gt=0, description="time after a cutover in which it is looked at")
    every_seconds: float = Field(600, ge=1, description="time between two looks; each asks all held-out queries")
    rollback: Literal["auto", "alert"] = Field(
        "alert", description="what a proven loss leads to: a rollback to the version before, or an event"
    )

    @model_validator(mode="after")
    def _looks(self) -> WatchSpec:
        if self.every_seconds > self.for_seconds or self.looks > 10_000:
            raise ValueError("watch.for_seconds has to hold from 1 to 10,000 times watch.every_seconds")
        return self

    @property
    def looks(self) -> int:
        """How many there are after one cutover, at most."""
        return math.ceil(self.for_seconds / self.every_seconds)


class ChecksSpec(Declared):
    """The effect of a failed Dagster check on the run that evaluated it."""

    fail_runs: bool = Field(
        True,
        description="a failed nothing_bypassed, dead_letters, same_model or adapter_fresh, or a loss after a cutover, ends its run as a failure",
    )


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
    max_queue_age_seconds: float | None = Field(
        30.0, gt=0, description="time the version that serves may be behind with a change before backfills of others wait"
    )
    max_search_ms: float | None = Field(
        None, gt=0, description="time one search of the version that serves may take before backfills of others wait"
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
        limits = (self.max_wal_bytes_per_second, self.max_active_backends, self.max_queue_age_seconds)
        return bool(self.standbys or self.slots or self.wait_for_autovacuum) or any(limit is not None for limit in limits)


class WhileBuildingSpec(Declared):
    """What a version may do for searches before it is complete; each after its own gate, by `cutover --route`."""

    refine: bool = Field(False, description="put in order what is found in the version that serves (docs/routes.md)")
    depth: int = Field(
        200, ge=10, le=1000, description="so many places of each list; larger finds more, and every search reads so many vectors"
    )


class RetireSpec(Declared):
    """How long a version must have been out of use before its vectors may be dropped."""

    soak_seconds: int = Field(86_400, ge=0, description="time the version must have been standby")
    unread_seconds: int = Field(3_600, ge=0, description="time without any read of it")
