"""An index whose declaration cannot be read: one failing check that says why, in place of the index. All other indexes load and run.

A code location that does not load takes the sensors of every index down with it, and changed documents wait unseen.
"""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets and ops as objects.

import dagster as dg

from embed_pipeline.dagster_layer.names import Names

CHECK = "readable"
SECONDS_BETWEEN_TICKS = 30


def unreadable_definitions(name: str, sentence: str) -> dg.Definitions:
    """What Dagster shows of the index: the asset `declaration`, not ours to make, and its check, which the sensor turns red at once."""
    names = Names(name)
    asset = dg.AssetSpec(names.declaration, group_name=name, kinds={"yaml"}, description=sentence)

    @dg.asset_check(name=CHECK, asset=names.declaration, description=sentence)
    def readable() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False, description=sentence)

    @dg.sensor(
        name=names.declaration_sensor,
        minimum_interval_seconds=SECONDS_BETWEEN_TICKS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Says that {name} does not run, its dual-write neither: {sentence}",
    )
    def say(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        context.log.error(sentence)
        failed = dg.AssetCheckEvaluation(
            asset_key=names.declaration, check_name=CHECK, passed=False, description=sentence, metadata={}
        )
        # Once for each sentence: an event each tick would bury what happened.
        said = context.cursor == sentence
        return dg.SensorResult(skip_reason=sentence, asset_events=[] if said else [failed], cursor=sentence)

    return dg.Definitions(assets=[asset], asset_checks=[readable], sensors=[say])
