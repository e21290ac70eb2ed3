"""What Prometheus gets over HTTP: numbers of the catalog, a word when the database is away, and nothing else that a role would need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psycopg
import pytest

pytest.importorskip("prometheus_client")

from prometheus_client.parser import text_string_to_metric_families

from embed_pipeline.errors import ConfigurationError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill
from embed_pipeline.report import exporter
from embed_pipeline.report.exporter import METRICS, PREFIX, serving_metrics
from tests.harness.articles import declared, leave_behind

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(url: str) -> Series:
    """One scrape as Prometheus makes it: name without our prefix, labels without the index."""
    with urlopen(url, timeout=30) as answer:
        text = answer.read().decode()
    found: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.labels.pop("index") == "docs"
            found[sample.name.removeprefix(PREFIX), frozenset(sample.labels.items())] = sample.value
    return found


def of(found: Series, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def words(found: Series) -> set[tuple[str, str]]:
    return {(dict(labels)["code"], dict(labels)["severity"]) for name, labels in found if name == "attention"}


def test_a_scrape_says_what_the_catalog_knows(
    database_url: str,
    app: psycopg.Connection[Any],
    open_served: Callable[..., OpenIndex],
    holdout: Path,
    reader_url: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a role that may read our schema and nothing else: v1 serves, v2 is half filled."""
    monkeypatch.setattr(exporter, "FRESH_SECONDS", 0.0)
    index = open_served("v1", "v2")
    backfill.fill_partition(index, "v2", index.spec.partition_keys()[0])
    spec = declared(reader_url(), holdout, "v1", "v2")
    with serving_metrics([spec], "127.0.0.1:0") as url:
        found = scrape(url)
        assert of(found, "up") == 1
        served = next(dict(labels) for name, labels in found if name == "serving_info")
        assert (served["version"], served["route"], served["other"]) == ("v1", "direct", "")
        assert of(found, "version_info", version="v1", state="active", model="model-v1", fingerprint=served["fingerprint"]) == 1
        assert of(found, "serving_generation") == 1
        assert [of(found, "partitions_filled", version=each) for each in ("v1", "v2")] == [2, 1]
        assert of(found, "partitions", version="v2") == 2
        assert of(found, "coverage_ratio", version="v1") == 1
        assert ("coverage_ratio", frozenset({("version", "v2")})) not in found, "it was never compared"
        assert of(found, "gate_outcome", version="v1", route="direct", outcome="pass") == 1
        assert of(found, "gate_outcome", version="v1", route="direct", outcome="fail") == 0
        assert words(found) == set()
        assert {name for name, _ in found} <= set(METRICS)

        leave_behind(app, "v2")
        app.execute("UPDATE articles SET body = 'another' WHERE id = 7")
        app.execute("INSERT INTO embed_pipeline.dead_letters VALUES ('docs', 'v1', '2', '', 'empty text')")
        app.execute(
            "INSERT INTO embed_pipeline.audit_events (index_name, event, reason, detail) "
            "VALUES ('docs', 'reconcile', 'three differ', '{\"queued\": {\"v1\": 3}}')"
        )
        app.execute("ALTER TABLE articles DISABLE TRIGGER USER")
        app.execute(
            "INSERT INTO embed_pipeline.model_samples (index_name, version, texts, vectors, late, changed_at) "
            "VALUES ('docs', 'v1', '{}', '', false, now())"
        )
        app.execute(
            "INSERT INTO embed_pipeline.spending (index_name, version, kind, requests, tokens, usd, unpriced_tokens) "
            "VALUES ('docs', 'v1', 'query', 3, 500, 0.25, 0), ('docs', 'v2', 'backfill', 4, 900, 0, 900)"
        )
        found = scrape(url)
        assert of(found, "readers_left_behind", version="v2") == 1
        assert of(found, "waiting_documents", version="v1") == 1
        assert of(found, "dead_letters", version="v1") == 1
        assert of(found, "coverage_ratio", version="v1") == 1 - 3 / 60, "the newer comparison counts"
        assert of(found, "comparison_differences") == 3
        assert of(found, "model_changed", version="v1") == 1
        assert of(found, "provider_tokens", version="v1", work="query") == 500
        assert of(found, "provider_cost_usd", version="v1", work="query") == 0.25
        assert not [labels for name, labels in found if name == "provider_cost_usd" and ("version", "v2") in labels]
        assert {("model_changed", "critical"), ("capture_off", "critical"), ("reader_left_behind", "warning")} <= words(found)


def test_a_database_that_is_away_is_said_and_nothing_that_was_true_before(
    database_url: str,
    app: psycopg.Connection[Any],
    open_served: Callable[..., OpenIndex],
    holdout: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exporter, "FRESH_SECONDS", 0.0)
    open_served("v1").close()
    with serving_metrics([declared(database_url, holdout, "v1")], "127.0.0.1:0") as url:
        assert of(scrape(url), "up") == 1
        name = app.info.dbname
        with psycopg.connect(database_url, autocommit=True, dbname="postgres") as admin:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            try:
                assert scrape(url) == {("up", frozenset()): 0.0}
            finally:
                admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        assert of(scrape(url), "serving_generation") == 1

        # One that hangs: the catalog is locked, and the look waits.
        monkeypatch.setattr(exporter, "DEADLINE_SECONDS", 0.5)
        with app.transaction():
            app.execute("LOCK TABLE embed_pipeline.index_versions IN ACCESS EXCLUSIVE MODE")
            assert scrape(url) == {("up", frozenset()): 0.0}
            assert scrape(url) == {("up", frozenset()): 0.0}
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'embed_pipeline.index_versions'::regclass"
            assert app.execute(waiting).fetchone() == (1,), "no second look beside one that hangs"
        monkeypatch.undo()


@pytest.mark.parametrize("listen", ["9464", ":9464", "127.0.0.1:http", "127.0.0.1:70000"])
def test_a_wrong_address_is_one_sentence(listen: str) -> None:
    with pytest.raises(ConfigurationError, match="is no address to listen on"), serving_metrics([], listen):
        pass


def test_a_port_that_is_taken_is_one_sentence() -> None:
    with serving_metrics([], "127.0.0.1:0") as url:
        port = url.rpartition(":")[2].partition("/")[0]
        with pytest.raises(ConfigurationError, match="cannot be served"), serving_metrics([], f"127.0.0.1:{port}"):
            pass
