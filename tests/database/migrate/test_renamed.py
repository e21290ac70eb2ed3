"""The application renames its table or its columns, or widens a key: it goes on undisturbed, and the index follows when it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embed_pipeline.errors import CatalogError, DocumentsTableError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import dual_write, verify
from embed_pipeline.migrate.dual_write import VersionSync
from embed_pipeline.migrate.follow_changes import follow_changes
from embed_pipeline.report.status import status_of
from tests.harness.articles import counted, fill, serve, settle, stored, text_hash
from tests.harness.fakes import asked_texts
from tests.harness.postgres.seen import wait_until
from tests.harness.qdrant.conftest import shared_loopback  # noqa: F401  (fixture)
from tests.harness.stores import Declared, qdrant_at  # noqa: F401  (fixture)
from tests.stores.holding import hashes

Open = Callable[..., OpenIndex]

RENAMED = {
    "ALTER TABLE articles RENAME COLUMN body TO content": {"text": ["title", "content"]},
    "ALTER TABLE articles RENAME COLUMN id TO number": {"key": "number"},
    "ALTER TABLE articles RENAME TO posts": {"table": "posts"},
    "CREATE SCHEMA app; ALTER TABLE articles SET SCHEMA app; ALTER TABLE app.articles RENAME title TO heading": {
        "table": "app.articles",
        "text": ["heading", "body"],
    },
}


class Watching:
    """Dual-writes for as long as the block lasts, by the names that it began with."""

    def __init__(self, index: OpenIndex) -> None:
        self.told: list[VersionSync] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=follow_changes, args=(index, self._stop, self.told.extend))

    def __enter__(self) -> Watching:
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._stop.set()
        self._thread.join(timeout=60)
        assert not self._thread.is_alive()


@pytest.fixture(params=["pgvector", "loopback-named_vectors"])
def store(request: pytest.FixtureRequest, qdrant_at: Callable[[str], Declared]) -> Declared:  # noqa: F811
    return {"kind": "pgvector"} if request.param == "pgvector" else qdrant_at(request.param)


@pytest.mark.parametrize("change", RENAMED)
def test_new_names_are_followed_and_nothing_is_embedded_again(
    app: psycopg.Connection[Any], open_docs: Open, tmp_path: Path, store: Declared, change: str
) -> None:
    documents = {"table": "articles", "key": "id", "text": ["title", "body"]}
    versions = {"v1": counted(tmp_path / "calls")}
    index = open_docs("v1", versions=versions, store=store)
    serve(index, "v1")
    names = {"table": "articles", "key": "id", "text": ["title", "body"]} | RENAMED[change]
    table, key, text = names["table"], names["key"], names["text"][1]
    before = len(asked_texts(tmp_path / "calls"))
    with Watching(index) as watching:
        app.execute(change)  # type: ignore[arg-type]
        # Under names that neither capture nor the worker knows: none of it fails, and none is lost.
        app.execute(f"UPDATE {table} SET {text} = 'edited' WHERE {key} = 1; DELETE FROM {table} WHERE {key} = 2")  # type: ignore[arg-type]
        app.execute(f"INSERT INTO {table} ({key}, {names['text'][0]}, {text}) VALUES (100, 'new', 'one')")  # type: ignore[arg-type]
        wait_until(lambda: any(each.error for each in watching.told), "the worker has met the new names")
    with pytest.raises(DocumentsTableError):
        open_docs("v1", versions=versions, store=store, documents=documents)
    index = open_docs("v1", versions=versions, store=store, documents=names)
    assert any("and declared as" in doubt for doubt in status_of(index.spec).doubts)
    verify.reconcile(index)
    settle(index)
    app.execute(f"UPDATE {table} SET {text} = 'edited again' WHERE {key} = 3")  # type: ignore[arg-type]
    settle(index)
    assert sorted(asked_texts(tmp_path / "calls")[before:]) == ["new one", "title 1 edited", "title 3 edited again"]
    found = hashes(index, app, "v1")
    assert (found["100"], "2" in found) == (text_hash("new\n\none"), False)
    assert status_of(index.spec).doubts == ()
    assert app.execute("SELECT event FROM embed_pipeline.audit_events WHERE event = 'rename'").fetchall() == [("rename",)]
    assert status_of(index.spec).serving.version == "v1"


def test_other_texts_are_no_other_name(app: psycopg.Connection[Any], open_docs: Open) -> None:
    app.execute("ALTER TABLE articles ALTER title SET NOT NULL, ADD UNIQUE (id, title)")
    serve(open_docs("v1"), "v1")
    for documents in (
        {"table": "articles", "key": "id", "text": ["title"]},
        {"table": "articles", "key": "id", "text": ["body", "title"]},
        {"table": "articles", "key": ["id", "title"], "text": ["title", "body"]},
    ):
        with pytest.raises(CatalogError, match="documents.* is registered as .* and declared as"):
            open_docs("v1", documents=documents)
    settle(open_docs("v1"))


def test_enum_label_that_is_renamed(app: psycopg.Connection[Any], open_docs: Open) -> None:
    """The text of every key with this label is another one, and no row was written."""
    app.execute(
        "CREATE TYPE kind AS ENUM ('a', 'b'); CREATE TABLE labelled (id kind PRIMARY KEY, title text, body text);"
        "INSERT INTO labelled VALUES ('a', 'title', 'a'), ('b', 'title', 'b')"
    )
    documents = {"table": "labelled", "key": "id", "text": ["title", "body"]}
    index = open_docs("v1", documents=documents)
    fill(index, "v1")
    app.execute("ALTER TYPE kind RENAME VALUE 'b' TO 'c'")
    assert status_of(index.spec).doubts == ("the documents table has changed since capture was armed: types",)
    assert verify.reconcile(index).queued == {"v1": 2}
    settle(index)
    assert set(stored(app, "v1")) == {"a", "c"}


def test_key_that_is_widened_under_a_watch(app: psycopg.Connection[Any], open_docs: Open, store: Declared) -> None:
    """It looks at the table again and goes on; the functions that searches ask are made anew by the comparison."""
    app.execute("ALTER TABLE articles ALTER COLUMN id TYPE integer")
    index = open_docs("v1", store=store)
    serve(index, "v1")
    stop, told = threading.Event(), []

    def report(results: list[VersionSync]) -> None:
        told.extend(results)
        if any(each.written for each in results):
            stop.set()

    watching = threading.Thread(target=follow_changes, args=(index, stop, report))
    watching.start()
    app.execute("ALTER TABLE articles ALTER COLUMN id TYPE bigint")
    app.execute("INSERT INTO articles (id, title, body) VALUES (3000000000, 'large', 'key')")
    watching.join(timeout=60)
    assert stop.is_set(), told
    assert hashes(index, app, "v1")["3000000000"] == text_hash("large\n\nkey")
    again = open_docs("v1", store=store)
    verify.reconcile(again)
    settle(again)
    assert app.execute("SELECT embed_pipeline.gone_docs(ARRAY['3000000000', '3000000001'])").fetchone() == (["3000000001"],)


def test_key_that_becomes_a_text(app: psycopg.Connection[Any], open_docs: Open) -> None:
    """The same ids in another order: the ranges that were cut are in none any more, and a comparison does without them."""
    serve(open_docs("v1"), "v1")
    app.execute("ALTER TABLE articles ALTER COLUMN id TYPE text")
    app.execute("UPDATE articles SET body = 'edited' WHERE id = '3'; DELETE FROM articles WHERE id = '4'")
    index = open_docs("v1")
    assert dual_write.sync(index)[0].error == ""
    assert verify.reconcile(index).queued == {"v1": 0}
    settle(index)
    app.execute("INSERT INTO articles (id, title, body) VALUES ('new', 'new', 'one'); TRUNCATE articles")
    settle(index)
    assert stored(app, "v1") == {}
