"""What the store for an application's tests has of its own: one lock, changes that are put back, and one process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import LiteralString

import numpy as np
import psycopg
import pytest

from embed_pipeline.documents import queue
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import dual_write, verify
from embed_pipeline.search import Searcher
from embed_pipeline.spec import KINDS
from embed_pipeline.testing import held
from tests.harness.articles import at, change, fill, require_consistent, serve, settle, text_hash
from tests.harness.postgres.seen import wait_until
from tests.stores.holding import hashes

Open = Callable[..., OpenIndex]
MEMORY = {"kind": "memory"}


class Lost(Exception):
    """The transaction ends otherwise than its writer meant."""


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE articles SET body = 'edited' WHERE id = 1",
        "INSERT INTO articles (id, title, body) VALUES (999, 'new', 'one')",
        "DELETE FROM articles WHERE id = 1",
        "UPDATE articles SET title = '', body = '' WHERE id = 1",
    ],
)
def test_a_write_that_fails_is_put_back(
    app: psycopg.Connection, open_docs: Open, monkeypatch: pytest.MonkeyPatch, statement: LiteralString
) -> None:
    """The ledger has not heard of it."""
    index = open_docs("v1", store=MEMORY)
    fill(index, "v1")
    before = hashes(index, app, "v1")
    app.execute(statement)

    def lost(conn: psycopg.Connection, claim: queue.Claim, doc_ids: Sequence[str]) -> set[str]:
        if not doc_ids:
            return set()  # Nothing was to be done without embedding.
        assert hashes(index, app, "v1") != before, "nothing was written yet"
        raise Lost

    with monkeypatch.context() as patched:
        patched.setattr(queue, "acknowledge", lost)
        with pytest.raises(Lost):
            dual_write.sync(index)
    assert hashes(index, app, "v1") == before
    app.execute("UPDATE embed_pipeline.pending SET claim = NULL; DELETE FROM embed_pipeline.claims")
    settle(index)
    require_consistent(index)


def test_nothing_is_written_while_everything_is_compared(app: psycopg.Connection, open_docs: Open) -> None:
    """Else a document that is written after the vectors were looked at, and before its slice is, would look stale."""
    app.execute("INSERT INTO articles (id, title, body) SELECT n, 't ' || n, 'b' FROM generate_series(61, 400) AS n")
    index = open_docs("v1", store=MEMORY)
    fill(index, "v1")
    worker = threading.Thread(target=dual_write.sync, args=(OpenIndex(index.spec, index.url, index.source),))

    def write() -> None:
        change(app, 400, "edited")
        worker.start()
        wait_until(lambda: app.execute("SELECT FROM embed_pipeline.claims").rowcount > 0, "a claim of the worker")
        # It waits for the comparison; else it has written by then.
        worker.join(1.0)

    at("compare.slice", write)
    assert verify.verify(index)["v1"].differences == 0
    worker.join()
    assert hashes(index, app, "v1")["400"] == text_hash("t 400\n\nedited")
    require_consistent(index)


def test_a_half_is_what_a_half_can_hold(open_docs: Open) -> None:
    version = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "m", "dimensions": 16, "precision": "halfvec"}
    index = open_docs(versions={"v1": version}, store=MEMORY)
    fill(index, "v1")
    exact = index.embedder("v1").embed_documents(["title 5\n\nbody 5"]).vectors[0]
    with index.connection() as conn:
        kept = index.store(index.version(conn, "v1")).stored_vectors(conn, ["5"])["5"].vectors[0]
    np.testing.assert_array_equal(kept, exact.astype(np.float16).astype(np.float32))
    assert not np.array_equal(kept, exact)


def test_a_forked_process_is_told_that_they_are_gone(open_docs: Open) -> None:
    """It would change a copy that nobody else sees."""
    fill(open_docs("v1", store=MEMORY), "v1")
    assert held.rooms
    child = os.fork()
    if child == 0:
        os._exit(len(held.rooms))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert held.rooms


def test_a_process_that_does_not_know_the_kind(open_docs: Open, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(open_docs("v1", store=MEMORY), "v1")
    monkeypatch.delitem(KINDS, "memory")
    with (
        pytest.raises(ConfigurationError, match="There is no kind of store 'memory' in this process"),
        Searcher("docs", database_url) as searcher,
    ):
        searcher.search("title 5")
