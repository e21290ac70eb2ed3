"""The jobs of one index: the verbs that a person launches in the UI and a pipeline launches by name."""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets and ops as objects.

from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from embed_pipeline.catalog import control
from embed_pipeline.catalog.control import ControlState
from embed_pipeline.dagster_layer import metadata
from embed_pipeline.dagster_layer.bridges import bridge_jobs, fresh_checks
from embed_pipeline.dagster_layer.doctors_check import doctor_job
from embed_pipeline.dagster_layer.names import Names, op_of
from embed_pipeline.dagster_layer.routes import route_jobs
from embed_pipeline.dagster_layer.work import Lines, reason_of, refusals_as_failures, working_on
from embed_pipeline.migrate import adopt, cutover, dead_letters, retire
from embed_pipeline.report.look import catalog_connection
from embed_pipeline.spec import IndexSpec

Job = dg.JobDefinition | UnresolvedAssetJobDefinition

# Higher runs first in Dagster's queue; runs without the tag have 0. Nobody notices that a run died together with its code server, and
# the sensor waits for the run it asked for: so Dagster ends it, in seconds, long after it should have ended by itself.
DUAL_WRITE_TAGS = {"dagster/priority": "10", "dagster/max_runtime": "900"}


class ReasonConfig(dg.Config):
    """Why: kept in the audit."""

    reason: str = ""


class RollbackConfig(dg.Config):
    """Why; how many documents the version that comes back may not have been brought up to date with; and which version that is. Only a
    rollback after a rollback is refused without `to`: it would undo the one before."""

    reason: str = ""
    accept_stale: int = 0
    to: str | None = None


class RetireConfig(dg.Config):
    """`confirm` must be the version's name: its vectors cannot be brought back. Reads on standbys are not noted: see `migrate.retire`."""

    confirm: str
    reason: str = ""
    accept_unseen_reads: bool = False


class RetryConfig(dg.Config):
    """Whose dead letters: of one version, or of every live one."""

    version: str | None = None


def build_jobs(spec: IndexSpec) -> list[Job]:
    """Every job of the index."""
    jobs: list[Job] = []
    for version in spec.versions:
        jobs += [backfill_job(spec, version), retire_job(spec, version)]
    control_jobs = [rollback_job(spec), pause_job(spec), resume_job(spec), abort_job(spec)]
    adoption = [adopt_job(spec)] if spec.store.adopted() else []
    asked = [model_check_job(spec)] if spec.asks_providers else []
    return [
        *jobs,
        *route_jobs(spec),
        *bridge_jobs(spec),
        *adoption,
        dual_write_job(spec),
        compare_job(spec),
        doctor_job(spec),
        *asked,
        retry_job(spec),
        *control_jobs,
    ]


def backfill_job(spec: IndexSpec, version: str) -> UnresolvedAssetJobDefinition:
    """Fill partitions of one version: those that the run names, or all that are open."""
    names = Names(spec.name)
    return dg.define_asset_job(
        names.backfill_job(version),
        selection=dg.AssetSelection.assets(names.embeddings(version)).without_checks(),
        description=f"Fill partitions of {version} of {spec.name} from history: those of the run, or without any all that are open. "
        "What is there is skipped and not paid for again.",
        executor_def=dg.in_process_executor,
    )


def dual_write_job(spec: IndexSpec) -> UnresolvedAssetJobDefinition:
    """What the sensor requests."""
    names = Names(spec.name)
    return dg.define_asset_job(
        names.dual_write_job,
        selection=dg.AssetSelection.assets(names.dual_write),
        tags=DUAL_WRITE_TAGS,
        description=f"Bring every live version of {spec.name} up to date with changed documents.",
        executor_def=dg.in_process_executor,
    )


def compare_job(spec: IndexSpec) -> UnresolvedAssetJobDefinition:
    """What the schedule of the full comparison requests."""
    names = Names(spec.name)
    return dg.define_asset_job(
        names.compare_job,
        selection=dg.AssetSelection.assets(names.comparison) | dg.AssetSelection.checks(*fresh_checks(spec)),
        description=f"Compare every document of {spec.name} with every vector; queue what differs, and say so.",
        executor_def=dg.in_process_executor,
    )


def model_check_job(spec: IndexSpec) -> UnresolvedAssetJobDefinition:
    """What the schedule of the model check requests."""
    names = Names(spec.name)
    return dg.define_asset_job(
        names.model_check_job,
        selection=dg.AssetSelection.assets(names.model_check),
        description=f"Ask the models of {spec.name} for a few kept texts again, and say which one has changed.",
        executor_def=dg.in_process_executor,
    )


def adopt_job(spec: IndexSpec) -> dg.JobDefinition:
    """Make the vectors that were there before a version. Registers it, so it is launched before anything else of the index."""
    names = Names(spec.name)

    @dg.op(name=op_of(names.adopt_job), out=dg.Out(dg.Nothing))
    def take_in(context: dg.OpExecutionContext) -> None:
        lines = Lines(context.log)
        with working_on(spec, register_new=False) as index:
            done = adopt.adopt(index, lambda done, total, words: lines.say(f"{done} of {total} documents {words}"))
        context.add_output_metadata(metadata.adopted(done))
        context.log.info(done.sentence)

    return _one_op_job(
        names.adopt_job, take_in, f"Make the vectors that were there before a version of {spec.name}; nothing is embedded again."
    )


def retry_job(spec: IndexSpec) -> dg.JobDefinition:
    """Have the documents that were set aside tried again: the sensor requests the dual-write that does it."""
    names = Names(spec.name)

    @dg.op(name=op_of(names.retry_job), out=dg.Out(dg.Nothing))
    def queue_again(context: dg.OpExecutionContext, config: RetryConfig) -> None:
        with working_on(spec, register_new=False) as index:
            queued = dead_letters.retry(index, config.version)
        context.add_output_metadata({f"{version} queued": number for version, number in queued.items()})

    return _one_op_job(names.retry_job, queue_again, f"Queue the documents of {spec.name} that have no vector for another try.")


def rollback_job(spec: IndexSpec) -> dg.JobDefinition:
    """Serve the version that served before."""
    names = Names(spec.name)

    @dg.op(name=op_of(names.rollback_job), out=dg.Out(dg.Nothing))
    def move_back(context: dg.OpExecutionContext, config: RollbackConfig) -> None:
        with working_on(spec, register_new=False) as index:
            reason = reason_of(context.run_id, config.reason)
            done = cutover.rollback(index, reason, accept_stale=config.accept_stale, to=config.to)
        context.add_output_metadata(metadata.moved(done))
        context.log.info(f"{done.route} serves {spec.name} again, generation {done.generation}.")
        if done.stale:
            context.log.warning(
                f"{len(done.stale)} documents of {done.version} were not brought up to date first; the audit names them."
            )

    return _one_op_job(
        names.rollback_job, move_back, f"Serve the version of {spec.name} that served before. The gate is not asked."
    )


def retire_job(spec: IndexSpec, version: str) -> dg.JobDefinition:
    """Drop one version's vectors."""
    names = Names(spec.name)
    name = names.retire_job(version)

    @dg.op(name=op_of(name), out=dg.Out(dg.Nothing))
    def drop(context: dg.OpExecutionContext, config: RetireConfig) -> None:
        with working_on(spec) as index:
            reason = reason_of(context.run_id, config.reason)
            done = retire.retire(index, version, config.confirm, reason, accept_unseen_reads=config.accept_unseen_reads)
        context.log_event(dg.AssetObservation(names.embeddings(version), metadata=metadata.retired(done)))
        context.add_output_metadata(metadata.retired(done))

    return _one_op_job(
        name, drop, f"Drop the vectors of {version} of {spec.name}. Needs `confirm: {version}`; refused while it is in use."
    )


def pause_job(spec: IndexSpec) -> dg.JobDefinition:
    """Make backfills wait. Dual-writes go on: what serves must stay true."""
    names = Names(spec.name)
    return _control_job(spec, names.pause_job, "paused", f"Make the backfills of {spec.name} wait. Dual-writes go on.")


def resume_job(spec: IndexSpec) -> dg.JobDefinition:
    """Let backfills go on after pause or abort."""
    return _control_job(spec, Names(spec.name).resume_job, "running", f"Let the backfills of {spec.name} go on.")


def abort_job(spec: IndexSpec) -> dg.JobDefinition:
    """Stop backfills. What is done is kept, and new ones are refused until resume."""
    description = f"Stop the backfills of {spec.name}, wherever they run, and refuse new ones until resume. Dual-writes go on."
    return _control_job(spec, Names(spec.name).abort_job, "aborted", description)


def _control_job(spec: IndexSpec, name: str, state: ControlState, description: str) -> dg.JobDefinition:
    @dg.op(name=op_of(name), out=dg.Out(dg.Nothing))
    def say(context: dg.OpExecutionContext, config: ReasonConfig) -> None:
        # The catalog alone: this must get through when the documents table or a model is what is broken.
        with refusals_as_failures(), catalog_connection(spec) as conn:
            control.set_state(conn, spec.name, state, reason_of(context.run_id, config.reason))
        context.add_output_metadata({"state": state, "reason": config.reason})

    return _one_op_job(name, say, description)


def _one_op_job(name: str, op: Any, description: str) -> dg.JobDefinition:
    return dg.GraphDefinition(name=name, node_defs=[op], description=description).to_job(executor_def=dg.in_process_executor)
