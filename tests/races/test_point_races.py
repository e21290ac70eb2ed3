"""Points of Qdrant against a changing ledger: each test stops a writer at a named moment and lets another one be faster.

There is no transaction over both: what one of the tests calls safe is so by compare-and-set alone. Both layouts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from qdrant_client import models

from embed_pipeline import signals
from embed_pipeline.catalog import dead_letters
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, cutover, dual_write, retire, verify
from embed_pipeline.stores.qdrant import compare
from tests.harness.articles import DOCUMENTS, at, change, counted, declared, fill, require_consistent, serve, settle, text_hash
from tests.harness.stores import Declared
from tests.races.hands import by_another
from tests.stores.holding import hashes, points, store_of

Open = Callable[..., OpenIndex]


@pytest.fixture(params=["local-collections", pytest.param("local-named_vectors", marks=pytest.mark.soak)])
def store(request: pytest.FixtureRequest, qdrant_at: Callable[[str], Declared]) -> Declared:
    """Local mode: nothing here needs a server, and a test has no other process to wait for."""
    return qdrant_at(request.param)


def test_an_older_write_lands_after_a_newer_one(app: psycopg.Connection, open_stored: Open) -> None:
    """A worker is about to write; the text changes, another worker writes it. The first one's write changes nothing."""
    index = open_stored("v1")
    fill(index, "v1")
    change(app, 1, "older")

    def overtake() -> None:
        change(app, 1, "newer")
        by_another(app, index)
        assert hashes(index, app, "v1")["1"] == text_hash("title 1\n\nnewer")

    # Once for the look that settles nothing, which decides nothing; then for the write.
    at("points.decided", overtake)
    dual_write.sync(index)
    assert hashes(index, app, "v1")["1"] == text_hash("title 1\n\nnewer")
    require_consistent(index)


def test_the_claim_is_looked_at_after_the_points(app: psycopg.Connection, open_stored: Open) -> None:
    """A claim is taken over after its points were read, and a newer text is written whole: what was read is of no use any more."""
    index = open_stored("v1")
    fill(index, "v1")
    change(app, 1, "older")
    reads = 0

    def overtake() -> None:
        nonlocal reads
        reads += 1
        if reads == 2:  # The first is of the look that settles.
            change(app, 1, "newer")
            by_another(app, index)

    signals.listen("points.read", overtake)
    dual_write.sync(index)
    assert hashes(index, app, "v1")["1"] == text_hash("title 1\n\nnewer")
    require_consistent(index)


def test_a_claim_that_was_taken_over_writes_nothing(app: psycopg.Connection, open_stored: Open) -> None:
    """A worker was away for so long that another one did its work, and acknowledged it: no request of the first one follows."""
    index = open_stored("v1")
    fill(index, "v1")
    change(app, 1, "edited")
    at("dual_write.embedded", lambda: by_another(app, index))
    written = 0

    def count() -> None:
        nonlocal written
        written += 1

    signals.listen("store.committed", lambda: signals.listen("points.decided", count))
    (result,) = dual_write.sync(index)
    assert (written, result.written) == (0, 0)
    settle(index)


def test_the_documents_are_looked_at_after_the_points(app: psycopg.Connection, open_stored: Open) -> None:
    """A backfill reads the points; a document goes, and that is worked off. Looked at before, it would be written over its tombstone."""
    index = open_stored("v1")

    def overtake() -> None:
        app.execute("DELETE FROM articles WHERE id = 1")
        by_another(app, index)

    at("points.read", overtake)
    fill(index, "v1")
    assert "1" not in hashes(index, app, "v1")
    require_consistent(index)


def test_a_document_goes_a_second_time(app: psycopg.Connection, open_stored: Open) -> None:
    """It went, came back, and the backfill is about to write it over the tombstone when it goes again."""
    index = open_stored("v1")
    app.execute("DELETE FROM articles WHERE id = 1")
    dual_write.sync(index)
    app.execute("INSERT INTO articles (id, title, body) VALUES (1, 'title 1', 'back')")

    def overtake() -> None:
        app.execute("DELETE FROM articles WHERE id = 1")
        by_another(app, index)

    at("points.decided", overtake)
    backfill.fill_partition(index, "v1", "00")
    assert "1" not in hashes(index, app, "v1")


def test_a_text_that_came_back_is_settled_while_a_worker_writes(app: psycopg.Connection, open_stored: Open) -> None:
    """A to B, a worker is about to write B; back to A, which is what stands there: the look that settles A makes B's write fail."""
    index = open_stored("v1")
    fill(index, "v1")
    change(app, 1, "other")

    def overtake() -> None:
        change(app, 1, "body 1")
        by_another(app, index)

    at("points.decided", overtake)
    dual_write.sync(index)
    assert hashes(index, app, "v1")["1"] == text_hash("title 1\n\nbody 1")
    require_consistent(index)


def test_a_rejected_edit_beside_an_insert_on_its_way(app: psycopg.Connection, open_stored: Open) -> None:
    """The backfill is about to insert; the text becomes blank and is set aside: the insert finds the point taken."""
    index = open_stored("v1")

    def overtake() -> None:
        app.execute("UPDATE articles SET title = '', body = '' WHERE id = 1")
        by_another(app, index)

    at("points.decided", overtake)
    backfill.fill_partition(index, "v1", "00")
    assert "1" not in hashes(index, app, "v1")
    assert verify.verify(index)["v1"].dead_letters == 1


def test_a_letter_about_a_text_that_has_changed(app: psycopg.Connection, open_stored: Open) -> None:
    """A blank text is set aside; before its letter is written there are words, and they are dual-written: no letter is left."""
    index = open_stored("v1")
    fill(index, "v1")
    app.execute("UPDATE articles SET title = '', body = '' WHERE id = 1")

    def overtake() -> None:
        change(app, 1, "words")
        by_another(app, index)

    at("reject.emptied", overtake)
    dual_write.sync(index)
    with index.connection() as conn:
        assert dead_letters.count(conn, "docs", "v1") == 0
    settle(index)


def test_the_letter_of_another_worker_is_not_forgotten(app: psycopg.Connection, open_stored: Open) -> None:
    """A worker has written; before it acknowledges, the text becomes blank and another worker sets it aside. That letter stays."""
    index = open_stored("v1")
    fill(index, "v1")
    change(app, 1, "words")

    def overtake() -> None:
        app.execute("UPDATE articles SET title = '', body = '' WHERE id = 1")
        by_another(app, index)

    at("store.committed", overtake)
    dual_write.sync(index)
    with index.connection() as conn:
        assert dead_letters.count(conn, "docs", "v1") == 1
    settle(index)


def test_tombstones_are_not_swept_under_a_writer(
    app: psycopg.Connection, open_stored: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tombstone of a document is all that keeps a backfill's insert of it away: it stays while anybody writes."""
    monkeypatch.setattr(compare, "TOMBSTONE_SECONDS", -1.0)
    index = open_stored("v1")

    def overtake() -> None:
        app.execute("DELETE FROM articles WHERE id = 1")
        by_another(app, index)
        with index.connection() as conn:
            store_of(index, "v1")._sweep(conn)

    at("points.decided", overtake)
    fill(index, "v1")
    assert "1" not in hashes(index, app, "v1")
    require_consistent(index)


def test_tombstones_go_once_a_version_is_verified(
    app: psycopg.Connection, open_stored: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = open_stored("v1")
    fill(index, "v1")
    app.execute("DELETE FROM articles WHERE id <= 5")
    settle(index)
    assert len(points(index, "v1")) == DOCUMENTS
    monkeypatch.setattr(compare, "TOMBSTONE_SECONDS", -1.0)
    app.execute("INSERT INTO articles (id, title, body) VALUES (1, 'back', 'again')")
    settle(index)
    assert {record.id for record in points(index, "v1")} == {1, *range(6, DOCUMENTS + 1)}


def test_a_document_is_written_while_everything_is_compared(app: psycopg.Connection, open_stored: Open) -> None:
    """Qdrant was read, then a document changes and is worked off, then the ledger is read: nothing is wrong with it."""
    index = open_stored("v1")
    fill(index, "v1")

    def overtake() -> None:
        change(app, 1, "newer")
        app.execute("DELETE FROM articles WHERE id = 2")
        app.execute("INSERT INTO articles (id, title, body) VALUES (999, 'a', 'b')")
        by_another(app, index)

    at("qdrant.seen", overtake)
    found = verify.verify(index)["v1"]
    assert (found.differences, found.current, found.documents) == (0, DOCUMENTS, DOCUMENTS)
    at("qdrant.seen", overtake_with(app, index))
    assert verify.reconcile(index).queued == {"v1": 0}


def overtake_with(app: psycopg.Connection, index: OpenIndex) -> Callable[[], None]:
    def overtake() -> None:
        change(app, 1, "newest")
        by_another(app, index)

    return overtake


def test_another_version_is_retired_between_reading_and_writing(app: psycopg.Connection, open_stored: Open) -> None:
    """In shared points what was read holds the vector of a version that is gone when it is written back."""
    index = open_stored("v1", "v2")
    serve(index, "v1")
    serve(index, "v2")
    change(app, 1, "newer")

    def overtake() -> None:
        retire.retire(index, "v1", confirm="v1")

    with index.connection() as conn:
        dual_write_only(index, conn, "v1")
    at("points.decided", overtake)
    results = {each.version: each for each in dual_write.sync(index)}
    # By this very run: nobody takes the vector that is gone for this version's.
    assert (results["v2"].error, results["v2"].written) == ("", 1)
    settle(index)
    assert hashes(index, app, "v2")["1"] == text_hash("title 1\n\nnewer")


def test_a_neighbour_is_being_retired_while_its_points_are_read(
    app: psycopg.Connection, open_docs: Open, qdrant_at: Callable[[str], Declared]
) -> None:
    """Its vector is gone and its labels not yet: what is written back must not bring a label back."""
    index = open_docs("v1", "v2", store=qdrant_at("loopback-named_vectors"))
    serve(index, "v1")
    serve(index, "v2")
    change(app, 1, "newer")
    with index.connection() as conn:
        dual_write_only(index, conn, "v1")
    decided, gone = threading.Event(), threading.Event()

    def hold() -> None:
        decided.set()
        assert gone.wait(30)

    def write_meanwhile() -> None:
        at("points.decided", hold)
        writing.start()
        assert decided.wait(30)

    writing = threading.Thread(target=dual_write.sync, args=(index,))
    at("qdrant.vector_gone", write_meanwhile)
    retire.retire(index, "v1", confirm="v1")
    gone.set()
    writing.join()
    settle(index)
    store = store_of(index, "v2")
    point = store._engine.call(lambda client: client.retrieve(store.place.collection, [1], with_payload=True))[0]
    assert set((point.payload or {})["embed_pipeline"]["versions"]) == {"v2"}


def dual_write_only(index: OpenIndex, conn: psycopg.Connection, name: str) -> None:
    """Nothing is left to do for one version, so that the next writer is of the other one."""
    dual_write.distributor(index).distribute(conn)
    conn.execute("DELETE FROM embed_pipeline.pending WHERE version = %s", (name,))


def test_points_are_removed_by_somebody_else_while_they_are_written(app: psycopg.Connection, open_stored: Open) -> None:
    """Ids that are gone fail nothing and stop nothing half-way: what is missing is written anew."""
    index = open_stored("v1")
    fill(index, "v1")
    app.execute("UPDATE articles SET body = body || ' edited'")
    store = store_of(index, "v1")

    def remove() -> None:
        gone = models.PointIdsList(points=[1, 2, 3, 40])
        store._engine.call(lambda client: client.delete(store.place.collection, gone))

    at("points.decided", remove)
    settle(index)
    assert len(hashes(index, app, "v1")) == DOCUMENTS


def test_a_writer_that_knows_nothing_of_us(app: psycopg.Connection, open_stored: Open) -> None:
    """It writes whole points of its own: vectors without provenance are found, whatever they are, and put right."""
    index = open_stored("v1", "v2")
    fill(index, "v1")
    fill(index, "v2")
    store = store_of(index, "v1")
    vector: Any = [1.0] + [0.0] * 15
    foreign = [
        models.PointStruct(id=1, vector={store.place.vector: vector}),
        models.PointStruct(id=777, vector={store.place.vector: vector}),
    ]
    store._engine.call(lambda client: client.upsert(store.place.collection, foreign))
    found = verify.verify(index)
    assert (found["v1"].stale, found["v1"].orphaned) == (1, 1)
    if store.place.shared:
        assert found["v2"].missing == 1
    assert verify.reconcile(index).found
    settle(index)
    assert hashes(index, app, "v1")["1"] == hashes(index, app, "v2")["1"] == text_hash("title 1\n\nbody 1")
    assert "777" not in hashes(index, app, "v1")


def test_a_vector_is_removed_and_its_provenance_stays(app: psycopg.Connection, open_stored: Open) -> None:
    """The payload alone proves nothing: a point without the vector is missing, and is embedded again."""
    index = open_stored("v1")
    fill(index, "v1")
    store = store_of(index, "v1")
    store._engine.call(lambda client: client.delete_vectors(store.place.collection, vectors=[store.place.vector], points=[1]))
    assert verify.verify(index)["v1"].missing == 1
    verify.reconcile(index)
    settle(index)


def test_payload_is_kept_in_step(app: psycopg.Connection, open_stored: Open, tmp_path: Any) -> None:
    """A change of the payload alone reaches the points, and pays for no embedding."""
    calls = tmp_path / "calls"
    version = counted(calls)
    declared = {"table": "articles", "key": "id", "text": ["title", "body"], "payload": ["views"]}
    index = open_stored(versions={"v1": version}, documents=declared)
    fill(index, "v1")
    paid = len(calls.read_text().splitlines())
    app.execute("UPDATE articles SET views = 42 WHERE id = 1")
    settle(index)
    assert {record.id: (record.payload or {})["views"] for record in points(index, "v1")}[1] == 42
    assert len(calls.read_text().splitlines()) == paid


def test_one_operation_moves_the_alias(
    app: psycopg.Connection, open_docs: Open, qdrant_at: Callable[[str], Declared], shared_loopback: Any
) -> None:
    """Deleting and creating an alias are two steps on a server, and a reader between them finds none."""
    index = open_docs("v1", "v2", store=qdrant_at("loopback-collections"))
    serve(index, "v1")
    fill(index, "v2")
    before = len(shared_loopback.requests())
    serve(index, "v2")
    cutover.rollback(index)
    asked = [each for each in shared_loopback.requests(before) if each["path"].endswith("/aliases") and each["method"] == "POST"]
    actions = [json.loads(each["body"])["actions"] for each in asked]
    assert [[list(action) for action in each] for each in actions] == [[["create_alias"]]] * 2


def test_the_documents_are_not_locked_while_qdrant_is_asked(app: psycopg.Connection, open_stored: Open) -> None:
    """An application's TRUNCATE that waits for 50 ms gets through beside every request of every writer and comparison."""
    index = open_stored("v1", partitions=1)
    app.execute("SET lock_timeout = '50ms'")
    passed = set()

    def lock(moment: str) -> None:
        with app.transaction():
            app.execute("LOCK TABLE articles IN ACCESS EXCLUSIVE MODE")
        passed.add(moment)

    moments = ("points.read", "points.decided", "qdrant.written", "qdrant.seen", "qdrant.looked", "search.found")
    for moment in moments:
        signals.listen(moment, partial(lock, moment))
    fill(index, "v1")
    change(app, 1, "edited")
    app.execute("UPDATE articles SET title = '', body = '' WHERE id = 2")
    app.execute("DELETE FROM articles WHERE id = 3")
    dual_write.sync(index)
    app.execute("ALTER TABLE articles DISABLE TRIGGER USER")
    change(app, 4, "unseen")
    verify.reconcile(index)
    with index.connection() as conn:
        store_of(index, "v1").search(conn, np.ones(16, dtype=np.float32), 3)
    assert passed == set(moments)


def test_nothing_is_imported_under_the_documents_lock(store: Declared, app: psycopg.Connection, open_docs: Open) -> None:
    """The client of a store takes seconds to import, and writers of the application would wait for it: opening an index imports it."""
    open_docs("v1", store=store).close()
    spec = declared(app.info.dsn, Path("none.jsonl"), "v1", store=store, database_url=url_of(app)).model_dump_json()
    code = (
        "import sys; from embed_pipeline.migrate.opening import open_index; from embed_pipeline.spec import IndexSpec; "
        "open_index(IndexSpec.model_validate_json(sys.stdin.read()), register_new=False); "
        "sys.exit('qdrant_client' not in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], input=spec, text=True).returncode == 0


def url_of(app: psycopg.Connection) -> str:
    info = app.info
    return f"postgresql://{info.user}:{info.password}@{info.host}:{info.port}/{info.dbname}"
