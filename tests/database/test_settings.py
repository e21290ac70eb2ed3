"""What may change of a version has one place, and whoever searches goes by it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embed_pipeline import Searcher
from embed_pipeline.catalog import versions
from embed_pipeline.embedders.packaged import resolve
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import ann_index, backfill
from embed_pipeline.migrate.opening import opened
from embed_pipeline.report.plan import plan
from embed_pipeline.report.status import status_of
from embed_pipeline.spec import NOT_IDENTITY
from tests.harness.articles import declared, serve
from tests.harness.real_models import SMALL

Open = Callable[..., OpenIndex]
TEXT = "title 7\n\nbody 7"
V1: dict[str, Any] = {
    "provider": "tests.harness.fakes:HashEmbedder",
    "model_name": "m",
    "dimensions": 16,
    "options": {"salt": "v1"},
}


def of_v1(**changed: Any) -> dict[str, Any]:
    return {"v1": V1 | changed}


def settings(app: psycopg.Connection) -> dict[str, Any]:
    row = app.execute("SELECT settings FROM embed_pipeline.index_versions WHERE version = 'v1'").fetchone()
    assert row is not None
    found: dict[str, Any] = row[0]
    return found


def events(app: psycopg.Connection) -> list[dict[str, Any]]:
    return [row[0] for row in app.execute("SELECT detail FROM embed_pipeline.events WHERE event = 'settings' ORDER BY id")]


def test_every_field_is_kept_in_one_place(app: psycopg.Connection, open_docs: Open) -> None:
    index = open_docs("v1")
    with index.connection() as conn:
        version = index.version(conn, "v1")
    assert version.spec.keys().isdisjoint(version.settings)
    assert version.settings.keys() == NOT_IDENTITY
    assert version.declared == index.spec.version("v1")
    # Whatever somebody writes into the settings, what decides a vector stays.
    app.execute("UPDATE embed_pipeline.index_versions SET settings = settings || '{\"dimensions\": 3}'")
    with index.connection() as conn:
        assert index.version(conn, "v1").declared.dimensions == 16


def test_declared_ef_search_is_used(app: psycopg.Connection, open_docs: Open) -> None:
    """By commands, by searchers that are running, and in SQL; by a store for each that was ever set, and one model."""
    serve(open_docs(versions=of_v1(hnsw={"ef_search": 50})), "v1")
    with Searcher("docs", open_docs(versions=of_v1(hnsw={"ef_search": 50})).url, refresh_seconds=0) as searcher:
        first = searcher._resolve(None)
        assert first.store.version.declared.hnsw.ef_search == 50
        again = open_docs(versions=of_v1(hnsw={"ef_search": 800}))
        with again.connection() as conn:
            assert again.store(versions.get(conn, "docs", "v1")).version.declared.hnsw.ef_search == 800
        then = searcher._resolve(None)
        assert then.store.version.declared.hnsw.ef_search == 800
        assert then.embedder is first.embedder
        open_docs(versions=of_v1(hnsw={"ef_search": 50}))
        assert searcher._resolve(None).store is first.store
        query = searcher.embed(TEXT)
    assert events(app)[0]["hnsw"][1]["ef_search"] == 800
    call = "SELECT doc_id FROM embed_pipeline.search('docs', 'v1', %s, %s::vector, 1)"
    values = (query.fingerprint, str([float(each) for each in query.values]))
    assert app.execute(call, values).fetchone() == ("7",)
    app.execute("UPDATE embed_pipeline.index_versions SET settings = jsonb_set(settings, '{hnsw,ef_search}', '\"no number\"')")
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        app.execute(call, values)


def test_two_declarations_that_differ(app: psycopg.Connection, open_docs: Open) -> None:
    """Each machine goes by its own; who has none goes by the one that was opened last. Paths alone are no event."""
    here = open_docs(versions=of_v1(batch_size=8, model_path="/here/m", hnsw={"ef_search": 50}))
    there = open_docs(versions=of_v1(batch_size=8, model_path="/there/m", hnsw={"ef_search": 50}))
    with here.connection() as conn:
        version = here.version(conn, "v1")
    assert version.settings["model_path"] == "/there/m"
    assert here.space(version).version.settings["model_path"] == "/here/m"
    assert there.space(version).version.settings["model_path"] == "/there/m"
    assert events(app) == []
    open_docs(versions=of_v1(batch_size=4, model_path="/here/m", hnsw={"ef_search": 50}))
    assert (settings(app)["model_path"], settings(app)["batch_size"]) == ("/here/m", 4)
    assert events(app) == [{"batch_size": [8, 4], "model_path": ["/there/m", "/here/m"]}]


def test_status_and_plan_show_what_is_not_set_yet(
    database_url: str, app: psycopg.Connection, open_docs: Open, holdout: Path
) -> None:
    open_docs(versions=of_v1(hnsw={"ef_search": 50}))
    before = settings(app)
    changed = declared(
        database_url,
        holdout,
        versions=of_v1(batch_size=7, hnsw={"ef_search": 800}),
        budget={"usd_per_version": 5.0},
    )
    found = status_of(changed)
    assert found.not_yet_set == (
        "versions.v1.batch_size is set to absent and declared as 7",
        "versions.v1.hnsw.ef_search is set to 50 and declared as 800",
        "budget is set to another value",
    )
    assert found.declared_otherwise == ()
    assert "versions.v1.hnsw.ef_search is set to 50 and declared as 800: the next command that works on the index sets it" in (
        plan(changed, "v1").warnings
    )
    assert settings(app) == before, "they change nothing"
    open_docs(versions=changed.model_dump()["versions"], budget={"usd_per_version": 5.0})
    assert status_of(changed).not_yet_set == ()


def test_a_reader_leaves_the_settings_alone(app: psycopg.Connection, open_docs: Open, reader_url: Callable[[], str]) -> None:
    serve(open_docs(versions=of_v1()), "v1")
    row = "SELECT xmin::text, settings FROM embed_pipeline.index_versions"
    before = app.execute(row).fetchone()
    with Searcher("docs", reader_url()) as searcher:
        searcher.prepare("v1")
        assert searcher.search(TEXT, 1).hits[0].doc_id == "7"
    assert app.execute(row).fetchone() == before


def test_a_version_has_one_store_from_building_to_ready(open_docs: Open) -> None:
    """Opened before it was ready, and still the one: with all that it has learned of its engine."""
    index = open_docs("v1")

    def store() -> object:
        with index.connection() as conn:
            return index.store(index.version(conn, "v1"))

    before = store()
    for key in index.spec.partition_keys():
        backfill.fill_partition(index, "v1", key)
    ann_index.build(index, "v1")
    assert store() is before


@pytest.fixture
def moved(app: psycopg.Connection, open_docs: Open, tmp_path: Path) -> Path:
    """An index with a real model, whose files were moved after it was cut over; where they are now."""
    before, now = tmp_path / "before", tmp_path / "now"
    before.mkdir()
    app.execute("DELETE FROM articles WHERE id > 30")
    for field, name in (("model_path", "m.onnx"), ("tokenizer_path", "t.json")):
        shutil.copy(resolve(SMALL[field]), before / name)
    serve(open_docs(versions={"v1": real_model(before)}), "v1")
    before.rename(now)
    return now


def real_model(folder: Path) -> dict[str, Any]:
    return SMALL | {"model_path": str(folder / "m.onnx"), "tokenizer_path": str(folder / "t.json")}


def test_a_model_file_that_moved_is_found_where_it_was_declared_last(moved: Path, open_docs: Open, database_url: str) -> None:
    with Searcher("docs", database_url) as searcher:
        with pytest.raises(ConfigurationError, match=r"before/m.onnx does not exist.*Searcher\(models=\.\.\.\)"):
            searcher.search(TEXT, 1)
        index = open_docs(versions={"v1": real_model(moved)})
        assert searcher.search(TEXT, 1).hits[0].doc_id == "7"
    assert index.spec.version("v1").model_path == str(moved / "m.onnx")


@pytest.mark.parametrize("form", ["file", "folder", "mapping"])
def test_a_searcher_is_told_where_its_machine_has_the_model(moved: Path, database_url: str, form: str) -> None:
    places = {
        "file": moved / "m.onnx",
        "folder": str(moved),
        "mapping": {"model_path": moved / "m.onnx", "tokenizer_path": str(moved / "t.json")},
    }
    with Searcher("docs", database_url, models={"v1": places[form]}) as searcher:
        assert searcher.search(TEXT, 1).hits[0].doc_id == "7"


def test_who_must_register_nothing_leaves_the_settings_alone(app: psycopg.Connection, open_docs: Open) -> None:
    """A rollback in an incident, for one: it goes by its own declaration, and leaves nothing of it behind."""
    index = open_docs("v1")
    before = settings(app)
    changed = index.spec.model_copy(update={"versions": {"v1": index.spec.version("v1").model_copy(update={"batch_size": 3})}})
    with opened(changed, register_new=False) as again, again.connection() as conn:
        assert again.space(again.version(conn, "v1")).version.declared.batch_size == 3
    assert settings(app) == before
