"""The job behind a command: what Dagster offers is what `status` says."""

from __future__ import annotations

import pytest

from embed_pipeline.dagster_layer import metadata
from embed_pipeline.dagster_layer.names import Names
from embed_pipeline.spec import IndexSpec


@pytest.mark.parametrize(
    ("command", "job"),
    [
        ("embed-pipeline rollback docs", "docs_rollback"),
        ("embed-pipeline resume docs", "docs_resume"),
        ("embed-pipeline sync docs", "docs_dual_write"),
        ("embed-pipeline sync docs --watch", "docs_dual_write"),
        ("embed-pipeline sync docs --full", "docs_compare"),
        ("embed-pipeline dead-letters docs v2", "docs_retry_dead_letters"),
        ("embed-pipeline check-model docs", "docs_model_check"),
        ("embed-pipeline plan docs v2", "docs__v2_backfill"),
        ("embed-pipeline backfill docs v2", "docs__v2_backfill"),
        ("embed-pipeline gate docs v2", "docs__v2_gate"),
        ("embed-pipeline gate docs v2 --route refine", "docs__v2_gate__refine"),
        ("embed-pipeline cutover docs v2 --route bridge", "docs__v2_cutover__bridge"),
        ("embed-pipeline retire docs v2", "docs__v2_retire"),
        ("embed-pipeline load docs FILE", None),
        (None, None),
    ],
)
def test_the_job_of_a_command(command: str | None, job: str | None) -> None:
    assert Names("docs").job_of(command) == job


def test_what_a_page_names_is_a_link_to_the_job_and_a_command_where_there_is_none() -> None:
    said = [metadata.link(Names("docs"), f"embed-pipeline {each}") for each in ("retire docs v1", "load docs FILE")]
    assert said == ["[docs__v1_retire](/guess/docs__v1_retire)", "`embed-pipeline load docs FILE`"]


def test_a_job_that_is_offered_is_there() -> None:
    """Of every verb that `next` names."""
    from embed_pipeline.dagster_layer.component import build_definitions

    version = {"provider": "openai", "dimensions": 8}
    spec = IndexSpec.model_validate(
        {
            "name": "docs",
            "while_building": {"refine": True},
            "versions": {"v1": version | {"model_name": "a"}, "v2": version | {"model_name": "b"}},
        }
    )
    jobs = {job.name for job in build_definitions(spec).get_repository_def().get_all_jobs()}
    verbs = ("plan", "backfill", "gate", "cutover", "retire", "gate --route refine", "cutover --route bridge")
    offered = {
        Names("docs").job_of(f"embed-pipeline {verb.split()[0]} docs v2 {' '.join(verb.split()[1:])}".strip()) for verb in verbs
    }
    offered |= {
        Names("docs").job_of(f"embed-pipeline {verb} docs")
        for verb in ("rollback", "resume", "sync", "dead-letters", "check-model")
    }
    assert offered <= jobs
