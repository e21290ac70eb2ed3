"""The doctor as a check, by a schedule: a look at a sample of the vectors themselves, which no other check takes."""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets and ops as objects.

from collections.abc import Iterator
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from embed_pipeline.dagster_layer import metadata
from embed_pipeline.dagster_layer.names import Names
from embed_pipeline.dagster_layer.work import fail_by_checks, refusals_as_failures
from embed_pipeline.doctor import declared
from embed_pipeline.doctor.findings import Diagnosis
from embed_pipeline.spec import IndexSpec

DOCTOR = "doctor"


def doctor_check(spec: IndexSpec) -> dg.AssetChecksDefinition:
    """On what serves. It fails for what `embed-pipeline doctor` ends with exit code 4 for."""
    names = Names(spec.name)

    # A check may yield its answer and then fail its run; the annotation of the decorator knows only one that returns.
    @dg.asset_check(  # type: ignore[arg-type]
        asset=names.serving,
        name=DOCTOR,
        blocking=False,
        description=f"The doctor finds nothing worse than notes in {spec.doctor.sample:,} documents of each live version. Run by the schedule "
        f"`{names.doctor_job}`.",
    )
    def examine(context: dg.AssetCheckExecutionContext) -> Iterator[Any]:
        with refusals_as_failures():
            found = declared.diagnose(spec, spec.doctor.sample)
        for each in found.findings:
            (context.log.info if each.severity == "note" else context.log.warning)(f"{each.sentence} Next: {each.next}")
        answer = _answer(found)
        yield answer
        fail_by_checks(spec, [answer])

    return examine


def _answer(found: Diagnosis) -> dg.AssetCheckResult:
    wrong = [each for each in found.findings if each.severity != "note"]
    severe = any(each.severity == "error" for each in wrong)
    return dg.AssetCheckResult(
        passed=not found.needs_a_person,
        check_name=DOCTOR,
        severity=dg.AssetCheckSeverity.ERROR if severe else dg.AssetCheckSeverity.WARN,
        description=" ".join(each.sentence for each in wrong) or f"Nothing worse than notes in {found.looked_at}.",
        metadata=metadata.diagnosed(found),
    )


def doctor_job(spec: IndexSpec) -> UnresolvedAssetJobDefinition:
    """What its schedule requests."""
    names = Names(spec.name)
    return dg.define_asset_job(
        names.doctor_job,
        selection=dg.AssetSelection.checks(dg.AssetCheckKey(names.serving, DOCTOR)),
        description=f"Have the doctor look at a sample of the vectors of {spec.name}. Declares nothing, writes nothing, pays for nothing.",
        executor_def=dg.in_process_executor,
    )
