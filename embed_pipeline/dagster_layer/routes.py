"""The ways in which a version comes to serve: for each kind of route the gate's answer, the move to it, and a job for either.

direct: docs/v2/ann_index  ─> docs/v2/evaluation        ─> docs/v2/cutover
refine: docs/v2/embeddings ─> docs/v2/refinement ─> docs/v2/cutover_refine   (with while_building.refine)
bridge: docs/v2/adapter    ─> docs/v2/bridge     ─> docs/v2/cutover_bridge   (of every version but the first)
"""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets and ops as objects.

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from embed_pipeline.catalog import evidence
from embed_pipeline.catalog.route import Kind
from embed_pipeline.dagster_layer import checks, metadata
from embed_pipeline.dagster_layer.bridges import followers
from embed_pipeline.dagster_layer.names import Names, op_name
from embed_pipeline.dagster_layer.work import Lines, Materialized, fail_by_blocking, reason_of, refusals_as_failures, working_on
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import cutover, examination, gate, way_back
from embed_pipeline.migrate.verdicts import GateResult
from embed_pipeline.spec import IndexSpec

ASKED: dict[Kind, str] = {
    "direct": "May `{version}` serve {index}? Judged against the version that serves, on the held-out set.",
    "refine": "May `{version}`, complete or not, put in order what is found in the version that serves {index}? Judged against that version "
    "alone; the evidence is stale when another tenth of the documents is filled.",
    "bridge": "May what serves {index} be asked by queries of `{version}`, mapped by the newest adapter? Judged against its own queries.",
}
SERVES: dict[Kind, str] = {
    "direct": "`{version}` serves {index}",
    "refine": "what serves {index} is refined by `{version}`",
    "bridge": "what serves {index} is asked by queries of `{version}`",
}


class CutoverConfig(dg.Config):
    """`confirm`: the name of the version, else nothing is moved. `reason`: for the audit. `anyway`: also where processes that search lack its
    model. `again`: also where somebody has rolled back from it and no gate has judged it since."""

    # Not required: a required one would make every "Materialize all" of the location invalid.
    confirm: str | None = None
    reason: str = ""
    anyway: bool = False
    again: bool = False


def ways(spec: IndexSpec) -> list[tuple[str, Kind]]:
    """Every version with each kind of route that it may come to serve by."""
    direct: list[tuple[str, Kind]] = [(version, "direct") for version in spec.versions]
    refine: list[tuple[str, Kind]] = [(version, "refine") for version in spec.may_refine]
    return [*direct, *refine, *((version, "bridge") for version in followers(spec))]


def route_assets(spec: IndexSpec) -> list[dg.AssetsDefinition]:
    """The gate's answer and the cutover, of each way to serve."""
    return [
        asset
        for version, route in ways(spec)
        for asset in (gate_asset(spec, version, route), cutover_asset(spec, version, route))
    ]


def route_jobs(spec: IndexSpec) -> list[UnresolvedAssetJobDefinition]:
    """To judge, and to judge and serve: of each way to serve."""
    return [job for version, route in ways(spec) for job in (gate_job(spec, version, route), cutover_job(spec, version, route))]


def gate_asset(spec: IndexSpec, version: str, route: Kind) -> dg.AssetsDefinition:
    """The gate's answer about one way to serve, with its blocking checks."""
    names = Names(spec.name)
    key = names.judged(version, route)
    # A refinement is judged by as many partitions as are filled, while the others are not.
    after = {"direct": names.ann_index, "refine": names.embeddings, "bridge": names.adapter}[route](version)

    @dg.asset(
        key=key,
        deps=[after],
        check_specs=checks.specs(spec, key, route),
        group_name=names.group(version),
        kinds=metadata.kinds(spec, version),
        tags={"embed_pipeline/version": version},
        description=f"{ASKED[route].format(version=version, index=spec.name)} The evidence is kept, and a cutover asks for it.",
    )
    def judge(context: dg.AssetExecutionContext) -> Iterator[Any]:
        lines = Lines(context.log)
        with working_on(spec) as index:
            result, answers = _judged(index, version, route, lambda done, total: lines.say(f"{done} of {total} searches"))
        context.log.info(result.sentence)
        yield dg.MaterializeResult(metadata=metadata.verdict(result), check_results=answers)
        fail_by_blocking(answers, f"{version} may not serve {spec.name}")

    return judge


def _judged(
    index: OpenIndex, version: str, route: Kind, progress: Callable[[int, int], None]
) -> tuple[GateResult, list[dg.AssetCheckResult]]:
    if route == "direct":
        found = examination.examine(index, version, progress)
        return found.result, checks.of_examination(found)
    result = gate.run(index, version, progress, route=route)
    return result, [checks.not_worse(result, route)]


def cutover_asset(spec: IndexSpec, version: str, route: Kind) -> dg.AssetsDefinition:
    """The move of the pointer. It is refused where nobody has confirmed it, and asks for its evidence itself."""
    names = Names(spec.name)
    key = names.cutover(version, route)
    job = names.cutover_job(version, route)

    @dg.asset(
        key=key,
        deps=[names.judged(version, route)],
        group_name=names.group(version),
        kinds={"postgres"},
        tags={"embed_pipeline/version": version},
        description=f"From here on {SERVES[route].format(version=version, index=spec.name)}. Launch the job `{job}`, which confirms it; "
        f"*Materialize* by itself moves nothing without `confirm: {version}` in its configuration. Refused without fresh, passing evidence and "
        "complete coverage, however it is launched, and for what was rolled back from until it is judged again (or `again: true`). Green is the "
        "last cutover that Dagster made; what serves now stands in the checks of "
        f"`{names.serving.to_user_string()}`.",
    )
    def cut_over(context: dg.AssetExecutionContext, config: CutoverConfig) -> Materialized:
        how = f"Launch the job {job}, or give `confirm: {version}` in the configuration of {op_name(key)}."
        with refusals_as_failures():
            way_back.require_confirmed(spec.name, version, config.confirm, how)
        with working_on(spec) as index:
            reason = reason_of(context.run.run_id, config.reason)
            done = cutover.cutover(index, version, reason, anyway=config.anyway, again=config.again, route=route)
            with index.connection() as conn:
                proof = evidence.latest(conn, spec.name, version, route)
        shown = metadata.moved(done) | ({"sentence": proof.sentence} if proof is not None else {})
        context.log.info(f"{done.route} serves {spec.name}, generation {done.generation}.")
        return dg.MaterializeResult(metadata=shown)

    return cut_over


def gate_job(spec: IndexSpec, version: str, route: Kind) -> UnresolvedAssetJobDefinition:
    """Judge; the run fails unless every check passes. Of a route through the version's own vectors the ANN index is built first."""
    names = Names(spec.name)
    built = [names.ann_index(version)] if route == "direct" else []
    return dg.define_asset_job(
        names.gate_job(version, route),
        selection=dg.AssetSelection.assets(*built, names.judged(version, route)),
        description=f"{ASKED[route].format(version=version, index=spec.name)} Fails unless every check passes; serving is not touched.",
        executor_def=dg.in_process_executor,
    )


def cutover_job(spec: IndexSpec, version: str, route: Kind) -> UnresolvedAssetJobDefinition:
    """Judge and, if every check passes, serve so. Unpartitioned: filling one partition must never cut over."""
    names = Names(spec.name)
    key = names.cutover(version, route)
    return dg.define_asset_job(
        names.cutover_job(version, route),
        selection=dg.AssetSelection.assets(names.judged(version, route), key),
        config={"ops": {op_name(key): {"config": {"confirm": version}}}},
        description=f"Judge, and if every check passes cut over: {SERVES[route].format(version=version, index=spec.name)}.",
        executor_def=dg.in_process_executor,
    )
