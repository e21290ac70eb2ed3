"""The sensor of one index: a dual-write run whenever changes wait, and the full comparison when something is doubted.

A tick is a few indexed queries and calls no provider. It gives no run key: Dagster never requests a run key again, also not after
that run failed, and the database itself knows what is still to do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg
import psycopg

from embed_pipeline.dagster_layer.freshness import QUIET_SECONDS
from embed_pipeline.dagster_layer.jobs import DUAL_WRITE_TAGS, Job
from embed_pipeline.dagster_layer.names import Names
from embed_pipeline.dagster_layer.work import doubted
from embed_pipeline.documents import queue, shape
from embed_pipeline.documents import source as documents_source
from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import standing
from embed_pipeline.postgres.connection import connect, resolve_url
from embed_pipeline.spec import IndexSpec

MINIMUM_INTERVAL_SECONDS = 5
# A comparison that a doubt has asked for is asked for again after this time.
COMPARE_AGAIN_SECONDS = 60.0

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dataclass(frozen=True)
class Seen:
    """What a tick finds: whether anything waits for a dual-write, why changes may have been missed, and whether a comparison may help."""

    waits: bool
    doubts: tuple[str, ...]
    compare: bool
    broken: tuple[str, ...] = ()
    """Versions whose vectors are gone or another ledger's, in sentences."""
    live: bool = True
    """Whether there is anything to write to."""

    @property
    def up_to_date(self) -> bool:
        """Whether a run would find nothing to do."""
        return self.live and not (self.waits or self.doubts or self.broken)


def dual_write_sensor(spec: IndexSpec, jobs: Sequence[Job]) -> dg.SensorDefinition:
    """Runs from the start: an index whose changes are not worked off serves yesterday's texts. `jobs` are the index's."""
    names = Names(spec.name)
    wanted = [job for job in jobs if job.name in (names.dual_write_job, names.compare_job)]

    @dg.sensor(
        name=names.dual_write_sensor,
        jobs=wanted,
        minimum_interval_seconds=MINIMUM_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Requests a dual-write of {spec.name} while changes wait, and a full comparison while it is doubted that all were seen.",
    )
    def changes_wait(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            seen = _look(spec)
        except EmbedPipelineError as problem:
            return dg.SkipReason(str(problem))
        except psycopg.errors.UndefinedTable:
            return dg.SkipReason(f"{spec.name} is not registered in its database yet; its first backfill does that.")
        except psycopg.Error as problem:
            return dg.SkipReason(f"PostgreSQL did not answer: {problem.diag.message_primary or type(problem).__name__}.")
        requests, said, cursor = [], [], context.cursor
        if unfinished_run(context.instance, names.dual_write_job):
            said.append("A dual-write is queued or running.")
        elif seen.waits:
            requests.append(dg.RunRequest(job_name=names.dual_write_job, tags=DUAL_WRITE_TAGS))
        else:
            said.append("No changed document waits.")
        for each in seen.broken:
            said.append(each)
            context.log.error(each)
        if seen.doubts:
            said.append(doubted(seen.doubts))
            context.log.warning(doubted(seen.doubts))
            if unfinished_run(context.instance, names.compare_job):
                said.append("A full comparison is queued or running.")
            elif (
                seen.compare and not 0 <= time.time() - float(cursor or 0) < COMPARE_AGAIN_SECONDS
            ):  # also where the clock was set back
                requests.append(dg.RunRequest(job_name=names.compare_job))
                cursor = str(time.time())
        if requests:
            return dg.SensorResult(run_requests=requests, cursor=cursor)
        quiet = [_quiet(names)] if seen.up_to_date and _was_long_ago(context.instance, names.dual_write) else []
        return dg.SensorResult(skip_reason=" ".join(said), cursor=cursor, asset_events=quiet)

    return changes_wait


def _quiet(names: Names) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(names.dual_write, description="No changed document waits, so no run was requested.")


def _was_long_ago(instance: dg.DagsterInstance, key: dg.AssetKey) -> bool:
    """Whether the last materialization is of long ago; also where the clock was set back, and where there is none."""
    last = instance.get_latest_materialization_event(key)
    return last is None or not 0 <= time.time() - last.timestamp < QUIET_SECONDS


def unfinished_run(instance: dg.DagsterInstance, job_name: str) -> bool:
    """Whether a run of the job waits or runs."""
    return bool(instance.get_run_records(dg.RunsFilter(job_name=job_name, statuses=UNFINISHED), limit=1))


def _look(spec: IndexSpec) -> Seen:
    """Changes nothing. A documents table that is another one than capture was armed for is looked into by a dual-write's run."""
    url = resolve_url(spec.database_url)
    with connect(url, autocommit=True) as conn:
        waits = queue.has_work(conn, spec.name)
        doubts = shape.open_doubts(conn, spec.name)
        still_open = [doubt.reason for doubt in doubts]
        decidable = all(doubt.kind != "loss" for doubt in doubts)
        if shape.known(conn, spec.name) is None:
            return Seen(waits, tuple(still_open), decidable, live=False)
        source = documents_source.inspect(conn, spec.source())
        changed = shape.has_changed(conn, source, spec.name)
        reasons = [*still_open, *(shape.differences(conn, source, spec.name) if changed else [])]
        broken = () if changed else standing.broken(conn, OpenIndex(spec, url, source))
        return Seen(waits or changed, tuple(dict.fromkeys(reasons)), decidable, broken)
