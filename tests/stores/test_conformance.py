"""What every store must do, whichever it is. One suite; a store that fails a line of it is no store of this package."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import psycopg
import pytest

from embed_pipeline.catalog import partitions
from embed_pipeline.errors import CatalogError, ConfigurationError, FencedOff, LossRefused, WrongSpace
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import ann_index, backfill, cutover, dual_write, gate, retire, verify
from embed_pipeline.search import Searcher
from tests.harness.articles import DOCUMENTS, QUERIES, at, counted, fill, require_consistent, serve, settle, text_hash
from tests.stores.holding import hashes

Open = Callable[..., OpenIndex]


def wanted(app: psycopg.Connection) -> dict[str, str]:
    """doc_id -> hash of every document's text as the application has it."""
    rows = app.execute("SELECT id::text, concat_ws(E'\\n\\n', nullif(title, ''), nullif(body, '')) FROM articles")
    return {doc_id: text_hash(text) for doc_id, text in rows}


def test_a_whole_migration(app: psycopg.Connection, open_stored: Open) -> None:
    """v1, v2, back, v2 again, retire; edits, inserts and deletes between all of them; nothing missing or stale at any step."""
    index = open_stored("v1", "v2", gate={"min_queries": 2, "margin": 0.2, "max_row_change": 0.2})
    serve(index, "v1")
    fill(index, "v2")
    require_consistent(index)
    steps = [
        lambda: (gate.run(index, "v2"), cutover.cutover(index, "v2")),
        lambda: cutover.rollback(index),
        lambda: cutover.cutover(index, "v2", again=True),
        lambda: retire.retire(index, "v1", confirm="v1"),
    ]
    for number, step in enumerate(steps):
        # None that is judged: the second cutover goes by the evidence of the first.
        app.execute("UPDATE articles SET body = %s WHERE id = %s", (f"edited {number}", QUERIES + number + 1))
        app.execute("DELETE FROM articles WHERE id = %s", (DOCUMENTS - number,))
        app.execute("INSERT INTO articles (id, title, body) VALUES (%s, 'new', %s)", (1000 + number, f"new {number}"))
        step()
        settle(index)
        for name in ("v1", "v2") if number < 3 else ("v2",):
            assert hashes(index, app, name) == wanted(app)


def test_backfill_resumes_and_pays_for_nothing_twice(app: psycopg.Connection, open_stored: Open, tmp_path) -> None:  # type: ignore[no-untyped-def]
    calls = tmp_path / "calls"
    version = counted(calls, batch_size=8)
    index = open_stored(versions={"v1": version}, backfill={"write_batch": 8})
    backfill.fill_partition(index, "v1", "00")
    before = len(calls.read_text().splitlines())
    for key in index.spec.partition_keys():
        backfill.fill_partition(index, "v1", key)
    assert before > 0
    assert len(calls.read_text().splitlines()) == DOCUMENTS
    require_consistent(index)


def test_rejected_text_is_set_aside_and_comes_back(app: psycopg.Connection, open_stored: Open) -> None:
    index = open_stored("v1", gate={"min_queries": 2, "margin": 0.2, "max_dead_letters": 5})
    app.execute("UPDATE articles SET title = '', body = '  ' WHERE id = 7")
    fill(index, "v1")
    assert verify.verify(index)["v1"].dead_letters == 1
    app.execute("UPDATE articles SET body = 'words' WHERE id = 7")
    app.execute("UPDATE articles SET title = NULL, body = NULL WHERE id = 8")
    settle(index)
    assert verify.verify(index)["v1"].dead_letters == 1
    assert hashes(index, app, "v1")["7"] == text_hash("words")
    assert "8" not in hashes(index, app, "v1")
    app.execute("DELETE FROM articles WHERE id = 8")
    settle(index)
    assert verify.verify(index)["v1"].dead_letters == 0


def test_key_change_and_truncate(app: psycopg.Connection, open_stored: Open) -> None:
    index = open_stored("v1")
    fill(index, "v1")
    app.execute("UPDATE articles SET id = id + 5000 WHERE id <= 3")
    settle(index)
    assert hashes(index, app, "v1") == wanted(app)
    app.execute("BEGIN; TRUNCATE articles; INSERT INTO articles (id, title, body) VALUES (1, 'a', 'b'); COMMIT")
    settle(index)
    assert hashes(index, app, "v1") == wanted(app)


def test_document_deleted_before_the_backfill_writes_it(app: psycopg.Connection, open_stored: Open) -> None:
    """Its deletion is worked off while the backfill still holds its vector: no resurrection."""
    index = open_stored("v1")

    def delete() -> None:
        app.execute("DELETE FROM articles WHERE id = 1")
        dual_write.sync(index)

    at("backfill.embedded", delete)
    fill(index, "v1")
    settle(index)
    assert "1" not in hashes(index, app, "v1")


def test_document_edited_before_the_backfill_writes_it(app: psycopg.Connection, open_stored: Open) -> None:
    """Its edit is worked off while the backfill still holds the old vector: what is newer stays."""
    index = open_stored("v1")

    def edit() -> None:
        app.execute("UPDATE articles SET body = 'newer' WHERE id = 1")
        dual_write.sync(index)

    at("backfill.embedded", edit)
    fill(index, "v1")
    assert hashes(index, app, "v1")["1"] == text_hash("title 1\n\nnewer")
    settle(index)


def test_document_edited_before_the_dual_write_writes_it(app: psycopg.Connection, open_stored: Open) -> None:
    index = open_stored("v1")
    fill(index, "v1")
    app.execute("UPDATE articles SET body = 'first' WHERE id = 1")
    at("dual_write.embedded", lambda: app.execute("UPDATE articles SET body = 'second' WHERE id = 1"))
    # It ends at the mark that it took when it began. What is overtaken is written all the same: late, and never last.
    dual_write.sync(index)
    assert hashes(index, app, "v1")["1"] == text_hash("title 1\n\nfirst")
    settle(index)
    assert hashes(index, app, "v1")["1"] == text_hash("title 1\n\nsecond")


def test_two_workers_share_the_queue(app: psycopg.Connection, open_stored: Open) -> None:
    index = open_stored("v1", "v2")
    for name in ("v1", "v2"):
        fill(index, name)
    app.execute("UPDATE articles SET body = body || ' edited'")
    workers = [threading.Thread(target=dual_write.sync, args=(index,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    # What a worker has given back, because another one was in its way, comes round again a moment later.
    deadline = time.monotonic() + 20
    while any(result.pending for result in dual_write.sync(index)) and time.monotonic() < deadline:
        time.sleep(dual_write.LOOK_AGAIN_SECONDS)
    settle(index)
    assert hashes(index, app, "v1") == hashes(index, app, "v2") == wanted(app)


def test_search_finds_the_nearest_and_filters(app: psycopg.Connection, open_stored: Open, database_url: str) -> None:
    views = {"column": "views", "index": "integer"}
    declared = {"table": "articles", "key": "id", "text": ["title", "body"], "payload": [views]}
    app.execute("UPDATE articles SET views = id % 3")
    index = open_stored("v1", "v2", documents=declared)
    serve(index, "v1")
    with Searcher("docs", database_url) as searcher:
        answer = searcher.search("title 5\n\nbody 5", k=3)
        assert answer.hits[0].doc_id == "5"
        assert answer.hits[0].distance == pytest.approx(0.0, abs=1e-5)
        assert [hit.distance for hit in answer.hits] == sorted(hit.distance for hit in answer.hits)
        assert searcher.search("title 5\n\nbody 5", k=3, exact=True).hits == answer.hits
        filtered = searcher.search("title 5\n\nbody 5", k=100, where={"views": 1})
        assert {int(hit.doc_id) % 3 for hit in filtered.hits} == {1}
        assert len(filtered.hits) == DOCUMENTS / 3
        with pytest.raises(ConfigurationError, match="no_such"):
            searcher.search("x", where={"no_such": 1})
        fill(index, "v2")
        other = searcher.embed("title 5\n\nbody 5", version="v2")
        assert searcher.search_vector(other).version == "v2"
        with pytest.raises(WrongSpace):
            searcher.search_vector(type(other)("v1", other.fingerprint, other.values))


def test_search_hides_what_is_gone_from_its_commit_on(app: psycopg.Connection, open_stored: Open, database_url: str) -> None:
    """No worker has seen the removal yet. There are k hits where there are k documents, and the same ones when it is worked off."""
    index = open_stored("v1")
    serve(index, "v1")
    with Searcher("docs", database_url) as searcher:
        before = [hit.doc_id for hit in searcher.search("title 5\n\nbody 5", k=DOCUMENTS).hits]
        app.execute("DELETE FROM articles WHERE id::text = ANY (%s)", (before[:7],))
        for _ in ("at once", "worked off"):
            assert [hit.doc_id for hit in searcher.search("title 5\n\nbody 5", k=5).hits] == before[7:12]
            assert [hit.doc_id for hit in searcher.search("title 5\n\nbody 5", k=DOCUMENTS, exact=True).hits] == before[7:]
            dual_write.sync(index)


def test_search_beside_a_truncate(app: psycopg.Connection, open_stored: Open, database_url: str) -> None:
    """What is loaded again in the same transaction never disappears, and what is not is gone with its commit."""
    index = open_stored("v1")
    serve(index, "v1")
    with Searcher("docs", database_url) as searcher:
        before = [hit.doc_id for hit in searcher.search("title 5\n\nbody 5", k=DOCUMENTS).hits]
        app.execute("CREATE TEMPORARY TABLE kept AS SELECT * FROM articles WHERE id <= 4")
        app.execute("BEGIN; TRUNCATE articles; INSERT INTO articles SELECT * FROM kept; COMMIT")
        left = [doc_id for doc_id in before if int(doc_id) <= 4]
        assert [hit.doc_id for hit in searcher.search("title 5\n\nbody 5", k=10).hits] == left
        assert [hit.doc_id for hit in searcher.search("title 5\n\nbody 5", k=3).hits] == left[:3]
        app.execute("TRUNCATE articles")
        assert searcher.search("title 5\n\nbody 5", k=3).hits == []
    settle(index)
    assert hashes(index, app, "v1") == {}


def test_search_where_the_documents_cannot_be_looked_up(
    app: psycopg.Connection, second_app: psycopg.Connection, open_stored: Open, database_url: str
) -> None:
    """A transaction holds the table: searches wait for it no longer than a moment, and hide what is announced as removed."""
    index = open_stored("v1")
    serve(index, "v1")
    with Searcher("docs", database_url) as searcher:
        before = [hit.doc_id for hit in searcher.search("title 5\n\nbody 5", k=DOCUMENTS).hits]
        app.execute("DELETE FROM articles WHERE id::text = ANY (%s)", (before[:2],))
        second_app.execute("LOCK TABLE articles IN ACCESS EXCLUSIVE MODE")
        started = time.monotonic()
        assert [hit.doc_id for hit in searcher.search("title 5\n\nbody 5", k=5).hits] == before[2:7]
        assert time.monotonic() - started < 5
        second_app.rollback()


def test_nothing_is_inserted_into_a_partition_that_was_closed(app: psycopg.Connection, open_stored: Open) -> None:
    """A run is away for so long that its partition is closed to be compared: it is told so, and another run fills it."""
    index = open_stored("v1")

    def close() -> None:
        with index.connection() as conn:
            partitions.close(conn, "docs", "v1", "00")

    at("backfill.embedded", close)
    with pytest.raises(FencedOff, match="Partition 00 of docs.v1 was closed"):
        backfill.fill_partition(index, "v1", "00")
    assert hashes(index, app, "v1") == {}
    fill(index, "v1")
    require_consistent(index)


def test_a_claim_that_was_taken_over_writes_nothing(app: psycopg.Connection, open_stored: Open) -> None:
    """A worker is away for so long that another one does its work, of a newer text: the older one does not follow."""
    index = open_stored("v1")
    fill(index, "v1")
    app.execute("UPDATE articles SET body = 'older' WHERE id = 1")

    def take_over() -> None:
        app.execute("UPDATE articles SET body = 'newer' WHERE id = 1")
        app.execute("UPDATE embed_pipeline.pending SET claim = NULL")
        app.execute("DELETE FROM embed_pipeline.claims")
        dual_write.sync(index)

    at("dual_write.embedded", take_over)
    (result,) = dual_write.sync(index)
    assert (result.written, result.error) == (0, "")
    assert hashes(index, app, "v1")["1"] == text_hash("title 1\n\nnewer")
    require_consistent(index)


@pytest.mark.parametrize("distance", ["cosine", "inner_product", "l2"])
def test_distances_mean_the_same_everywhere(app: psycopg.Connection, open_stored: Open, database_url: str, distance: str) -> None:
    version = {
        "provider": "tests.harness.fakes:HashEmbedder",
        "model_name": "m",
        "dimensions": 16,
        "distance": distance,
        "normalize": False,
    }
    index = open_stored(versions={"v1": version})
    serve(index, "v1")
    with Searcher("docs", database_url) as searcher:
        query = searcher.embed("title 5\n\nbody 5").values
        hits = searcher.search("title 5\n\nbody 5", k=DOCUMENTS, exact=True).hits
    embedder = index.embedder("v1")
    for hit in hits:
        vector = embedder.embed_documents([f"title {hit.doc_id}\n\nbody {hit.doc_id}"]).vectors[0]
        expected = {
            "cosine": 1 - float(vector @ query / np.linalg.norm(vector) / np.linalg.norm(query)),
            "inner_product": -float(vector @ query),
            "l2": float(np.linalg.norm(vector - query)),
        }[distance]
        assert hit.distance == pytest.approx(expected, abs=1e-4)


def test_passages(app: psycopg.Connection, open_stored: Open, database_url: str) -> None:
    """A document that grows and shrinks is found by its nearest passage, whole and once."""
    version = {
        "provider": "tests.harness.fakes:HashEmbedder",
        "model_name": "m",
        "dimensions": 16,
        "chunker": {"size": 20, "overlap": 0},
    }
    index = open_stored(versions={"v1": version})
    five = "\n\n".join(f"passage number {n} ab" for n in range(5))
    app.execute("UPDATE articles SET title = '', body = %s WHERE id = 1", (five,))
    serve(index, "v1")
    with Searcher("docs", database_url) as searcher:
        hit = searcher.search("passage number 3 ab", k=1).hits[0]
        assert (hit.doc_id, five[hit.start : hit.end]) == ("1", "passage number 3 ab")
        assert len({h.doc_id for h in searcher.search("passage", k=20).hits}) == 20
        three = "\n\n".join(f"passage number {n} ab" for n in range(3))
        app.execute("UPDATE articles SET body = %s WHERE id = 1", (three,))
        settle(index)
        hit = searcher.search("passage number 4 ab", k=1).hits[0]
        assert hit.distance > 0.01
    require_consistent(index)


def test_halves_are_kept_as_halves(app: psycopg.Connection, open_stored: Open, database_url: str) -> None:
    version = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "m", "dimensions": 16, "precision": "halfvec"}
    index = open_stored(versions={"v1": version})
    serve(index, "v1")
    settle(index)
    with Searcher("docs", database_url) as searcher:
        assert searcher.search("title 5\n\nbody 5", k=1).hits[0].doc_id == "5"


def test_retired_version_is_gone_and_its_readers_are_told(app: psycopg.Connection, open_stored: Open, database_url: str) -> None:
    index = open_stored("v1", "v2")
    serve(index, "v1")
    with Searcher("docs", database_url, refresh_seconds=60) as searcher:
        searcher.search("anything", k=1)
        serve(index, "v2")
        retire.retire(index, "v1", confirm="v1")
        # Whatever it had resolved before: it looks again.
        assert searcher.search("anything", k=1).version == "v2"
        with pytest.raises(CatalogError, match="retired"):
            searcher.search("anything", version="v1")
    settle(index)


def test_a_worker_of_a_retired_version_goes_on_with_the_others(app: psycopg.Connection, open_stored: Open) -> None:
    index = open_stored("v1", "v2")
    serve(index, "v1")
    serve(index, "v2")
    app.execute("UPDATE articles SET body = 'late' WHERE id = 1")
    at("dual_write.embedded", lambda: retire.retire(index, "v1", confirm="v1"))
    results = {each.version: each for each in dual_write.sync(index)}
    assert results["v2"].error == ""
    settle(index)
    assert hashes(index, app, "v2") == wanted(app)


def test_building_the_index_twice_keeps_it(open_stored: Open) -> None:
    index = open_stored("v1")
    fill(index, "v1")
    with index.connection() as conn:
        before = index.store(index.version(conn, "v1")).ann_index(conn)
        assert ann_index.build(index, "v1") == before
    assert before is not None
    assert before.valid


def test_bypassed_change_is_found_and_repaired(app: psycopg.Connection, open_stored: Open) -> None:
    """The triggers were off for a while: the full comparison finds the edited, the new and the deleted document."""
    index = open_stored("v1", "v2")
    serve(index, "v1")
    fill(index, "v2")
    app.execute("ALTER TABLE articles DISABLE TRIGGER USER")
    app.execute("UPDATE articles SET body = 'unseen' WHERE id = 1")
    app.execute("DELETE FROM articles WHERE id = 2")
    app.execute("INSERT INTO articles (id, title, body) VALUES (999, 'un', 'seen')")
    app.execute("ALTER TABLE articles ENABLE TRIGGER USER")
    found = verify.verify(index)["v2"]
    assert (found.stale, found.orphaned, found.missing) == (1, 1, 1)
    assert verify.reconcile(index).queued == {"v1": 3, "v2": 3}
    settle(index)
    assert hashes(index, app, "v1") == hashes(index, app, "v2") == wanted(app)


def test_bulk_loss_is_refused_until_it_is_told(app: psycopg.Connection, open_stored: Open) -> None:
    """The table was swapped for one without rows: to a comparison all of its documents look deleted."""
    app.execute("INSERT INTO articles (id, title, body) SELECT n, 't ' || n, 'b' FROM generate_series(61, 110) AS n")
    index = open_stored("v1")
    fill(index, "v1")
    app.execute("ALTER TABLE articles RENAME TO before; CREATE TABLE articles (LIKE before INCLUDING ALL)")
    with pytest.raises(LossRefused, match="would remove 110 of the 110 documents of v1"):
        verify.reconcile(index)
    assert len(hashes(index, app, "v1")) == 110
    assert verify.reconcile(index, accept_loss=110).queued == {"v1": 110}
    settle(index)
    assert hashes(index, app, "v1") == {}


def test_the_count_is_of_documents_with_vectors(app: psycopg.Connection, open_stored: Open) -> None:
    index = open_stored("v1")
    app.execute("UPDATE articles SET title = '', body = '' WHERE id = 7")
    fill(index, "v1")
    app.execute("DELETE FROM articles WHERE id = 8")
    dual_write.sync(index)
    with index.connection() as conn:
        store = index.store(index.version(conn, "v1"))
        assert store.count(conn) == DOCUMENTS - 2
        assert store.size_bytes(conn) > 0
