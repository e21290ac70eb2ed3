"""The watch after a cutover: a sensor that asks whether a look is due, and the job that looks. A loss that is proven ends its run as a failure.

`sync --watch` and `embed-pipeline watch` look as well: a look is whoever takes it first, and a run that comes second says so.
"""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets and ops as objects.

import dagster as dg
import psycopg

from embed_pipeline.dagster_layer import metadata
from embed_pipeline.dagster_layer.names import Names, op_of
from embed_pipeline.dagster_layer.sensors import unfinished_run
from embed_pipeline.dagster_layer.work import Refused, working_on
from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.migrate import after_cutover
from embed_pipeline.postgres.connection import connect, resolve_url
from embed_pipeline.spec import IndexSpec

# A look comes at most so much later than it is due.
MOST_SECONDS_BETWEEN_TICKS = 30


def watch_job(spec: IndexSpec) -> dg.JobDefinition:
    """What the sensor of the watch requests. Only of an index that declares a watch."""
    names = Names(spec.name)

    @dg.op(name=op_of(names.watch_job), out=dg.Out(dg.Nothing))
    def look(context: dg.OpExecutionContext) -> None:
        with working_on(spec, register_new=False) as index:
            found = after_cutover.look(index)
        if found is None:
            context.log.info(f"No look of {spec.name} is due: another watcher has it, or the watch is over.")
            return
        context.add_output_metadata(metadata.looked(names, found))
        said = " ".join(found.lines)
        if found.outcome != "fail":
            context.log.info(said)
        elif spec.checks.fail_runs:
            raise Refused(said, {"code": "watch", **metadata.looked(names, found)})
        else:
            context.log.error(said)

    return dg.GraphDefinition(
        name=names.watch_job,
        node_defs=[look],
        description=f"Ask what serves {spec.name} the held-out queries again, if a look is due; tell, or roll back, where a loss is proven.",
    ).to_job(executor_def=dg.in_process_executor)


def watch_sensor(spec: IndexSpec, job: dg.JobDefinition) -> dg.SensorDefinition:
    """Runs from the start: after a cutover nobody thinks of starting it."""
    names = Names(spec.name)
    every = MOST_SECONDS_BETWEEN_TICKS if spec.watch is None else min(int(spec.watch.every_seconds), MOST_SECONDS_BETWEEN_TICKS)

    @dg.sensor(
        name=names.watch_sensor,
        job=job,
        minimum_interval_seconds=every,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Requests a look at what serves {spec.name} after a cutover, whenever one is due by `watch`.",
    )
    def look_is_due(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if unfinished_run(context.instance, names.watch_job):
            return dg.SkipReason("The look of an earlier tick is queued or running.")
        try:
            with connect(resolve_url(spec.database_url), autocommit=True) as conn:
                due = after_cutover.is_due(conn, spec)
        except EmbedPipelineError as problem:
            return dg.SkipReason(str(problem))
        except psycopg.errors.UndefinedTable:
            return dg.SkipReason(f"{spec.name} is not registered in its database yet; its first backfill does that.")
        except psycopg.Error as problem:
            return dg.SkipReason(f"PostgreSQL did not answer: {problem.diag.message_primary or type(problem).__name__}.")
        return dg.RunRequest() if due else dg.SkipReason(f"No look of {spec.name} is due.")

    return look_is_due
