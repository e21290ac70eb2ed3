"""Dagster's own tables, opened by the project's dagster.yaml."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest
from dagster_postgres import PostgresRunStorage

from embed_pipeline.dagster_layer.storage import URL_VARIABLE, storage_url
from embed_pipeline.postgres import embedded

PROJECT = Path(__file__).parents[3]


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_a_given_url_is_opened_with_psycopg2(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv(URL_VARIABLE, f"{scheme}://user:pass@host/db")
    assert storage_url() == "postgresql+psycopg2://user:pass@host/db"


def test_without_a_url_it_is_the_embedded_server(monkeypatch: pytest.MonkeyPatch, postgres_server: embedded.Server) -> None:
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    assert storage_url() == postgres_server.dagster_url("dagster")


def test_the_projects_dagster_yaml_keeps_runs_in_postgresql(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_url: str
) -> None:
    monkeypatch.setenv(URL_VARIABLE, database_url)
    shutil.copy(PROJECT / "dagster.yaml", tmp_path)

    @dg.op
    def nothing() -> None: ...

    job = dg.GraphDefinition(name="job", node_defs=[nothing]).to_job()
    instance = dg.DagsterInstance.from_config(str(tmp_path))
    try:
        run_id = job.execute_in_process(instance=instance).run_id
        assert not instance.telemetry_enabled
    finally:
        instance.dispose()

    # A run's own process opens the instance by its reference.
    again = dg.DagsterInstance.from_ref(instance.get_ref())
    try:
        assert isinstance(again.run_storage, PostgresRunStorage)
        run = again.get_run_by_id(run_id)
        assert run is not None
        assert run.status == dg.DagsterRunStatus.SUCCESS
    finally:
        again.dispose()
