"""Money: what a plan says, what a run reports, what the status adds up, and where a budget ends it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embed_pipeline.accounts import terms
from embed_pipeline.accounts.cost import estimate
from embed_pipeline.cli import render, status_lines
from embed_pipeline.dagster_layer import metadata
from embed_pipeline.errors import Stopped
from embed_pipeline.migrate import backfill, dual_write
from embed_pipeline.migrate.opening import opened
from embed_pipeline.report import plan, status
from embed_pipeline.search import Searcher
from embed_pipeline.spec import IndexSpec
from tests.harness.articles import declared
from tests.harness.providers.loopback import Provider

MODEL = "text-embedding-3-small"
PRICE = 0.02 / 1_000_000


def paid_index(url: str, holdout: Path, provider: Provider, **more: Any) -> IndexSpec:
    version = {
        "provider": "openai",
        "model_name": MODEL,
        "dimensions": 16,
        "base_url": provider.base_url("openai"),
        "batch_size": 8,
    }
    return declared(url, holdout, versions={"v1": version}, partitions=1, **more)


def test_the_interval_of_an_estimate_holds_the_truth_about_as_often_as_it_says() -> None:
    chance, held = random.Random(5), 0
    for _ in range(400):
        batches = [(size, round(size * chance.gauss(0.25, 0.02))) for size in (chance.randint(800, 1_200) for _ in range(4))]
        tokens, error = estimate(batches, 1_000_000) or (0, 0)
        assert error is not None
        held += abs(tokens - 250_000) <= error
    assert 0.91 <= held / 400 <= 0.98
    assert estimate([(1_000, 250)], 4_000) == (1_000, None)
    assert estimate([(1_000, 0)], 4_000) is None


def test_planned_reported_and_added_up(app: psycopg.Connection, database_url: str, holdout: Path, provider: Provider) -> None:
    limits = {"openai": {"requests_per_minute": 6_000, "tokens_per_minute": 600_000}}
    spec = paid_index(database_url, holdout, provider, accounts=limits, budget={"usd_per_version": 5})
    planned = plan.plan(spec, "v1").cost
    assert planned is not None
    before = provider.summary()["tokens"]
    with opened(spec) as index:
        report = backfill.fill_partition(index, "v1", "00")
        app.execute("UPDATE articles SET body = 'changed' WHERE id = 1")
        (synced,) = dual_write.sync(index)
        # Who only knows the database finds account and price there.
        with Searcher("docs", database_url) as searcher:
            searcher.search("title 7", version="v1")
        found = status.status(index)
    # The sample of the model check is a kind of its own.
    (version,) = found.versions
    billed = provider.summary()["tokens"] - before
    assert report.tokens == version.spent["backfill"].tokens > 0
    assert synced.tokens == version.spent["dual-write"].tokens > 0
    # The plan itself was paid for as a check too.
    assert terms.total(version.spent).tokens == billed + before
    assert version.spent["query"].requests == 1
    assert version.spent["query"].usd == pytest.approx(version.spent["query"].tokens * PRICE)
    assert report.usd == pytest.approx(report.tokens * PRICE)
    assert metadata.partition(report, 0, 1.0)["usd"] == round(report.tokens * PRICE, 6)
    assert metadata.synced(synced)["tokens"] == synced.tokens
    assert planned.tokens_error is not None
    assert abs(planned.tokens - report.tokens) <= planned.tokens_error + 0.05 * report.tokens
    assert planned.batch_usd == pytest.approx((planned.usd or 0) / 2)
    text = "\n".join(status_lines.status_lines(found))
    assert f"cost of v1: {render.usd(terms.total(version.spent).usd)}" in text
    assert "of 6,000 requests" in text
    lines = render.plan_lines(plan.plan(spec, "v1"))
    assert "account openai" in "\n".join(lines)
    narrow = status_lines.fitted(lines, render.PLAN_HANG, 80)
    assert max(map(len, narrow)) <= 80 < max(map(len, lines))
    assert "\n".join(narrow).split() == "\n".join(lines).split(), "broken between words"


def test_a_budget_ends_a_backfill_and_a_larger_one_resumes_it(
    app: psycopg.Connection, database_url: str, holdout: Path, provider: Provider
) -> None:
    prices = {MODEL: {"usd_per_million_tokens": 1_000}}
    app.execute("UPDATE articles SET body = repeat(body || ' ', 20)")
    tiny = paid_index(database_url, holdout, provider, prices=prices, budget={"usd_per_version": 1})
    assert "the budget may stop the backfill: budget.usd_per_version is 1" in plan.plan(tiny, "v1").warnings
    small = paid_index(database_url, holdout, provider, prices=prices, budget={"usd_per_version": 4})
    with opened(small) as index, pytest.raises(Stopped, match=r"Raise budget.usd_per_version"):
        backfill.fill_partition(index, "v1", "00")
    with psycopg.connect(database_url) as conn:
        spent = terms.spending(conn, "docs")["v1"]
    assert terms.total(spent).usd == pytest.approx(provider.summary()["tokens"] / 1_000)
    assert (terms.total(spent).usd or 0) <= 4
    assert "backfill" in spent
    with opened(paid_index(database_url, holdout, provider, prices=prices, budget={"usd_per_version": 50})) as index:
        backfill.fill_partition(index, "v1", "00")
        assert status.status(index).versions[0].stored == 60
