"""The assets of one index. A version is an asset, a key range of the documents is a partition of it.

    documents ─┬─> v1/embeddings [partitioned] ─> v1/ann_index ─> v1/evaluation ─> v1/cutover ─┐
               ├─> v2/embeddings [partitioned] ─> v2/ann_index ─> v2/evaluation ─> v2/cutover ─┴─> serving
               ├─> dual_write
               ├─> comparison
               └─> model_check (with a version of a provider)

`routes.py` has the last two of a version, and those of the other routes by which it may serve. `bridges.py` has what an index with several
versions has besides: adapters, and the cost curve.

No IO managers: vectors go to the store, and what an asset hands to Dagster is what a person wants to see.
"""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets and ops as objects.

import time
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from embed_pipeline.dagster_layer import checks, freshness, metadata
from embed_pipeline.dagster_layer.bridges import TenthPoints
from embed_pipeline.dagster_layer.names import Names, after_documents
from embed_pipeline.dagster_layer.routes import route_assets
from embed_pipeline.dagster_layer.serving import serving_asset
from embed_pipeline.dagster_layer.work import Lines, Materialized, fail_by_checks, is_news, say_doubts, working_on
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import ann_index, backfill, dead_letters, dual_write, model_check, refill, verify
from embed_pipeline.spec import IndexSpec

# A dual-write run ends after this time even under steady changes; the sensor requests the next one.
DUAL_WRITE_BUDGET_SECONDS = 300.0

# A crashed worker or a lost connection: what is filled is kept, so the second try goes on where the first one stopped.
RETRIES = dg.RetryPolicy(max_retries=2, delay=10, backoff=dg.Backoff.EXPONENTIAL)


def build_assets(spec: IndexSpec) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Every asset of the index, in the order of the graph."""
    made_elsewhere = spec.documents is not None and spec.documents.asset is not None
    assets: list[dg.AssetsDefinition | dg.AssetSpec] = [] if made_elsewhere else [documents_asset(spec)]
    for version in spec.versions:
        assets += [embeddings_asset(spec, version), ann_index_asset(spec, version)]
    asked = [model_check_asset(spec)] if spec.asks_providers else []
    return [*assets, *route_assets(spec), serving_asset(spec), dual_write_asset(spec), comparison_asset(spec), *asked]


def documents_asset(spec: IndexSpec) -> dg.AssetSpec:
    """The user's own table: not ours to make. Where the user has an asset that makes it, that one stands here."""
    source = spec.source()
    return dg.AssetSpec(
        Names(spec.name).documents,
        group_name=spec.name,
        kinds={"postgres"},
        description=f"The documents of {spec.name}: the table `{source.table}`, which the application writes.",
        metadata={"dagster/table_name": source.table, "key": ", ".join(source.key), "text": ", ".join(source.text)},
    )


def embeddings_asset(spec: IndexSpec, version: str) -> dg.AssetsDefinition:
    """The vectors of one version, filled from history key range by key range."""
    names = Names(spec.name)
    declared = spec.versions[version]
    key = names.embeddings(version)

    @dg.asset(
        key=key,
        deps=after_documents(spec),
        partitions_def=dg.StaticPartitionsDefinition(spec.partition_keys()),
        backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=spec.backfill.partitions_per_run),
        group_name=names.group(version),
        kinds=metadata.kinds(spec, version),
        tags={"embed_pipeline/version": version},
        # Of what is declared: no model is opened, and no file read, to load a code location.
        code_version=declared.fingerprint({})[:12],
        metadata=metadata.declared(declared) | {"store": spec.store.place(spec.name)},
        description=f"The vectors of `{version}` of {spec.name}, made by `{declared.model_name}`. "
        "One partition is one key range of the documents; a green one is completely embedded.",
        pool=names.backfill_pool,
        retry_policy=RETRIES,
        output_required=False,
    )
    def embeddings(context: dg.AssetExecutionContext) -> Iterator[Any]:
        with working_on(spec) as index:
            _fill(context, index, version, key)
        # Each partition was logged as it was done; there is no value to hand over.
        yield from ()

    return embeddings


def _fill(context: dg.AssetExecutionContext, index: OpenIndex, version: str, key: dg.AssetKey) -> None:
    """Fill the run's partitions one after another. What is done is logged at once: a crash must not take it back."""
    lines = Lines(context.log)
    started = time.monotonic()
    again = refill.make_again(index, version, lambda found: context.log.warning(found.sentence))
    wanted = _wanted(context, index, version)
    backfill.submit_ahead(index, version, wanted)
    say_doubts(context.log, index)
    tenths = TenthPoints(context, index, version)
    for done, partition in enumerate(wanted, start=1):
        report = backfill.fill_partition(index, version, partition, lambda progress: lines.say(metadata.progress_line(progress)))
        with index.connection() as conn:
            unfilled = len(backfill.unfilled(conn, index, version))
        shown = metadata.partition(report, unfilled, (time.monotonic() - started) / done)
        context.log_event(dg.AssetMaterialization(key, partition=partition, metadata=shown))
        context.log.info(
            f"partition {partition} is filled: {report.written} written, {report.rejected} rejected, "
            f"{report.truncated} truncated; {unfilled} partitions left, about {shown['seconds left']:.0f} s"
        )
        tenths.partition_filled()
    if again is not None and again.by_queue:
        refill.work_off(index, version)


def _wanted(context: dg.AssetExecutionContext, index: OpenIndex, version: str) -> Sequence[str]:
    """The run's partitions; of one that was launched without any, as `dg launch --job` does, those that are open."""
    if context.has_partition_key or context.has_partition_key_range:
        return list(context.partition_keys)
    with index.connection() as conn:
        found = backfill.unfilled(conn, index, version)
    context.log.info(f"No partition was named: {len(found)} of {version} are open, and are filled.")
    return found


def ann_index_asset(spec: IndexSpec, version: str) -> dg.AssetsDefinition:
    """The ANN index over one version's vectors, built when all partitions are filled."""
    names = Names(spec.name)

    @dg.asset(
        key=names.ann_index(version),
        deps=[dg.AssetDep(names.embeddings(version), partition_mapping=dg.AllPartitionMapping())],
        group_name=names.group(version),
        kinds=metadata.kinds(spec, version),
        tags={"embed_pipeline/version": version},
        description=f"The ANN index of `{version}`. Refused while partitions are missing; then the version is ready.",
    )
    def build(context: dg.AssetExecutionContext) -> Materialized:
        lines = Lines(context.log)
        started = time.monotonic()
        with working_on(spec) as index:
            built = ann_index.build(index, version, lambda phase, share: lines.say(f"{phase}: {share:.0%}"))
        return dg.MaterializeResult(metadata=metadata.ann_index(built, time.monotonic() - started))

    return build


def dual_write_asset(spec: IndexSpec) -> dg.AssetsDefinition:
    """Work off what waits for every live version. Observes the embeddings, and never marks a partition as filled."""
    names = Names(spec.name)

    @dg.asset(
        key=names.dual_write,
        deps=after_documents(spec),
        check_specs=[checks.dead_letters_spec(spec, names.dual_write)],
        group_name=spec.name,
        kinds={"postgres"},
        freshness_policy=freshness.of_dual_write(),
        description=f"Brings every live version of {spec.name} up to date with changed documents. Requested by the sensor "
        f"`{names.dual_write_sensor}`.",
    )
    def sync(context: dg.AssetExecutionContext) -> Iterator[Any]:
        with working_on(spec) as index:
            results = dual_write.sync(index, budget_seconds=DUAL_WRITE_BUDGET_SECONDS)
            letters = checks.dead_letters(spec, names.dual_write, dead_letters.counts(index))
            doubts = say_doubts(context.log, index)
        for result in results:
            context.log_event(dg.AssetObservation(names.embeddings(result.version), metadata=metadata.synced(result)))
        broken = [f"{result.version}: {result.error}" for result in results if result.error]
        if broken:
            raise dg.Failure(description=" ".join(broken), allow_retries=False)
        shown: metadata.Metadata = {f"{result.version} written": result.written for result in results}
        shown |= {f"{result.version} pending": result.pending for result in results} | metadata.doubts(doubts)
        failing = [letters] if is_news(context.instance, names.dual_write, letters) else []
        yield dg.MaterializeResult(metadata=shown, check_results=[letters])
        fail_by_checks(spec, failing)

    return sync


def comparison_asset(spec: IndexSpec) -> dg.AssetsDefinition:
    """Every document against every vector of every live version: what bypassed change capture is found, queued and said."""
    names = Names(spec.name)
    key = names.comparison

    @dg.asset(
        key=key,
        deps=after_documents(spec),
        check_specs=[checks.nothing_bypassed_spec(key)],
        group_name=spec.name,
        kinds={"postgres"},
        retry_policy=RETRIES,
        freshness_policy=freshness.of_comparison(spec.reconcile.schedule),
        description=f"Compares every document of {spec.name} with the vectors of every live version, arms change capture again where it "
        f"is off, and queues what differs for the dual-write. Run by the schedule `{names.compare_schedule}`.",
    )
    def compare(context: dg.AssetExecutionContext) -> Iterator[Any]:
        with working_on(spec, register_new=False) as index:
            compared = verify.reconcile(index)
        (context.log.warning if compared.found else context.log.info)(compared.sentence)
        answer = checks.nothing_bypassed(key, compared)
        yield dg.MaterializeResult(metadata=metadata.compared(compared), check_results=[answer])
        fail_by_checks(spec, [answer])

    return compare


def model_check_asset(spec: IndexSpec) -> dg.AssetsDefinition:
    """Every provider's model asked again for a few texts: one that changed behind its name turns the check red."""
    names = Names(spec.name)
    key = names.model_check

    @dg.asset(
        key=key,
        deps=after_documents(spec),
        check_specs=[checks.same_model_spec(spec, key)],
        group_name=spec.name,
        kinds={"postgres"},
        retry_policy=RETRIES,
        description=f"Asks the models of {spec.name} for a few kept texts again and compares. A model that changed embeds nothing more "
        f"until a person has decided. Run by the schedule `{names.model_check_schedule}`.",
    )
    def ask_again(context: dg.AssetExecutionContext) -> Iterator[Any]:
        with working_on(spec, register_new=False) as index:
            found = model_check.check(index)
        for each in found:
            (context.log.error if each.outcome == "changed" else context.log.info)(each.sentence)
        answer = checks.same_model(key, found)
        yield dg.MaterializeResult(metadata=metadata.models_checked(found), check_results=[answer])
        fail_by_checks(spec, [answer])

    return ask_again
