"""The cost curve and the adapter as a person meets them in Dagster."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg
import psycopg
import pytest

from embed_pipeline.adapt import curve
from embed_pipeline.catalog import adapters
from embed_pipeline.migrate.opening import opened
from embed_pipeline.report.status import status_of
from embed_pipeline.spec import IndexSpec
from tests.database.dagster_layer.conftest import DOCUMENTS, Declare, Runner, failure, words

Run = Callable[[IndexSpec], Runner]
ENOUGH = 320


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a picture looks like is nothing for a database."""
    monkeypatch.setattr(curve.Curve, "draw", lambda _: b"")


def curves(docs: Runner) -> list[dg.AssetMaterialization]:
    """Every materialization of the curve, oldest first."""
    found = docs.instance.fetch_materializations(dg.AssetKey(["docs", "v2", "cost_curve"]), limit=100).records
    return [record.asset_materialization for record in reversed(found) if record.asset_materialization is not None]


def test_a_preview_begins_the_curve_and_the_backfill_goes_on_with_it(declare: Declare, run: Run) -> None:
    docs = run(declare({"v1": {"drop": 0.5}, "v2": {}}))
    docs.find_serving("v1")
    docs.backfill("v2", "00", "00")
    assert curves(docs) == [], "nobody has asked for one"
    assert docs.job("docs__v2_preview").success
    docs.backfill("v2", "01", "03")
    partitions = [each.metadata["partitions"].value for each in curves(docs)]
    assert partitions == [1, 2, 3, 4]
    last = curves(docs)[-1].metadata
    assert {"advice", "table", "plot", "keep old", "refine"} <= last.keys()


def test_a_curve_that_cannot_be_measured_stops_no_backfill(declare: Declare, run: Run) -> None:
    spec = declare({"v1": {}, "v2": {}})
    docs = run(spec)
    docs.find_serving("v1")
    assert docs.job("docs__v2_preview").success
    assert spec.holdout is not None
    spec.holdout.path.write_text("")
    docs.fill("v2")
    assert len(curves(docs)) == 1


def test_an_adapter_is_fitted_by_a_job_and_watched_by_the_comparison(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    with app.cursor() as cursor:
        rows = [(number, words(number)) for number in range(DOCUMENTS + 1, ENOUGH + 1)]
        cursor.executemany("INSERT INTO articles VALUES (%s, %s)", rows)
    docs = run(declare({"v1": {}, "v2": {}}))
    docs.find_serving("v1")
    result = docs.job("docs_compare")
    (fresh,) = [each for each in result.get_asset_check_evaluations() if each.check_name == "adapter_fresh"]
    assert fresh.passed, "what was never fitted cannot be old"
    refused = docs.job("docs__v2_fit")
    assert not refused.success
    assert "have 0 pairs of the same text" in failure(refused).step_failure_data.user_failure_data.description  # type: ignore[union-attr]
    docs.fill("v2")
    assert docs.job("docs__v2_fit").success
    with opened(docs.spec) as index, index.connection() as conn:
        assert adapters.latest(conn, "docs", "v2", "v1") is not None
    assert any("too few to tell" in each for each in status_of(docs.spec).adapters)
    app.execute("UPDATE articles SET body = body || ' again' WHERE id <= 60")
    assert docs.job("docs_dual_write").success
    # Two versions that know nothing of each other: what was written since agrees no better, and no worse.
    result = docs.job("docs_compare")
    (fresh,) = [each for each in result.get_asset_check_evaluations() if each.check_name == "adapter_fresh"]
    assert fresh.metadata["pairs"].value == 60
