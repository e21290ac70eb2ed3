"""Dagster: each protection taken out."""

from __future__ import annotations

from tests.mutations.removal import Edit, Removal
from tests.mutations.removals.where import DAGSTER

DAGSTER_RACES = (
    Removal(
        "dual_write_materializes",
        (
            Edit(
                "dagster_layer/assets.py",
                "dg.AssetObservation(names.embeddings(result.version), metadata=metadata.synced(result))",
                'dg.AssetMaterialization(names.embeddings(result.version), partition="00", metadata=metadata.synced(result))',
            ),
        ),
        (DAGSTER + "test_dual_write_observes_and_never_fills_a_partition",),
        r"assert \{\} ==|AssertionError",
    ),
    Removal(
        "cutover_does_not_ask_for_evidence",
        (
            Edit("migrate/cutover.py", "passing = require_evidence(conn, index, version)", "pass"),
            Edit("migrate/cutover.py", '"cutover", passing.id, reason)', '"cutover", None, reason)'),
        ),
        (DAGSTER + "test_serving_alone_is_refused_without_evidence",),
        r"AssertionError|assert",
    ),
    Removal(
        "partitions_are_logged_at_the_end",
        (
            Edit(
                "dagster_layer/assets.py",
                "        context.log_event(dg.AssetMaterialization(key, partition=partition, metadata=shown))\n",
                "        if done == len(context.partition_keys):\n"
                "            for each in context.partition_keys:\n"
                "                context.log_event(dg.AssetMaterialization(key, partition=each, metadata=shown))\n",
            ),
        ),
        (DAGSTER + "test_a_failing_partition_leaves_the_others_green_and_a_relaunch_completes",),
        r"document 25 stands in partition 02",
    ),
    Removal(
        "sensor_asks_again",
        (Edit("dagster_layer/sensors.py", "if unfinished_run(context.instance, names.dual_write_job):", "if False:"),),
        ("tests/database/dagster_layer/test_automation.py::test_the_sensor_waits_for_its_own_run",),
        r"assert RunRequest",
    ),
    Removal(
        "dual_write_has_no_end",
        (Edit("dagster_layer/jobs.py", ', "dagster/max_runtime": "900"', ""),),
        ("tests/database/dagster_layer/test_automation.py::test_the_sensor_asks_for_a_run_while_changes_wait",),
        r"KeyError: 'dagster/max_runtime'",
    ),
)
