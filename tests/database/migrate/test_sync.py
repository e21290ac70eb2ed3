"""`sync` without --watch: what it brings up to date, where it ends, and how much it claims at a time."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import psycopg
import pytest

from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import dual_write
from embed_pipeline.signals import listen
from tests.harness.articles import DOCUMENTS, change, fill, settle, stored, text_hash
from tests.harness.fakes import HashEmbedder

Open = Callable[..., OpenIndex]


def test_it_ends_at_its_mark_while_the_application_goes_on_writing(
    open_docs: Open, app: psycopg.Connection, database_url: str
) -> None:
    index = open_docs("v1", "v2")
    for name in ("v1", "v2"):
        fill(index, name)
    app.execute("UPDATE articles SET body = 'before the sync'")
    stop, written = threading.Event(), itertools.count()

    def write() -> None:
        with psycopg.connect(database_url, autocommit=True) as writer:
            while not stop.is_set():
                number = next(written)
                writer.execute("UPDATE articles SET body = %s WHERE id = %s", (f"edit {number}", 1 + number % DOCUMENTS))

    writing = threading.Thread(target=write)
    writing.start()
    try:
        results = dual_write.sync(index)
        assert writing.is_alive()
    finally:
        stop.set()
        writing.join()
    assert [(each.version, each.error, each.pending) for each in results] == [("v1", "", 0), ("v2", "", 0)]
    before = {str(n): text_hash(f"title {n}\n\nbody {n}") for n in range(1, DOCUMENTS + 1)}
    for version in ("v1", "v2"):
        found = stored(app, version)
        assert not [doc_id for doc_id, digest in before.items() if found[doc_id] == digest], (
            "everything from before the sync is done"
        )
    assert next(written) > 1
    settle(index)


def test_a_document_that_is_edited_at_every_batch_does_not_keep_it(open_filled: Open, app: psycopg.Connection) -> None:
    """What comes during the sync is the next one's: the first change of each document is what counts."""
    index = open_filled()
    change(app, 1, "edit 0")
    edits = itertools.count(1)

    def edit() -> None:
        change(app, 1, f"edit {next(edits)}")
        with index.connection() as conn:
            dual_write.distributor(index).distribute(conn)

    listen("dual_write.embedded", edit)
    (result,) = dual_write.sync(index)
    assert (result.error, result.pending) == ("", 0)
    # The change after the claimed one counts from the very next number on, which may be the mark itself: then there is one more round.
    assert next(edits) <= 3, "and not one more for each edit"
    assert stored(app, "v1")["1"] in {text_hash(f"title 1\n\nedit {n}") for n in (0, 1)}, "late, and forward"
    assert app.execute("SELECT count(*) FROM embed_pipeline.pending").fetchone() == (1,)


@pytest.mark.parametrize("per_text", [0.25, 0.05])
def test_a_batch_is_about_half_a_second_of_embedding(
    open_filled: Open, app: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, per_text: float
) -> None:
    """By the clock of the embedder alone: the machine makes a batch smaller, never larger."""
    index = open_filled()
    app.execute("UPDATE articles SET body = body || ' again'")
    vector = HashEmbedder.vector

    def slowly(self: HashEmbedder, text: str) -> object:
        threading.Event().wait(per_text)
        return vector(self, text)

    monkeypatch.setattr(HashEmbedder, "vector", slowly)
    claimed: list[int] = []

    def count() -> None:
        with index.connection() as conn:
            row = conn.execute("SELECT count(*) FROM embed_pipeline.pending WHERE claim IS NOT NULL").fetchone()
        assert row is not None
        claimed.append(row[0])
        if len(claimed) == 4:
            monkeypatch.setattr(HashEmbedder, "vector", vector)

    listen("dual_write.claimed", count)
    index.batch_sizes.clear()
    (result,) = dual_write.sync(index)
    assert (result.error, result.pending, result.written) == ("", 0, DOCUMENTS)
    assert claimed[0] == dual_write.FIRST
    assert all(1 <= size <= 0.5 / per_text for size in claimed[1:4]), claimed
