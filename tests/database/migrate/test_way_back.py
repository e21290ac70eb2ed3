"""A rollback in bad weather: the old model does not answer, somebody has forgotten a transaction, or has dropped what would serve."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embed_pipeline.catalog import serving, versions
from embed_pipeline.catalog.route import Route
from embed_pipeline.documents import queue
from embed_pipeline.errors import CutoverRefused, DatabaseUnavailable, VectorsGone
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import ann_index, backfill, cutover, cutover_checks, dual_write, gate, register, retire, verify
from embed_pipeline.report import status as statuses
from tests.harness.articles import at, change, fill, serve, settle, stored
from tests.harness.providers.loopback import Provider
from tests.races.hands import claim, distribute

Open = Callable[..., OpenIndex]


def declared(**options: Any) -> dict[str, Any]:
    return {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "m", "dimensions": 16, "options": options}


@pytest.fixture
def down(tmp_path: Path) -> Path:
    """While this file exists, v1's model fails."""
    return tmp_path / "down"


@pytest.fixture
def moved(open_docs: Open, down: Path) -> OpenIndex:
    """v2 serves, and v1 did before."""
    index = open_docs(versions={"v1": declared(raise_while=str(down)), "v2": declared(salt="v2")})
    serve(index, "v1")
    serve(index, "v2")
    return index


@contextmanager
def prepared(app: psycopg.Connection, url: str, statement: str, gid: str) -> Iterator[None]:
    """A transaction that somebody has prepared and forgotten, as long as the block."""
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("BEGIN")
        other.execute(statement)  # type: ignore[arg-type]
        other.execute(f"PREPARE TRANSACTION '{gid}'")  # type: ignore[arg-type]
    try:
        yield
    finally:
        app.execute(f"ROLLBACK PREPARED '{gid}'")  # type: ignore[arg-type]


def events(app: psycopg.Connection, event: str) -> list[tuple[Any, ...]]:
    query = "SELECT version, actor, detail FROM embed_pipeline.events WHERE event = %s ORDER BY id"
    return app.execute(query, (event,)).fetchall()


def test_what_the_old_model_cannot_embed_is_named_accepted_and_audited(
    app: psycopg.Connection, moved: OpenIndex, down: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBED_PIPELINE_ACTOR", "anna")
    down.touch()
    app.execute("DELETE FROM articles WHERE id = 9")
    for doc_id in (1, 2, 3, 4):
        change(app, doc_id, "edited")
    with pytest.raises(CutoverRefused) as refused:
        cutover.rollback(moved)
    said = str(refused.value)
    assert "4 documents of v1 have waited" in said
    assert re.search(r"the provider is down\. They are: (\d \(1 attempts\); ){3}and 1 more\.", said)
    assert said.endswith("embed-pipeline rollback docs --accept-stale 4.")
    # What is gone needs no model.
    assert "9" not in stored(app, "v1")
    with pytest.raises(CutoverRefused, match="4 documents of v1"):
        cutover.rollback(moved, accept_stale=3)
    assert (serving.read(app, "docs").version, events(app, "stale accepted")) == ("v2", [])
    # What differs and is not queued has to be queued first.
    app.execute("DELETE FROM embed_pipeline.docs__v1 WHERE doc_id = '20'")
    with pytest.raises(CutoverRefused, match="20 is missing.*sync docs --full"):
        cutover.rollback(moved, accept_stale=10)
    verify.reconcile(moved)
    stale = cutover.rollback(moved, accept_stale=10).stale
    assert sorted(stale) == ["1", "2", "20", "3", "4"]
    assert events(app, "stale accepted") == [("v1", "anna", {"count": 5, "documents": list(stale)})]
    assert app.execute("SELECT version, stale_accepted FROM embed_pipeline.serving").fetchall() == [("v1", 5)]
    down.unlink()
    settle(moved)
    with pytest.raises(
        CutoverRefused, match="another rollback would undo that and serve v2 again.*rollback docs --to v2"
    ) as again:
        cutover.rollback(moved)
    with pytest.raises(CutoverRefused, match="goes back to v2, and not to v7") as other:
        cutover.rollback(moved, to="v7")
    assert (again.value.fields, other.value.fields) == (
        {"reason": "rolled_back_already", "target": "v2"},
        {"reason": "another_target", "target": "v2"},
    )
    assert cutover.rollback(moved, to="v2").stale == ()
    assert app.execute("SELECT version, stale_accepted FROM embed_pipeline.serving").fetchall() == [("v2", 0)]


def test_what_is_gone_is_not_taken_along(
    app: psycopg.Connection, moved: OpenIndex, down: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits behind what cannot be embedded; also behind a document that was deleted and came back with another text."""
    monkeypatch.setattr(dual_write, "FIRST", 1)
    moved.batch_sizes.clear()
    down.touch()
    for statement in ("UPDATE articles SET body = 'edited' WHERE id = 1", "DELETE FROM articles WHERE id IN (5, 6, 7)"):
        app.execute(statement)
        distribute(moved)
    app.execute("INSERT INTO articles (id, title, body) VALUES (5, 'back', 'again')")
    assert sorted(cutover.rollback(moved, accept_stale=2).stale) == ["1", "5"]
    assert {"6", "7"} & stored(app, "v1").keys() == set()


def test_the_database_lets_only_a_rollback_pass_and_only_as_many_as_it_was_told(
    app: psycopg.Connection, moved: OpenIndex
) -> None:
    """A move that was made by hand, and right but for what waits; and a number that is written without a move."""
    change(app, 1, "edited")
    distribute(moved)
    mark = dual_write.distributor(moved).take_mark(app)
    coverage = verify.record_coverage(app, moved, "v1", verify.verify(moved, "v1")["v1"])
    move = (
        "WITH a AS (UPDATE embed_pipeline.index_versions SET state = 'standby' WHERE version = 'v2'), "
        "b AS (UPDATE embed_pipeline.index_versions SET state = 'active' WHERE version = 'v1') "
        "UPDATE embed_pipeline.serving_pointer SET version = 'v1', previous_version = version, generation = generation + 1, "
        "move = %(move)s, mark = %(mark)s, coverage_id = %(coverage)s, stale_accepted = %(stale)s"
    )
    for kind, stale in (("rollback", 0), ("cutover", 5)):
        with pytest.raises(psycopg.errors.CheckViolation, match="still pending for v1"):
            app.execute(move, {"move": kind, "mark": mark, "coverage": coverage, "stale": stale})
    with pytest.raises(psycopg.errors.CheckViolation, match="moves only with its route"):
        app.execute("UPDATE embed_pipeline.serving_pointer SET stale_accepted = 5")
    with pytest.raises(CutoverRefused, match="Changes up to the mark"):
        serving.flip(app, serving.Flip("docs", Route("v1"), "rollback", 2, mark, coverage, None, "too few", accept_stale=0))
    assert (serving.read(app, "docs").version, events(app, "stale accepted")) == ("v2", [])


def test_a_provider_that_refuses_for_ever_is_asked_once(app: psycopg.Connection, open_docs: Open, provider: Provider) -> None:
    """401 or 404 is no reason to try again, and none to leave what is gone in the answers."""
    remote = {
        "provider": "openai",
        "model_name": "text-embedding-3-small",
        "dimensions": 16,
        "base_url": provider.base_url("openai"),
    }
    index = open_docs(versions={"v1": remote, "v2": declared()}, partitions=1)
    serve(index, "v1")
    serve(index, "v2")
    for status in (401, 404):
        rule = provider.fail("refuse", status=status)
        app.execute("DELETE FROM articles WHERE id = %s", (status - 391,))
        change(app, 1, f"edited before {status}")
        before = len(provider.arrivals())
        with pytest.raises(CutoverRefused, match=rf"1 documents of v1 .* it cannot embed them: .*status {status}"):
            cutover.rollback(index)
        assert len(provider.arrivals()) - before <= 2
        assert str(status - 391) not in stored(app, "v1")
        provider.lift(rule)


def test_a_forgotten_prepared_transaction_holds_up_no_move(app: psycopg.Connection, moved: OpenIndex, database_url: str) -> None:
    """It has changed documents. `status` names it once it is old; an index that is not registered yet has to wait for it, and says for whom."""
    with prepared(app, database_url, "UPDATE articles SET body = 'prepared' WHERE id < 3", "forgotten"):
        assert cutover.rollback(moved).version == "v1"
        assert gate.run(moved, "v2").outcome == "pass"
        assert cutover.cutover(moved, "v2").version == "v2"
        assert retire.retire(moved, "v1", "v1").version == "v1"
        assert statuses.status(moved).old_transactions == ()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(statuses, "OLD_TRANSACTION_SECONDS", 0.0)
            (told,) = statuses.status(moved).old_transactions
        assert "the prepared transaction 'forgotten'" in told
        assert "ROLLBACK PREPARED 'forgotten'" in told


def test_whoever_has_to_be_waited_for_is_named(
    app: psycopg.Connection, moved: OpenIndex, open_docs: Open, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What locks the documents, the pointer or the vectors: a session with its pid, a prepared transaction with its gid."""
    monkeypatch.setattr(register, "LOCK_TRIES", 1)
    monkeypatch.setattr(register, "LOCK_TIMEOUT_MS", 50)
    monkeypatch.setattr(serving, "LOCK_WAIT_MS", 50)
    monkeypatch.setattr(cutover_checks, "LOCKED_SECONDS", 0.0)
    forms = {
        "TRUNCATE articles": "Nobody can read public.articles",
        "SELECT FROM embed_pipeline.serving_pointer FOR UPDATE": "Somebody holds the rows",
        "SELECT pg_advisory_xact_lock(hashtextextended('embed_pipeline.move.docs', 0))": "Another cutover, rollback or retire",
    }
    named = r".*the prepared transaction 'gone' of role .*, since 2.* \(to end it: COMMIT PREPARED 'gone' or ROLLBACK PREPARED 'gone'\)"
    for statement, refusal in forms.items():
        with prepared(app, database_url, statement, "gone"), pytest.raises(CutoverRefused, match=refusal + named):
            cutover.rollback(moved)
        with psycopg.connect(database_url) as other:
            other.execute(statement)  # type: ignore[arg-type]
            with pytest.raises(CutoverRefused, match=rf"{refusal}.*pid {other.info.backend_pid} .*pg_terminate_backend"):
                cutover.rollback(moved)
            other.rollback()
    writes = "UPDATE articles SET views = 1 WHERE id = 1"
    with (
        prepared(app, database_url, writes, "gone"),
        pytest.raises(DatabaseUnavailable, match="Could not register more: " + named),
    ):
        open_docs("v1", name="more")
    reads = "SELECT count(*) FROM embed_pipeline.docs__v1"
    with prepared(app, database_url, reads, "gone"), pytest.raises(DatabaseUnavailable, match="drop the vectors of v1" + named):
        retire.retire(moved, "v1", "v1")


def test_the_build_of_an_index_says_for_whom_it_waits(
    app: psycopg.Connection, second_app: psycopg.Connection, open_docs: Open
) -> None:
    index = open_docs("v1", partitions=1)
    backfill.fill_partition(index, "v1", "00")
    second_app.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    second_app.execute("SELECT count(*) FROM articles")
    heard: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        built = pool.submit(ann_index.build, index, "v1", lambda phase, share: heard.append(phase))
        deadline = time.monotonic() + 30
        while not any(f"pid {second_app.info.backend_pid}" in phase for phase in heard):
            assert time.monotonic() < deadline, heard
            time.sleep(0.05)
        second_app.rollback()
        assert built.result(timeout=30).valid


def test_vectors_that_somebody_dropped_are_said_everywhere(app: psycopg.Connection, moved: OpenIndex) -> None:
    """The other version goes on; what waits for the one is kept until it is retired."""
    app.execute("DROP TABLE embed_pipeline.docs__v1 CASCADE")
    change(app, 1, "edited")
    told = {each.version: (each.error, each.pending) for each in dual_write.sync(moved)}
    assert told["v2"] == ("", 0)
    assert ("The vectors of docs.v1 are gone" in told["v1"][0], told["v1"][1]) == (True, 1)
    for refused in (lambda: cutover.rollback(moved), lambda: verify.reconcile(moved), lambda: verify.verify(moved, "v1")):
        with pytest.raises(VectorsGone, match="no retire has removed them; it is standby.*retire docs v1, with its --confirm"):
            refused()
    with pytest.raises(VectorsGone):
        ann_index.build(moved, "v1")
    shown = statuses.status(moved)
    assert shown.versions[0].gone.startswith("The vectors of docs.v1 are gone")
    assert shown.next.command == "embed-pipeline backfill docs v1"
    retire.retire(moved, "v1", "v1")
    settle(moved)


def test_a_rollback_beside_others(
    app: psycopg.Connection, moved: OpenIndex, open_docs: Open, down: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that has a document and counts on is named, and not waited for where the document may be stale. The second of two rollbacks is
    told which process is at it. A version that is being filled meanwhile is none of a rollback's business."""
    monkeypatch.setattr(dual_write, "STALL_SECONDS", 0.2)
    change(app, 1, "held")
    distribute(moved)
    with moved.connection() as conn:
        held = claim(moved, "v1")
        with pytest.raises(CutoverRefused, match=r"1 \(1 attempts, claimed by pid \d+ on .*--accept-stale 1"):
            cutover.rollback(moved)
        monkeypatch.setattr(dual_write, "STALL_SECONDS", 60.0)
        monkeypatch.setattr(dual_write, "ACCEPTED_STALL_SECONDS", 0.2)
        assert cutover.rollback(moved, accept_stale=1).stale == ("1",)
        queue.release(conn, held, held.seqs)
    cutover.rollback(moved, to="v2")
    said: list[str] = []

    def second() -> None:
        with pytest.raises(CutoverRefused, match=r"is running: pid \d+ \(embed-pipeline, role \w+, idle") as refused:
            cutover.rollback(moved)
        said.append(str(refused.value))

    at("cutover.covered", second)
    assert cutover.rollback(moved, to="v1").version == "v1"
    assert "pg_terminate_backend" not in said[0]
    index = open_docs(versions={"v1": declared(raise_while=str(down)), "v2": declared(salt="v2"), "v3": declared(salt="v3")})
    at("backfill.embedded", lambda: cutover.rollback(moved, to="v2"))
    fill(index, "v3")
    assert (serving.read(app, "docs").version, versions.get(app, "docs", "v3").state) == ("v2", "ready")
    settle(index)


def test_a_standby_that_was_damaged_is_mended_and_served(app: psycopg.Connection, moved: OpenIndex) -> None:
    """A change that capture missed, rows deleted and changed by hand, the ANN index dropped, the documents renamed: each refusal says what
    to run. A doubt alone holds up no rollback."""
    app.execute("ALTER TABLE articles DISABLE TRIGGER USER")
    change(app, 3, "unseen")
    app.execute("ALTER TABLE articles ENABLE TRIGGER USER")
    app.execute("DELETE FROM embed_pipeline.docs__v1 WHERE doc_id = '7'")
    app.execute("UPDATE embed_pipeline.docs__v1 SET source_hash = sha256('other') WHERE doc_id = '8'")
    with pytest.raises(CutoverRefused, match="1 missing, 2 stale.*sync docs --full"):
        cutover.rollback(moved)
    verify.reconcile(moved)
    app.execute("DROP INDEX embed_pipeline.docs__v1__hnsw")
    with pytest.raises(CutoverRefused, match="ANN index of docs.v1 is missing.*backfill docs v1"):
        cutover.rollback(moved)
    ann_index.build(moved, "v1")
    app.execute("ALTER TABLE articles RENAME TO posts")
    with pytest.raises(CutoverRefused, match="public.articles is not the table any more"):
        cutover.rollback(moved)
    app.execute("ALTER TABLE posts RENAME TO articles")
    assert cutover.rollback(moved).version == "v1"
    settle(moved)
