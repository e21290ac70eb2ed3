"""What of a store may change under a registered index, and what an index elsewhere means for those that are here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from embed_pipeline.errors import CatalogError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import register
from embed_pipeline.spec import IndexSpec, QdrantSpec, read_store

Open = Callable[..., OpenIndex]
ELSEWHERE: dict[str, Any] = {"kind": "qdrant", "url": "http://127.0.0.1:6333"}


def kept(app: psycopg.Connection) -> Any:
    row = app.execute(
        "SELECT store, payload_columns, payload_object FROM embed_pipeline.indexes WHERE index_name = 'docs'"
    ).fetchone()
    assert row is not None
    return row


@pytest.fixture
def elsewhere(app: psycopg.Connection, open_docs: Open) -> OpenIndex:
    """An index over the articles whose vectors are in Qdrant, as registered before it had a version."""
    index = open_docs("v1", name="other")
    index.spec = declared(index, ELSEWHERE)
    register.register_index(app, index)
    return index


def declared(index: OpenIndex, store: dict[str, Any], **documents: Any) -> IndexSpec:
    told = index.spec.model_dump() | {"name": "docs", "store": store}
    told["documents"] |= documents
    return IndexSpec.model_validate(told)


@pytest.mark.parametrize(
    "change",
    [
        {"url": "https://qdrant.example:6333"},
        {"timeout_seconds": 5.0},
        {"max_update_queue": 7, "max_queued_points": 8, "max_yellow_seconds": 9.0},
        {"api_key_env": "OTHER_KEY"},
        {"collection": "docs"},
    ],
)
def test_where_the_store_answers_and_its_limits_may_change(
    app: psycopg.Connection, elsewhere: OpenIndex, change: dict[str, Any]
) -> None:
    elsewhere.spec = declared(elsewhere, ELSEWHERE | change)
    register.register_index(app, elsewhere)
    assert read_store(kept(app)[0]) == elsewhere.spec.store


@pytest.mark.parametrize("change", [{"layout": "named_vectors"}, {"collection": "another"}, {"kind": "pgvector"}])
def test_another_place_for_the_vectors_is_refused(app: psycopg.Connection, elsewhere: OpenIndex, change: dict[str, Any]) -> None:
    before = kept(app)
    elsewhere.spec = declared(elsewhere, change if "kind" in change else ELSEWHERE | change)
    with pytest.raises(CatalogError, match=r"store\.\w+ is registered as \w+ and declared as \w+"):
        register.register_index(app, elsewhere)
    assert kept(app) == before


def test_adopted_collection_stays_while_its_version_lives(app: psycopg.Connection, elsewhere: OpenIndex) -> None:
    adopt = {"version": "v1", "collection": "handmade", "text": "text"}
    elsewhere.spec = declared(elsewhere, ELSEWHERE | {"adopt": adopt})
    register.register_index(app, elsewhere)
    insert_version(app, "docs", "v1")
    for change in ({"adopt": None}, {"adopt": adopt | {"vector": "dense"}}):
        elsewhere.spec = declared(elsewhere, ELSEWHERE | change)
        with pytest.raises(CatalogError, match=r"store\.adopt is registered as"):
            register.register_index(app, elsewhere)
    app.execute("UPDATE embed_pipeline.index_versions SET state = 'retired' WHERE index_name = 'docs'")
    register.register_index(app, elsewhere)
    store = read_store(kept(app)[0])
    assert isinstance(store, QdrantSpec)
    assert store.adopt is not None
    assert store.adopt.vector == "dense"


def test_payload_may_change(app: psycopg.Connection, elsewhere: OpenIndex) -> None:
    elsewhere.spec = declared(elsewhere, ELSEWHERE, payload=["views"])
    register.register_index(app, elsewhere)
    assert kept(app)[1:] == (["views"], None)


def insert_version(app: psycopg.Connection, index: str, name: str) -> None:
    app.execute(
        "INSERT INTO embed_pipeline.index_versions (index_name, version, fingerprint, model_name, model_version, dimensions, precision, "
        "distance, partitions, spec, settings) VALUES (%s, %s, repeat('e', 64), 'm', '1', 3, 'vector', 'cosine', 1, '{}', %s)",
        (index, name, Jsonb({"hnsw": {"ef_search": 100}})),
    )


def test_provenance_shows_versions_with_tables_only(app: psycopg.Connection, elsewhere: OpenIndex, open_docs: Open) -> None:
    insert_version(app, "docs", "v1")
    open_docs("v1", "v2", name="other")
    assert app.execute("SELECT count(*) FROM embed_pipeline.provenance").fetchone() == (0,)


def test_an_index_of_a_kind_that_this_process_lacks_holds_up_no_other(app: psycopg.Connection, open_docs: Open) -> None:
    open_docs("v1", name="other")
    app.execute("""UPDATE embed_pipeline.indexes SET store = '{"kind": "shelf"}' WHERE index_name = 'other'""")
    open_docs("v1")
    shown = app.execute("SELECT pg_get_viewdef('embed_pipeline.provenance'::regclass)").fetchone()
    assert shown is not None
    assert "docs__v1" in shown[0]
    assert "other__v1" not in shown[0]


def test_search_in_sql_says_that_the_vectors_are_elsewhere(app: psycopg.Connection, elsewhere: OpenIndex) -> None:
    insert_version(app, "docs", "v1")
    with pytest.raises(
        psycopg.errors.UndefinedTable, match="vectors of version v1 of index docs are not in this database"
    ) as told:
        app.execute("SELECT * FROM embed_pipeline.search('docs', 'v1', repeat('e', 64), '[1,2,3]')")
    assert "embed_pipeline.Searcher" in (told.value.diag.message_hint or "")
