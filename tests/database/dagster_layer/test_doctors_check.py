"""The doctor's look as a check: green where nothing is worse than a note, and a failed run where a person has to look."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg
import psycopg
import pytest

from embed_pipeline.migrate.opening import opened
from embed_pipeline.spec import IndexSpec
from tests.database.dagster_layer.conftest import Declare, Runner, sentence
from tests.harness import articles

Run = Callable[[IndexSpec], Runner]
V1 = {"v1": {}}


@pytest.fixture
def instance(instance_on_disk: dg.DagsterInstance) -> dg.DagsterInstance:
    """The context of a tick opens its instance again."""
    return instance_on_disk


def test_it_fails_its_run_for_what_a_person_has_to_look_at(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    docs = run(declare(V1))
    schedule = docs.definitions.resolve_schedule_def("docs_doctor")
    with dg.build_schedule_context(instance=docs.instance) as context:
        assert schedule.evaluate_tick(context).skip_message == "docs has no live version yet."
    docs.find_serving("v1")
    with dg.build_schedule_context(instance=docs.instance) as context:
        assert len(schedule.evaluate_tick(context).run_requests or []) == 1
    good = docs.job("docs_doctor")
    assert good.success, sentence(good)
    (answer,) = good.get_asset_check_evaluations()
    assert (answer.passed, answer.asset_key.to_user_string()) == (True, "docs/serving")

    # As a writer past all that this package does: every vector the same.
    app.execute("UPDATE embed_pipeline.docs__v1 SET embedding = (SELECT embedding FROM embed_pipeline.docs__v1 LIMIT 1)")
    bad = docs.job("docs_doctor")
    assert sentence(bad).startswith("doctor: v1: ")
    (answer,) = bad.get_asset_check_evaluations()
    assert not answer.passed
    assert answer.severity == dg.AssetCheckSeverity.ERROR
    assert "another_model" in str(answer.metadata["found"].value)

    told = run(declare(V1, checks={"fail_runs": False})).job("docs_doctor")
    assert told.success
    assert not told.get_asset_check_evaluations()[0].passed
    with opened(docs.spec) as index:
        articles.settle(index)
