"""A provider that changes its model behind the name, as a person meets it: by the command line and in Dagster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dagster as dg
import psycopg
import pytest

from embed_pipeline.configuration import load_indexes
from embed_pipeline.dagster_layer.component import build_definitions
from embed_pipeline.migrate.model_sample import TEXTS
from tests.database.cli.conftest import DOCUMENTS, Place, Ran
from tests.database.cli.test_flow import ok
from tests.harness.providers.loopback import Provider

Run = Callable[..., Ran]
MODEL = "text-embedding-3-small"


@pytest.fixture
def filled(place: Place, run: Run, provider: Provider) -> None:
    """v1 of a provider is filled."""
    version = {"provider": "openai", "model_name": MODEL, "dimensions": 16, "base_url": provider.base_url("openai")}
    place.declare(versions={"v1": version}, model_check={"schedule": "5 5 * * *"})
    ok(run("load", "docs", place.write_documents(), "--json"))
    ok(run("backfill", "docs", "v1", "--json"))


def test_the_command_line_says_it_and_lets_a_person_decide(
    filled: None, run: Run, provider: Provider, conn: psycopg.Connection[Any]
) -> None:
    assert len(provider.billed(MODEL)) == DOCUMENTS + len(TEXTS), "the sample is paid for once"
    assert "docs: serves" in run("status", "docs").out
    (found,) = ok(run("check-model", "docs", "--json"))["versions"]
    assert (found["version"], found["outcome"], found["texts"]) == ("v1", "same", len(TEXTS))

    provider.fail("changed", provider="openai")
    told = run("check-model", "docs")
    assert (told.code, told.out.count("The provider has changed text-embedding-3-small")) == (1, 1)
    conn.execute("UPDATE docs SET text = 'another text' WHERE id = '7'")
    synced = run("sync", "docs")
    assert synced.code == 1
    assert synced.err.endswith("run: embed-pipeline check-model docs v1 --accept\n")
    assert run("check-model", "docs", "--accept").code == 2
    assert (
        ok(run("check-model", "docs", "v1", "--accept", "--reason", "same space", "--json"))["versions"][0]["outcome"] == "taken"
    )
    assert "same space" in run("status", "docs").out
    assert run("check-model", "docs").code == 0

    provider.fail("refuse", status=403, words="Your country is not supported")
    unknown = run("check-model", "docs", "--json")
    assert (unknown.code, unknown.value["versions"][0]["outcome"]) == (1, "unknown")
    assert "Your country is not supported" in unknown.value["versions"][0]["sentence"]


def test_dagster_turns_the_check_red(filled: None, place: Place, provider: Provider) -> None:
    docs = build_definitions(load_indexes(place.config)["docs"])
    schedule = docs.resolve_schedule_def("docs_model_check")
    assert (schedule.job_name, schedule.cron_schedule) == ("docs_model_check", "5 5 * * *")
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    with dg.DagsterInstance.ephemeral() as instance:

        def check() -> tuple[bool, dg.AssetCheckSeverity, str]:
            result = docs.resolve_job_def("docs_model_check").execute_in_process(instance=instance, raise_on_error=False)
            (found,) = result.get_asset_check_evaluations()
            assert result.success is found.passed
            assert found.asset_key == dg.AssetKey(["docs", "model_check"])
            return found.passed, found.severity, found.description or ""

        assert check()[0]
        changed = provider.fail("changed", provider="openai")
        passed, severity, said = check()
        assert (passed, severity) == (False, dg.AssetCheckSeverity.ERROR)
        assert "it no longer gives the vectors that docs.v1 was made with" in said
        provider.lift(changed)
        assert check()[0]
        provider.fail("refuse", status=403, words="Your country is not supported")
        passed, severity, said = check()
        assert (passed, severity) == (False, dg.AssetCheckSeverity.WARN)
        assert "Your country is not supported" in said


def test_an_index_that_asks_no_provider_has_no_model_check(place: Place, run: Run) -> None:
    docs = build_definitions(load_indexes(place.config)["docs"])
    assert "docs_model_check" not in {each.name for each in docs.get_repository_def().schedule_defs}
    ok(run("load", "docs", place.write_documents(), "--json"))
    ok(run("backfill", "docs", "v1", "--json"))
    assert "name a version to check it all the same" in run("check-model", "docs").out
    assert "v1: taken" in run("check-model", "docs", "v1").out
    assert "v1: same" in run("check-model", "docs").out
