"""What serves, as Dagster shows it: an asset without a button, its checks, and the sensor that keeps them true to the catalog.

What is asked and answered stands in `report/on_call.py`. What was done from a shell is reported here, so that the graph shows it.
"""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets and ops as objects.

import hashlib
import json
from collections.abc import Iterator
from functools import partial

import dagster as dg
import psycopg

from embed_pipeline.dagster_layer import metadata
from embed_pipeline.dagster_layer.elsewhere import done_elsewhere
from embed_pipeline.dagster_layer.names import Names
from embed_pipeline.dagster_layer.routes import ways
from embed_pipeline.dagster_layer.work import refusals_as_failures
from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.report import on_call
from embed_pipeline.report.now import Now, now_of
from embed_pipeline.report.on_call import Answer
from embed_pipeline.spec import IndexSpec

SECONDS_BETWEEN_LOOKS = 60
# So many events are said in one tick at most: each is a row in Dagster's own database.
EVENTS = 500

Event = dg.AssetMaterialization | dg.AssetCheckEvaluation


def serving_asset(spec: IndexSpec) -> dg.AssetSpec:
    """Which version serves: a fact of the catalog, and nothing that a run could make."""
    names = Names(spec.name)
    return dg.AssetSpec(
        names.serving,
        deps=[names.cutover(version, route) for version, route in ways(spec)],
        group_name=names.serving_group,
        kinds={"postgres"},
        description=f"What serves {spec.name}, since when, by whom and why; kept true by the sensor `{names.state_sensor}`. It has no button: "
        f"the cutover job of a version moves it, and `{names.rollback_job}` moves it back.",
    )


def serving_checks(spec: IndexSpec) -> list[dg.AssetChecksDefinition]:
    """What a person on call asks, and of each version whether it was retired. The sensor answers; to run one asks at once."""
    names = Names(spec.name)

    @dg.multi_asset_check(
        name=names.serving_checks,
        specs=[dg.AssetCheckSpec(name, asset=names.serving, description=on_call.ASKED[name]) for name in on_call.QUESTIONS],
        # So that what has no answer yet may go without one.
        can_subset=True,
    )
    def ask(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        with refusals_as_failures():
            now = now_of(spec)
        wanted = {key.name for key in context.selected_asset_check_keys}
        for answer in [] if now is None else on_call.answers(now):
            if answer.name in wanted:
                yield _result(names, names.serving, answer)

    return [ask, *(retired_check(spec, version) for version in spec.versions)]


def retired_check(spec: IndexSpec, version: str) -> dg.AssetChecksDefinition:
    """Dagster never takes a partition's green back: of a version whose vectors are dropped this check says so."""
    names = Names(spec.name)
    key = names.embeddings(version)

    @dg.asset_check(name=on_call.NOT_RETIRED, asset=key, description=f"{version} is not retired: what is green here is there.")
    def look() -> dg.AssetCheckResult:
        with refusals_as_failures():
            now = now_of(spec)
        if now is None:
            return dg.AssetCheckResult(passed=True, description=f"{version} is not registered yet.")
        return _result(names, key, on_call.not_retired(now, version))

    return look


def state_sensor(spec: IndexSpec) -> dg.SensorDefinition:
    """Says what is true when that differs from what it said last; runs from the start, and requests nothing."""
    names = Names(spec.name)

    @dg.sensor(
        name=names.state_sensor,
        minimum_interval_seconds=SECONDS_BETWEEN_LOOKS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Keeps `{names.serving.to_user_string()}` and the nodes of every version true to the catalog, whoever did what, from "
        "wherever: looks each minute, and says what has changed.",
    )
    def look(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            now = now_of(spec)
        except EmbedPipelineError as problem:
            return dg.SkipReason(str(problem))
        except psycopg.Error as problem:
            return dg.SkipReason(f"PostgreSQL did not answer: {problem.diag.message_primary or type(problem).__name__}.")
        if now is None:
            return dg.SkipReason(f"{spec.name} is not registered in its database yet; its first backfill does that.")
        events: list[Event] = list(done_elsewhere(context.instance, spec, now, EVENTS))
        said = digest(now)
        if said != context.cursor:
            # The checks last: Dagster takes a check for an answer about the materialization before it.
            events += [_serving(spec, now), *_evaluations(spec, now)]
        if events:
            return dg.SensorResult(asset_events=events, cursor=said)
        return dg.SensorResult(skip_reason="Nothing has changed since it was said last.", cursor=said)

    return look


def digest(now: Now) -> str:
    """What is said, without what changes by itself: ages, and how much waits at this moment."""
    answers = [(each.name, each.passed, each.severe, each.sentence) for each in on_call.answers(now)]
    said = [answers, on_call.table(now), on_call.coverage(now), str(now.status.control), now.status.next.command]
    return hashlib.sha256(json.dumps(said, default=str).encode()).hexdigest()


def _serving(spec: IndexSpec, now: Now) -> dg.AssetMaterialization:
    names = Names(spec.name)
    return dg.AssetMaterialization(
        names.serving, description=on_call.page(now, partial(metadata.link, names)), metadata=metadata.now(names, now)
    )


def _evaluations(spec: IndexSpec, now: Now) -> list[dg.AssetCheckEvaluation]:
    names = Names(spec.name)
    found = [_evaluation(names, names.serving, answer) for answer in on_call.answers(now)]
    return found + [
        _evaluation(names, names.embeddings(version), on_call.not_retired(now, version))
        for version in spec.versions
        if now.version(version) is not None
    ]


def _evaluation(names: Names, asset: dg.AssetKey, answer: Answer) -> dg.AssetCheckEvaluation:
    result = _result(names, asset, answer)
    return dg.AssetCheckEvaluation(
        asset_key=asset,
        check_name=answer.name,
        passed=result.passed,
        severity=result.severity,
        description=result.description,
        metadata=result.metadata,
    )


def _result(names: Names, asset: dg.AssetKey, answer: Answer) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=answer.passed,
        asset_key=asset,
        check_name=answer.name,
        severity=dg.AssetCheckSeverity.ERROR if answer.severe else dg.AssetCheckSeverity.WARN,
        description=answer.sentence,
        metadata=metadata.launch(names, answer.command),
    )
