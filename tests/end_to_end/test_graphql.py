"""A whole migration through a running Dagster (webserver, daemon, code location), launched over GraphQL as the UI does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.end_to_end.running import Dagster, running, wait
from tests.harness.postgres.seen import nothing_waits

PARTITIONS = ["00", "01", "02", "03"]

DEFS = """
type: embed_pipeline.EmbeddingIndex
attributes:
  name: docs
  database_url: "{{{{ env.E2E_DATABASE_URL }}}}"
  documents: {{table: articles, key: id, text: [title, body]}}
  partitions: 4
  backfill: {{partitions_per_run: 2}}
  versions:
    v1: {{provider: "tests.harness.fakes:HashEmbedder", model_name: one, dimensions: 16, options: {{salt: v1}}}}
    v2:
      provider: "tests.harness.fakes:HashEmbedder"
      model_name: two
      dimensions: 16
      options: {{salt: v2, raise_on: "body 20", mended: "{mended}"}}
  holdout: {{path: "{holdout}"}}
  gate: {{min_queries: 2, margin: 0.2}}
  retire: {{soak_seconds: 0, unread_seconds: 0}}
"""


@pytest.fixture
def mended(tmp_path: Path) -> Path:
    """The model of v2 fails on one document until this file exists."""
    return tmp_path / "mended"


@pytest.fixture
def dagster(app: psycopg.Connection, database_url: str, holdout: Path, mended: Path, tmp_path: Path) -> Iterator[Dagster]:
    with running(tmp_path / "project", DEFS.format(holdout=holdout, mended=mended), database_url) as client:
        yield client


@pytest.mark.soak
def test_migration_over_graphql(dagster: Dagster, app: psycopg.Connection, mended: Path) -> None:
    """v1 serves, v2 is backfilled with one partition failing once and relaunched, judged, served, rolled back, served; v1 retires."""

    def serving() -> str | None:
        row = app.execute("SELECT version FROM embed_pipeline.serving WHERE index_name = 'docs'").fetchone()
        return row[0] if row else None

    assert dagster.backfill("v1", PARTITIONS) == ("COMPLETED_SUCCESS", 4, 0)
    assert dagster.run("docs__v1_gate") == "SUCCESS"
    assert dagster.run("docs__v1_cutover") == "SUCCESS"
    assert serving() == "v1"

    status, filled, failed = dagster.backfill("v2", PARTITIONS)
    assert (status, filled + failed) == ("COMPLETED_FAILED", 4)
    assert failed >= 1
    unfilled = [
        key
        for (key,) in app.execute(
            "SELECT partition_key FROM embed_pipeline.partitions WHERE version = 'v2' AND completed_at IS NULL ORDER BY 1"
        )
    ]
    assert unfilled == ["01"]
    assert dagster.run("docs__v2_gate") == "FAILURE"
    mended.touch()
    assert dagster.backfill("v2", unfilled)[0] == "COMPLETED_SUCCESS"

    alone = {"ops": {"docs__v2__cutover": {"config": {"confirm": "v2"}}}}
    assert dagster.run("__ASSET_JOB", alone, [["docs", "v2", "cutover"]]) == "FAILURE"
    assert serving() == "v1"
    assert dagster.run("docs__v2_gate") == "SUCCESS"
    assert dagster.run("docs__v2_cutover") == "SUCCESS"
    assert serving() == "v2"
    app.execute("UPDATE articles SET body = 'after the cutover' WHERE id = 1")
    app.execute("DELETE FROM articles WHERE id = 50")
    # The sensor carries the changes; nobody calls sync here.
    wait(lambda: nothing_waits(app) or None, 120)
    assert dagster.run("docs_rollback") == "SUCCESS"
    assert serving() == "v1"
    assert dagster.run("docs__v2_cutover") == "SUCCESS"
    assert dagster.run("docs__v1_retire", {"ops": {"docs__v1_retire__op": {"config": {"confirm": "v1"}}}}) == "SUCCESS"
    states = dict(app.execute("SELECT version, state FROM embed_pipeline.versions").fetchall())
    assert states == {"v1": "retired", "v2": "active"}
