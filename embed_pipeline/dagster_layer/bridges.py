"""What leads from one version to the next: the adapter of a bridge, whether it still fits, and the cost curve of a migration.

An index with one version has none of them.
"""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets and ops as objects.

from collections.abc import Iterator
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from embed_pipeline.adapt import age
from embed_pipeline.adapt.curve import Curve
from embed_pipeline.dagster_layer import metadata
from embed_pipeline.dagster_layer.names import Names, after_documents, op_name
from embed_pipeline.dagster_layer.work import Lines, Materialized, fail_by_checks, working_on
from embed_pipeline.errors import AdapterRefused, CatalogError, EmbedPipelineError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import fit, preview
from embed_pipeline.spec import IndexSpec

ADAPTER_FRESH = "adapter_fresh"


class CurveConfig(dg.Config):
    """`embed`: first embed what the held-out queries find, at most a hundred documents for each, for money."""

    embed: bool = False


def followers(spec: IndexSpec) -> list[str]:
    """The versions that could follow another one: all but the first declared."""
    return list(spec.versions)[1:]


def bridge_assets(spec: IndexSpec) -> list[dg.AssetsDefinition]:
    """The adapter and the cost curve of each version that follows another."""
    return [make(spec, version) for version in followers(spec) for make in (adapter_asset, cost_curve_asset)]


def bridge_checks(spec: IndexSpec) -> list[dg.AssetChecksDefinition]:
    """Whether each adapter still fits. Run with the full comparison: that is when somebody looks for what nobody changed on purpose."""
    return [adapter_fresh_check(spec, version) for version in followers(spec)]


def bridge_jobs(spec: IndexSpec) -> list[UnresolvedAssetJobDefinition]:
    """Fit an adapter, and preview a migration: for people and pipelines."""
    return [make(spec, version) for version in followers(spec) for make in (fit_job, preview_job)]


def fresh_checks(spec: IndexSpec) -> list[dg.AssetCheckKey]:
    """What runs with the full comparison."""
    names = Names(spec.name)
    return [dg.AssetCheckKey(names.adapter(version), ADAPTER_FRESH) for version in followers(spec)]


def adapter_asset(spec: IndexSpec, version: str) -> dg.AssetsDefinition:
    """The map that takes a version's queries into the index that serves."""
    names = Names(spec.name)

    @dg.asset(
        key=names.adapter(version),
        deps=[dg.AssetDep(names.embeddings(version), partition_mapping=dg.AllPartitionMapping())],
        group_name=names.group(version),
        kinds={"python"},
        tags={"embed_pipeline/version": version},
        description=f"A map that takes queries of `{version}` into the index that serves {spec.name}, fitted on passages that both have. "
        "It serves nothing by itself: the gate judges the bridge like any other way to serve.",
    )
    def fit_adapter(context: dg.AssetExecutionContext) -> Materialized:
        with working_on(spec) as index:
            found = fit.fit(index, version)
        context.log.info(found.sentence)
        return dg.MaterializeResult(metadata=metadata.fitted(found))

    return fit_adapter


def adapter_fresh_check(spec: IndexSpec, version: str) -> dg.AssetChecksDefinition:
    """Of the newest adapter, whether what was written since agrees as well. A warning: the bridge still answers."""
    names = Names(spec.name)

    # A check may yield its answer and then fail its run; the annotation of the decorator knows only one that returns.
    @dg.asset_check(  # type: ignore[arg-type]
        asset=names.adapter(version),
        name=ADAPTER_FRESH,
        blocking=False,
        description=f"Passages written since the adapter of {version} was fitted agree as well as those held out at its fit.",
    )
    def fresh() -> Iterator[Any]:
        with working_on(spec, register_new=False) as index:
            answer = _fresh(index, version)
        yield answer
        fail_by_checks(spec, [answer])

    return fresh


def _fresh(index: OpenIndex, version: str) -> dg.AssetCheckResult:
    passed, said, shown = True, "", metadata.Metadata()
    try:
        found = age.adapter_fresh(index, version)
        passed, said, shown = found.outcome != "stale", found.sentence, metadata.freshness(found)
    except (AdapterRefused, CatalogError) as problem:
        # Without an adapter, or before the version is registered, there is nothing that could age.
        passed = not (isinstance(problem, AdapterRefused) and problem.fields["reason"] == "other_fingerprint")
        said = problem.message
    return dg.AssetCheckResult(
        passed=passed, check_name=ADAPTER_FRESH, severity=dg.AssetCheckSeverity.WARN, description=said, metadata=shown
    )


def cost_curve_asset(spec: IndexSpec, version: str) -> dg.AssetsDefinition:
    """What each way to serve is worth against what it takes. A backfill materializes it at each tenth of its partitions, too."""
    names = Names(spec.name)

    @dg.asset(
        key=names.cost_curve(version),
        deps=after_documents(spec),
        group_name=names.group(version),
        kinds={"python"},
        tags={"embed_pipeline/version": version},
        description=f"What the held-out queries of {spec.name} say of the migration to `{version}`: answers against documents, money and "
        "time. With `embed` it is begun by a preview; the backfill adds a point at every tenth.",
    )
    def draw_curve(context: dg.AssetExecutionContext, config: CurveConfig) -> Materialized:
        lines = Lines(context.log)
        with working_on(spec) as index:
            if not config.embed:
                curve = preview.measure(index, version)
            else:
                pool = preview.pool(index, version)
                context.log.info(pool.sentence)
                found = preview.preview(index, pool, lambda reason: lines.say(f"waiting: {reason}") if reason else None)
                context.log.info(found.sentence)
                curve = found.curve
        context.log.info(curve.advice)
        return dg.MaterializeResult(metadata=metadata.cost_curve(curve))

    return draw_curve


class TenthPoints:
    """Logs the curve of a version whose backfill has filled another tenth. A point that cannot be measured stops no backfill."""

    def __init__(self, context: dg.AssetExecutionContext, index: OpenIndex, version: str) -> None:
        self._context = context
        self._key = Names(index.name).cost_curve(version)
        self._tenths = preview.Tenths(index, version)

    def partition_filled(self) -> Curve | None:
        """Called after each partition."""
        try:
            curve = self._tenths.partition_filled()
        except EmbedPipelineError as problem:
            self._context.log.warning(preview.told(problem))
            return None
        if curve is not None:
            self._context.log_event(dg.AssetMaterialization(self._key, metadata=metadata.cost_curve(curve)))
        return curve


def fit_job(spec: IndexSpec, version: str) -> UnresolvedAssetJobDefinition:
    """Fit the map of a bridge."""
    names = Names(spec.name)
    return dg.define_asset_job(
        names.fit_job(version),
        selection=dg.AssetSelection.assets(names.adapter(version)).without_checks(),
        description=f"Fit the map from {version}'s queries into the index that serves {spec.name}. Embeds nothing, and serves nothing.",
        executor_def=dg.in_process_executor,
    )


def preview_job(spec: IndexSpec, version: str) -> UnresolvedAssetJobDefinition:
    """Begin the curve of a migration. Launching it is the word that it may pay."""
    names = Names(spec.name)
    return dg.define_asset_job(
        names.preview_job(version),
        selection=dg.AssetSelection.assets(names.cost_curve(version)),
        config={"ops": {op_name(names.cost_curve(version)): {"config": {"embed": True}}}},
        description=f"Foretell what {version} is worth to {spec.name}: embeds what the held-out queries find now, at most a hundred "
        "documents for each, and pays for them once.",
        executor_def=dg.in_process_executor,
    )
