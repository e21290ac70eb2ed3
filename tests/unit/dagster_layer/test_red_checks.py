"""A check that fails ends its run, once its answer is handed over: without a database, by what the verbs would have found."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import dagster as dg
import pytest

from embed_pipeline.dagster_layer import assets, bridges
from embed_pipeline.migrate import model_check
from embed_pipeline.migrate.model_check import ModelCheck
from embed_pipeline.spec import IndexSpec

MODEL = {"provider": "tests.harness.fakes:WordsEmbedder", "model_name": "m", "dimensions": 8}


def executed(definition: dg.AssetChecksDefinition | dg.AssetsDefinition) -> dg.ExecuteInProcessResult:
    checks = [definition] if isinstance(definition, dg.AssetChecksDefinition) else []
    made = dg.Definitions(assets=[] if checks else [definition], asset_checks=checks)
    with dg.DagsterInstance.ephemeral() as instance:
        job = made.resolve_implicit_global_asset_job_def()
        return job.execute_in_process(instance=instance, raise_on_error=False)


@pytest.mark.parametrize("fail_runs", [True, False])
@pytest.mark.parametrize("name", ["adapter_fresh", "same_model"])
def test_a_red_check_is_answered_and_fails_its_run(monkeypatch: pytest.MonkeyPatch, name: str, fail_runs: bool) -> None:
    spec = IndexSpec.model_validate({"name": "docs", "versions": {"v1": MODEL, "v2": MODEL}, "checks": {"fail_runs": fail_runs}})
    answer = dg.AssetCheckResult(passed=False, check_name="adapter_fresh", description="It is old.")
    found = [ModelCheck("v1", "changed", "It is old.")]
    for module in (assets, bridges):
        monkeypatch.setattr(module, "working_on", lambda *_, **__: nullcontext())
    monkeypatch.setattr(bridges, "_fresh", lambda *_: answer)
    monkeypatch.setattr(model_check, "check", lambda *_: found)
    definition: Any = bridges.adapter_fresh_check(spec, "v2") if name == "adapter_fresh" else assets.model_check_asset(spec)
    done = executed(definition)
    assert [(each.check_name, each.passed) for each in done.get_asset_check_evaluations()] == [(name, False)]
    assert done.success != fail_runs
    failed = [event.step_failure_data.error for event in done.all_events if event.is_step_failure]
    said = [error.message for error in failed if error is not None]
    assert said == ([f"{name}: It is old.\n"] if fail_runs else [])
