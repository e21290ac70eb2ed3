"""The schedules of one index: filling the next partitions of a version (stopped until a person starts it, since it spends money), the
full comparison, the doctor and the model check (running, since what they find is what nobody looks for).
"""

from __future__ import annotations

import dagster as dg
import psycopg
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from embed_pipeline.catalog import partitions, versions
from embed_pipeline.dagster_layer.names import Names
from embed_pipeline.dagster_layer.sensors import unfinished_run
from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.postgres.connection import connect, resolve_url
from embed_pipeline.spec import IndexSpec


def build_schedules(spec: IndexSpec) -> list[dg.ScheduleDefinition]:
    """One schedule for each version, the full comparison's, the doctor's, and the model check's where a provider is asked."""
    asked = [model_check_schedule(spec)] if spec.asks_providers else []
    return [
        *(backfill_schedule(spec, version) for version in spec.versions),
        compare_schedule(spec),
        doctor_schedule(spec),
        *asked,
    ]


def backfill_schedule(spec: IndexSpec, version: str) -> dg.ScheduleDefinition:
    """Requests the next contiguous unfilled partitions, at most `backfill.partitions_per_run` of them."""
    names = Names(spec.name)

    @dg.schedule(
        name=names.backfill_schedule(version),
        job_name=names.backfill_job(version),
        cron_schedule=spec.backfill.schedule,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Fills the next {spec.backfill.partitions_per_run} unfilled partitions of {version} of {spec.name}.",
    )
    def next_partitions(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if unfinished_run(context.instance, names.backfill_job(version)):
            return dg.SkipReason("The backfill of an earlier tick is queued or running.")
        try:
            wanted = first_contiguous(spec.partition_keys(), _unfilled(spec, version), spec.backfill.partitions_per_run)
        except EmbedPipelineError as problem:
            return dg.SkipReason(str(problem))
        except psycopg.Error as problem:
            return dg.SkipReason(f"PostgreSQL did not answer: {problem.diag.message_primary or type(problem).__name__}.")
        if not wanted:
            return dg.SkipReason(f"Every partition of {version} is filled.")
        return dg.RunRequest(tags={ASSET_PARTITION_RANGE_START_TAG: wanted[0], ASSET_PARTITION_RANGE_END_TAG: wanted[-1]})

    return next_partitions


def compare_schedule(spec: IndexSpec) -> dg.ScheduleDefinition:
    """Requests the full comparison, once there is something to compare."""
    names = Names(spec.name)

    @dg.schedule(
        name=names.compare_schedule,
        job_name=names.compare_job,
        cron_schedule=spec.reconcile.schedule,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Compares every document of {spec.name} with every vector; queues and reports what bypassed change capture.",
    )
    def compare(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if unfinished_run(context.instance, names.compare_job):
            return dg.SkipReason("The comparison of an earlier tick is queued or running.")
        return _run_if_live(spec)

    return compare


def doctor_schedule(spec: IndexSpec) -> dg.ScheduleDefinition:
    """Requests the doctor's look, once there is something to look at."""
    names = Names(spec.name)

    @dg.schedule(
        name=names.doctor_job,
        job_name=names.doctor_job,
        cron_schedule=spec.doctor.schedule,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Has the doctor look at a sample of the vectors of {spec.name}.",
    )
    def look(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if unfinished_run(context.instance, names.doctor_job):
            return dg.SkipReason("The look of an earlier tick is queued or running.")
        return _run_if_live(spec)

    return look


def model_check_schedule(spec: IndexSpec) -> dg.ScheduleDefinition:
    """Requests the model check, once there is a model to ask."""
    names = Names(spec.name)

    @dg.schedule(
        name=names.model_check_schedule,
        job_name=names.model_check_job,
        cron_schedule=spec.model_check.schedule,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Asks the providers' models of {spec.name} for a few kept texts again; a model that has changed turns the check red.",
    )
    def ask_again(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if unfinished_run(context.instance, names.model_check_job):
            return dg.SkipReason("The model check of an earlier tick is queued or running.")
        return _run_if_live(spec)

    return ask_again


def _run_if_live(spec: IndexSpec) -> dg.RunRequest | dg.SkipReason:
    try:
        with connect(resolve_url(spec.database_url), autocommit=True) as conn:
            live = versions.live_versions(conn, spec.name)
    except EmbedPipelineError as problem:
        return dg.SkipReason(str(problem))
    except psycopg.errors.UndefinedTable:
        live = []
    except psycopg.Error as problem:
        return dg.SkipReason(f"PostgreSQL did not answer: {problem.diag.message_primary or type(problem).__name__}.")
    return dg.RunRequest() if live else dg.SkipReason(f"{spec.name} has no live version yet.")


def first_contiguous(keys: list[str], unfilled: set[str], limit: int) -> list[str]:
    """The first unfilled keys that stand side by side, at most `limit`: a run can only be asked for a range."""
    wanted: list[str] = []
    for key in keys:
        if key in unfilled and len(wanted) < limit:
            wanted.append(key)
        elif wanted:
            break
    return wanted


def _unfilled(spec: IndexSpec, version: str) -> set[str]:
    """Keys of the partitions that are not complete; all of them while the version is not registered yet."""
    with connect(resolve_url(spec.database_url), autocommit=True) as conn:
        try:
            registered = {found.name: found for found in versions.list_versions(conn, spec.name)}
        except psycopg.errors.UndefinedTable:
            registered = {}
        if version not in registered:
            return set(spec.partition_keys())
        if not registered[version].is_live:
            return set()
        listed = partitions.listed(conn, spec.name, version)
    return {each.range.partition for each in listed if each.completed_at is None}
