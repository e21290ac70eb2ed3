"""A plan measures, estimates and warns, and leaves the database as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from embed_pipeline.errors import ConfigurationError, WrongAnswer
from embed_pipeline.evaluate.statistics import mean_bounds
from embed_pipeline.flow.speed import summarise
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import gate
from embed_pipeline.report.look import look
from embed_pipeline.report.plan import plan, spread_of
from embed_pipeline.report.status import status_of
from embed_pipeline.spec import IndexSpec, PgvectorSpec, QdrantSpec, VersionSpec
from embed_pipeline.stores.kind import kind_of
from tests.harness.articles import DOCUMENTS, QUERIES, declared, fill, serve
from tests.harness.fakes import asked_texts


def fake(name: str, **overrides: Any) -> dict[str, Any]:
    options = {"salt": name, **overrides.pop("options", {})}
    return {"provider": "tests.harness.fakes:HashEmbedder", "model_name": name, "dimensions": 16, "options": options} | overrides


def test_a_plan_changes_nothing(database_url: str, app: psycopg.Connection[Any], holdout: Path, tmp_path: Path) -> None:
    app.execute("DROP SCHEMA embed_pipeline CASCADE")
    calls = tmp_path / "calls"
    spec = declared(database_url, holdout, versions={"v1": fake("v1", options={"calls_file": str(calls)})})
    found = plan(spec, "v1")
    assert (found.documents, found.state, found.serving, found.partitions) == (DOCUMENTS, None, None, 2)
    assert found.text_bytes == sum(len(f"title {n}\n\nbody {n}") for n in range(1, DOCUMENTS + 1))
    assert found.next_command == "embed-pipeline backfill docs v1"
    # Each document once, and one more to warm the model.
    assert len(asked_texts(calls)) == DOCUMENTS + 1
    assert found.sample.speed is not None
    assert (found.sample.speed.documents, found.sample.speed.batches) == (DOCUMENTS, 4)
    assert found.sample.speed.slowest <= found.sample.speed.mean <= found.sample.speed.fastest
    row = app.execute("SELECT to_regnamespace('embed_pipeline') IS NULL").fetchone()
    assert row == (True,)


def test_the_session_of_a_look_cannot_write(database_url: str, app: psycopg.Connection[Any], holdout: Path) -> None:
    with look(declared(database_url, holdout, "v1")) as seen, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        seen.conn.execute("DELETE FROM public.articles")


def test_the_sample_tells_what_would_be_rejected(database_url: str, app: psycopg.Connection[Any], holdout: Path) -> None:
    app.execute("UPDATE articles SET title = '', body = NULL WHERE id <= 6")
    found = plan(declared(database_url, holdout, versions={"v1": fake("v1", options={"fail_on": "title 7"})}), "v1")
    assert (found.sample.documents, found.sample.rejected) == (DOCUMENTS, 7)
    assert found.sample.reasons == ("empty text", "told to fail on 'title 7'")


def test_a_wrong_embedder_is_found_before_anything_is_stored(database_url: str, app: Any, holdout: Path) -> None:
    versions = {"v1": fake("v1", provider="tests.database.report.test_plan:OneVector", options={})}
    versions["v1"]["options"] = {}
    with pytest.raises(WrongAnswer, match="with 1 vectors"):
        plan(declared(database_url, holdout, versions=versions), "v1")
    with pytest.raises(ConfigurationError, match="declares no version 'v2'"):
        plan(declared(database_url, holdout, versions=versions), "v2")


class OneVector:
    """Answers any number of texts with one vector."""

    def __init__(self, *, dimensions: int, model_name: str) -> None:
        self.dimensions = dimensions

    def embed(self, texts: list[str], role: str) -> list[list[float]]:
        return [[1.0] * self.dimensions]

    def identity(self) -> dict[str, str]:
        return {}


def test_an_index_whose_table_is_not_made_yet(database_url: str, app: Any, holdout: Path) -> None:
    found = plan(declared(database_url, holdout, "v1", name="fresh", documents=None), "v1")
    assert (found.documents, found.documents_table, found.sample.speed) == (0, "public.fresh", None)
    assert found.next_command == "embed-pipeline load fresh FILE"
    assert any("there are no documents" in warning for warning in found.warnings)


def test_warnings_come_before_the_refusal(database_url: str, open_docs: Callable[..., OpenIndex], holdout: Path) -> None:
    open_docs("v1")
    spec = declared(database_url, holdout, versions={"v1": fake("other"), "twin": fake("model-v1", options={"salt": "v1"})})
    assert "registered as" in plan(spec, "v1").warnings[0]
    of_the_server = set(status_of(spec).warnings)
    said = [each for each in plan(spec, "twin").warnings if each not in of_the_server]
    assert said[-1] == "twin has the same fingerprint as v1, which is live: registration will refuse it"
    assert plan(spec, "v1").state == "building"
    few = declared(database_url, holdout, "v2", partitions=100)
    assert "fewer documents (60) than partitions (100)" in plan(few, "v2").warnings[0]


def test_the_gate_is_judged_by_what_was_measured(database_url: str, open_docs: Callable[..., OpenIndex], holdout: Path) -> None:
    index = open_docs("v1", "v2")
    first = plan(index.spec, "v2").gate
    assert (first.available, first.needed) == (QUERIES, None)
    serve(index, "v1")
    fill(index, "v2")
    gate.run(index, "v2")
    again = plan(index.spec, "v2").gate
    assert again.needed is not None
    assert "from the spread that the gate of v2 measured" in again.sentence
    strict = declared(database_url, holdout, "v1", "v2", gate={"min_queries": 2, "margin": 0.001})
    assert "probably too few" in plan(strict, "v2").gate.sentence


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"holdout": None}, "no held-out set is declared"),
        ({"holdout": {"path": "/nowhere.csv"}}, "the gate could not judge: There is no held-out set at /nowhere.csv"),
        ({"gate": {"min_queries": 500}}, "30 queries, and gate.min_queries asks for 500"),
    ],
)
def test_a_gate_that_cannot_judge_is_said(
    database_url: str, app: Any, holdout: Path, overrides: dict[str, Any], sentence: str
) -> None:
    spec = declared(database_url, holdout, "v1")
    assert plan(IndexSpec.model_validate(spec.model_dump() | overrides), "v1").gate.sentence.startswith(sentence)


def test_the_spread_behind_bounds_is_found_again() -> None:
    values = [1.0, 0.0, 0.0, 1.0, -1.0] * 40
    bounds = mean_bounds(values, worst=-1.0, best=1.0, confidence=0.95)
    assert spread_of(bounds.lower, bounds.upper, len(values), 0.95) == pytest.approx(0.75, rel=0.05)


def test_speed_of_batches() -> None:
    speed = summarise([(10, 1.0), (10, 4.0)])
    assert speed is not None
    assert (speed.mean, speed.slowest, speed.fastest) == (4.0, 2.5, 10.0)
    assert speed.seconds(100) == (25.0, 10.0, 40.0)
    assert summarise([]) is None


@pytest.mark.parametrize(("precision", "dimensions"), [("vector", 64), ("vector", 600), ("halfvec", 1500)])
def test_the_disk_estimate_is_near_to_what_postgresql_takes(
    app: psycopg.Connection[Any], open_docs: Callable[..., OpenIndex], precision: Any, dimensions: int
) -> None:
    rows = 1_500 if dimensions < 1000 else 500
    version = {"model_name": "a-model-with-a-name", "dimensions": dimensions, "precision": precision}
    spec = open_docs(versions={"v1": fake("v1") | version}).spec.versions["v1"]
    drawn = sql.SQL("(SELECT array_agg(random() - 0.5) FROM generate_series(1, {}) WHERE n > 0)::{}").format(
        dimensions, sql.Identifier(precision)
    )
    app.execute(
        sql.SQL(
            "INSERT INTO embed_pipeline.docs__v1 (doc_id, chunk, chunks, source_hash, partition, epoch, embedding) "
            "SELECT 'docs-' || 10000 + n, 0, 1, sha256('x'), 3, 1, {} FROM generate_series(1, {}) AS n"
        ).format(drawn, rows)
    )
    operators = sql.Identifier(f"{precision}_cosine_ops")
    app.execute(sql.SQL("CREATE INDEX h ON embed_pipeline.docs__v1 USING hnsw (embedding {})").format(operators))
    size = "pg_total_relation_size('embed_pipeline.docs__v1'), pg_relation_size('embed_pipeline.h')"
    row = app.execute(f"SELECT {size}").fetchone()  # type: ignore[arg-type]
    assert row is not None
    found = kind_of(PgvectorSpec()).disk(PgvectorSpec(), rows, spec, 1.0)
    assert found.vectors + found.documents == pytest.approx(row[0] - row[1], rel=0.1)
    assert found.ann_index == pytest.approx(row[1], rel=0.1)


def test_a_version_in_qdrant_is_estimated_by_its_own_rule() -> None:
    version = VersionSpec.model_validate(fake("v1") | {"dimensions": 100, "precision": "halfvec"})
    store = QdrantSpec(kind="qdrant")
    found = kind_of(store).disk(store, 1000, version, 2.0)
    assert (found.vectors, found.ann_index) == (400_000, 200_000)
    assert "CREATE INDEX" not in kind_of(store).ann_locks
