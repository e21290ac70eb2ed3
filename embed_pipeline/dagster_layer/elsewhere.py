"""What was done from a shell or in Python, as the events that Dagster would have logged: so that its graph shows what is there.

Only what Dagster itself has not seen is said. Which that is, ids and generations of the catalog tell: clocks of two machines tell nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import dagster as dg

from embed_pipeline.catalog.route import KINDS, Kind
from embed_pipeline.dagster_layer import checks, metadata
from embed_pipeline.dagster_layer.names import Names
from embed_pipeline.migrate.examination import HELD_OUT_RECALL
from embed_pipeline.report.now import Now
from embed_pipeline.report.version_status import GateState, VersionStatus
from embed_pipeline.spec import IndexSpec

Event = dg.AssetMaterialization | dg.AssetCheckEvaluation
ELSEWHERE = "not by a run of this Dagster"


def done_elsewhere(instance: dg.DagsterInstance, spec: IndexSpec, now: Now, limit: int) -> Iterator[Event]:
    """At most `limit` events; what is left is said at the next look."""
    return islice(_events(instance, spec, now), limit)


def _events(instance: dg.DagsterInstance, spec: IndexSpec, now: Now) -> Iterator[Event]:
    names = Names(spec.name)
    for version in now.status.versions:
        if version.is_live and version.is_declared:
            yield from _partitions(instance, spec, now, version.name)
            yield from _built(instance, names, version)
            for route in KINDS:
                yield from _judged(instance, names, version, route)
    yield from _cut_over(instance, spec, now)


def _partitions(instance: dg.DagsterInstance, spec: IndexSpec, now: Now, version: str) -> Iterator[Event]:
    key = Names(spec.name).embeddings(version)
    seen = instance.get_materialized_partitions(key)
    declared = set(spec.partition_keys())
    for partition in now.filled[version]:
        if partition in declared and partition not in seen:
            yield dg.AssetMaterialization(key, partition=partition, description=f"Filled, {ELSEWHERE}.")


def _built(instance: dg.DagsterInstance, names: Names, version: VersionStatus) -> Iterator[Event]:
    key = names.ann_index(version.name)
    if version.ann_index == "valid" and instance.get_latest_materialization_event(key) is None:
        yield dg.AssetMaterialization(key, description=f"Built, {ELSEWHERE}.")


def _judged(instance: dg.DagsterInstance, names: Names, version: VersionStatus, route: Kind) -> Iterator[Event]:
    found: GateState | None = {"direct": version.gate, "refine": version.refine_gate, "bridge": version.bridge_gate}[route]
    key = names.judged(version.name, route)
    if found is None or found.evidence <= _last(instance, key, "evidence"):
        return
    shown: metadata.Metadata = {
        "outcome": found.outcome,
        "sentence": found.sentence,
        "evidence": dg.MetadataValue.text(str(found.evidence)),
    }
    yield dg.AssetMaterialization(key, description=f"Judged, {ELSEWHERE}: {found.sentence}", metadata=shown)
    yield dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=HELD_OUT_RECALL if route == "direct" else checks.NOT_WORSE[route],
        passed=found.outcome == "pass",
        description=found.sentence,
        metadata={},
    )


def _cut_over(instance: dg.DagsterInstance, spec: IndexSpec, now: Now) -> Iterator[Event]:
    """The way by which the index is served now, where a cutover took it there."""
    route = now.status.serving.route
    if route is None or now.moved is None or now.moved.move != "cutover":
        return
    key = Names(spec.name).cutover(route.other or route.version, route.kind)
    if (route.other or route.version) in spec.versions and now.status.serving.generation > _last(instance, key, "generation"):
        shown: metadata.Metadata = {"route": str(route), "generation": dg.MetadataValue.text(str(now.status.serving.generation))}
        why = f": {now.moved.reason}" if now.moved.reason else ""
        yield dg.AssetMaterialization(
            key, description=f"{route} serves, {ELSEWHERE} but by {now.moved.actor}{why}.", metadata=shown
        )


def _last(instance: dg.DagsterInstance, key: dg.AssetKey, name: str) -> int:
    """The number of that name on the asset's last materialization; -1 where there is none."""
    event = instance.get_latest_materialization_event(key)
    found = None if event is None or event.asset_materialization is None else event.asset_materialization.metadata.get(name)
    return -1 if found is None or found.value is None else int(str(found.value))
