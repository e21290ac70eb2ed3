"""The two stores under the demo: they do not meet, and show the same thing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psycopg
import pytest

from embed_pipeline.configuration import load_indexes
from embed_pipeline.demo.on_pgvector import PgvectorStage
from embed_pipeline.demo.on_qdrant import QdrantStage
from embed_pipeline.demo.stage import Stage
from embed_pipeline.demo.stages import set_up, stage_of
from embed_pipeline.postgres.home import HOME_VARIABLE
from embed_pipeline.spec import IndexSpec
from tests.harness.fakes import unit_vector

ASSETS = Path(__file__).parents[3] / "assets"


@pytest.fixture
def declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> IndexSpec:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    return load_indexes(ASSETS)["docs"]


def test_each_store_has_an_index_a_database_and_a_folder_of_its_own(declared: IndexSpec) -> None:
    pgvector, qdrant = set_up(declared, "pgvector", "collections"), set_up(declared, "qdrant", "named_vectors")
    assert pgvector.spec == declared
    assert (qdrant.spec.name, qdrant.spec.database_url) == ("docs_qdrant", "embedded:demo_qdrant")
    assert pgvector.folder != qdrant.folder
    assert qdrant.spec.store.place("docs_qdrant") == "qdrant, layout named_vectors, collection docs_qdrant"
    assert qdrant.spec.versions == pgvector.spec.versions
    assert isinstance(stage_of(pgvector.spec), PgvectorStage)
    assert isinstance(stage_of(qdrant.spec), QdrantStage)


def test_the_commands_at_the_end_find_the_index_that_was_shown(declared: IndexSpec) -> None:
    stage = set_up(declared, "qdrant", "collections")
    stage.folder.mkdir(parents=True)
    stage.declare()
    assert load_indexes(stage.folder) == {"docs_qdrant": stage.spec}
    assert f"status --config {stage.folder} docs_qdrant" in stage.next_steps()


@pytest.mark.parametrize("store", ["pgvector", "qdrant"])
def test_the_scratch_copy_is_overwritten_and_searched_exactly(declared: IndexSpec, conn: psycopg.Connection, store: str) -> None:
    stage: Stage = set_up(declared, "qdrant" if store == "qdrant" else "pgvector", "collections")
    scratch = stage.scratch(conn)
    old, new = (np.stack([unit_vector(f"{space} {n}", 384) for n in range(30)]) for space in ("old", "new"))
    scratch.put(range(30), old)
    scratch.put(range(5), new[:5])
    now = np.concatenate([new[:5], old[5:]])
    for query in (old[7], new[3], old[2]):
        assert scratch.nearest(query) == np.argsort(-(now @ query))[:10].tolist()
