"""The sensor of one index: a dual-write run whenever the change queue holds work.

A tick is one indexed query and calls no provider. It gives no run key: Dagster never requests a run key again, also not after
that run failed, and the queue itself knows what is still to do.
"""

from __future__ import annotations

import dagster as dg
import psycopg

from embed_pipeline.dagster_layer.jobs import DUAL_WRITE_TAGS
from embed_pipeline.dagster_layer.names import Names
from embed_pipeline.documents import queue
from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.postgres.connection import connect, resolve_url
from embed_pipeline.spec import IndexSpec

MINIMUM_INTERVAL_SECONDS = 5

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def dual_write_sensor(spec: IndexSpec) -> dg.SensorDefinition:
    """Runs from the start: an index whose changes are not worked off serves yesterday's texts."""
    names = Names(spec.name)

    @dg.sensor(
        name=names.dual_write_sensor,
        job_name=names.dual_write_job,
        minimum_interval_seconds=MINIMUM_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Requests a dual-write of {spec.name} while changed documents wait in the queue.",
    )
    def changes_wait(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if unfinished_run(context.instance, names.dual_write_job):
            return dg.SkipReason("A dual-write is queued or running.")
        try:
            with connect(resolve_url(spec.database_url), autocommit=True) as conn:
                waiting = queue.has_work(conn, spec.name)
        except EmbedPipelineError as problem:
            return dg.SkipReason(str(problem))
        except psycopg.errors.UndefinedTable:
            return dg.SkipReason(f"{spec.name} is not registered in its database yet; its first backfill does that.")
        except psycopg.Error as problem:
            return dg.SkipReason(f"PostgreSQL did not answer: {problem.diag.message_primary or type(problem).__name__}.")
        if not waiting:
            return dg.SkipReason("No changed document waits.")
        return dg.RunRequest(tags=DUAL_WRITE_TAGS)

    return changes_wait


def unfinished_run(instance: dg.DagsterInstance, job_name: str) -> bool:
    """Whether a run of the job waits or runs."""
    return bool(instance.get_run_records(dg.RunsFilter(job_name=job_name, statuses=UNFINISHED), limit=1))
