"""Cutover and gate: wholly or not at all, whatever comes in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from embed_pipeline import signals
from embed_pipeline.catalog import serving, versions
from embed_pipeline.catalog.route import Route
from embed_pipeline.errors import CutoverRefused, IllegalTransition, Stopped
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import ann_index, backfill, cutover, dual_write, gate, verify
from tests.harness.articles import (
    at,
    fill,
    serve,
    settle,
    stored,
    text_hash,
)
from tests.races.hands import claim, distribute

Open = Callable[..., OpenIndex]


def pointer(app: psycopg.Connection) -> tuple[str | None, int]:
    now = serving.read(app, "docs")
    return now.version, now.generation


def test_cutover_with_pending_changes(app: psycopg.Connection, judged: OpenIndex) -> None:
    """What was committed before the mark is carried to the new version before it serves."""
    app.execute("UPDATE articles SET body = 'pending' WHERE id = 41")
    cutover.cutover(judged, "v2")
    assert stored(app, "v2")["41"] == text_hash("title 41\n\npending")
    settle(judged)


def test_change_that_arrives_after_the_drain_fails_back(app: psycopg.Connection, judged: OpenIndex) -> None:
    """The final transaction looks again: a pending change below the mark leaves the pointer where it was, and it is tried again."""
    tries: list[int] = []

    def late() -> None:
        tries.append(1)
        if len(tries) == 1:
            app.execute(
                "INSERT INTO embed_pipeline.pending (index_name, version, doc_id, seq, since_seq, since, removed) "
                "VALUES ('docs', 'v2', '1', 0, 0, now(), false)"
            )

    signals.listen("cutover.covered", late)
    cutover.cutover(judged, "v2")
    assert len(tries) == 2
    assert pointer(app) == ("v2", 2)


def test_open_transaction_holds_up_no_cutover(app: psycopg.Connection, second_app: psycopg.Connection, judged: OpenIndex) -> None:
    """It has changed a document and not committed: its change is numbered when it can be seen, so after every mark of today."""
    second_app.execute("UPDATE articles SET body = 'open' WHERE id = 1")
    assert cutover.cutover(judged, "v2").version == "v2"
    second_app.commit()
    settle(judged)
    assert stored(app, "v2")["1"] == text_hash("title 1\n\nopen")


def test_doubt_refuses_the_cutover_and_names_the_way_out(app: psycopg.Connection, judged: OpenIndex) -> None:
    """Changes may have been missed: what a full comparison has not looked at may not serve. A rollback says it, and is not held up."""
    cutover.cutover(judged, "v2")
    app.execute("ALTER TABLE articles DISABLE TRIGGER USER; ALTER TABLE articles ENABLE TRIGGER USER")
    moved = cutover.rollback(judged)
    assert [doubt.partition(":")[2].strip() for doubt in moved.doubts] == ["triggers"]
    with pytest.raises(CutoverRefused, match="may have been missed") as refused:
        cutover.cutover(judged, "v2", again=True)
    assert "sync docs --full" in str(refused.value)
    with pytest.raises(IllegalTransition, match="may have been missed"):
        gate.run(judged, "v2")
    verify.reconcile(judged)
    assert cutover.cutover(judged, "v2", again=True).version == "v2"


def test_changes_after_the_mark_are_no_differences(app: psycopg.Connection, judged: OpenIndex) -> None:
    """An application that writes on: what it has changed and deleted since the mark is in the inbox when coverage is looked at."""

    def goes_on() -> None:
        app.execute("UPDATE articles SET body = 'after the mark' WHERE id = 41")
        app.execute("DELETE FROM articles WHERE id = 42")
        app.execute("INSERT INTO articles (id, title, body) VALUES (100, 'after', 'the mark')")

    at("cutover.drained", goes_on)
    assert cutover.cutover(judged, "v2").version == "v2"
    settle(judged)


def test_table_that_becomes_another_one_while_coverage_is_looked_at(app: psycopg.Connection, judged: OpenIndex) -> None:
    """Columns are swapped after the doubts were looked at: rows that are older than the last comparison have new texts."""
    verify.reconcile(judged)
    with judged.connection() as conn:
        verify.compare_all(conn, judged, judged.version(conn, "v2"), whole=True)
    at("compare.slice", lambda: swap_columns(app))
    with pytest.raises(CutoverRefused, match="stale"):
        cutover.cutover(judged, "v2")
    assert pointer(app) == ("v1", 1)


def swap_columns(app: psycopg.Connection) -> None:
    with app.transaction():
        app.execute(
            "ALTER TABLE articles RENAME COLUMN title TO other; ALTER TABLE articles RENAME COLUMN body TO title;"
            "ALTER TABLE articles RENAME COLUMN other TO body"
        )


def test_drain_ends_by_progress_and_names_who_holds_it_up(
    app: psycopg.Connection, judged: OpenIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker has one of the documents and counts on: nothing is done for the time that a drain waits, and the refusal says who."""
    monkeypatch.setattr(dual_write, "STALL_SECONDS", 0.3)
    app.execute("UPDATE articles SET body = 'held' WHERE id = 41")
    distribute(judged)
    claim(judged, "v2")
    with pytest.raises(CutoverRefused, match=r"1 documents of v2 .*: 41 \(1 attempts, claimed by pid \d+ on "):
        cutover.cutover(judged, "v2")
    assert pointer(app) == ("v1", 1)


def test_cutover_answer_lost_after_commit(app: psycopg.Connection, judged: OpenIndex) -> None:
    """The connection breaks between commit and its answer: the generation knows that it happened."""

    def lose() -> None:
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    signals.listen("cutover.flipped", lose)
    assert cutover.cutover(judged, "v2").version == "v2"
    assert pointer(app) == ("v2", 2)


@pytest.mark.parametrize("moment", ["cutover.covered", "cutover.half_moved"])
def test_cutover_connection_lost_before_commit(app: psycopg.Connection, judged: OpenIndex, moment: str) -> None:
    """Before the last transaction, and in the middle of it: the states, the pointer and the audit are those before."""

    def kill() -> None:
        app.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'embed-pipeline'"
        )

    signals.listen(moment, kill)
    with pytest.raises(CutoverRefused, match="nothing was moved"):
        cutover.cutover(judged, "v2")
    assert pointer(app) == ("v1", 1)
    assert [version.state for version in versions.list_versions(app, "docs")] == ["active", "ready"]
    signals.forget_all()
    cutover.cutover(judged, "v2")
    assert pointer(app) == ("v2", 2)


def test_two_cutovers(app: psycopg.Connection, judged: OpenIndex) -> None:
    refused: list[str] = []

    def second() -> None:
        signals.forget_all()
        try:
            cutover.cutover(judged, "v2")
        except CutoverRefused as problem:
            refused.append(str(problem))

    signals.listen("cutover.marked", second)
    cutover.cutover(judged, "v2")
    assert "Another cutover, rollback or retire of docs is running" in refused[0]
    assert pointer(app) == ("v2", 2)


def test_pointer_moved_by_another_is_seen(app: psycopg.Connection, judged: OpenIndex) -> None:
    """Without the lock (its connection died silently) the compare-and-set still lets only one through."""
    wanted = serving.Flip("docs", Route("v2"), "cutover", generation=0, mark=1, coverage_id=1, evidence_id=1, reason="")
    with pytest.raises(CutoverRefused, match="Somebody else moved"):
        serving.flip(app, wanted)


def test_no_cutover_without_evidence(app: psycopg.Connection, open_filled: Open) -> None:
    index = open_filled()
    with pytest.raises(CutoverRefused, match="no evidence that v1 may serve"):
        cutover.cutover(index, "v1")
    assert pointer(app) == (None, 0)


@pytest.mark.parametrize(
    ("statement", "refusal"),
    [
        ("UPDATE embed_pipeline.serving_pointer SET version = 'v2'", "moved by hand"),
        (
            "UPDATE embed_pipeline.serving_pointer SET version = 'v2', previous_version = 'v1', generation = 2, mark = 0, move = 'cutover'",
            "no recent complete coverage",
        ),
        ("UPDATE embed_pipeline.index_versions SET state = 'active' WHERE version = 'v2'", "one_active_version"),
        ("UPDATE embed_pipeline.index_versions SET state = 'standby' WHERE version = 'v1'", "differ"),
        ("UPDATE embed_pipeline.index_versions SET state = 'building' WHERE version = 'v1'", "cannot go from active to building"),
        ("UPDATE embed_pipeline.index_versions SET fingerprint = repeat('a', 64)", "immutable"),
        ("DELETE FROM embed_pipeline.audit_events", "append-only"),
        ("UPDATE embed_pipeline.gate_evidence SET outcome = 'pass'", "append-only"),
    ],
)
def test_sql_at_a_prompt_cannot_skip_the_gate(app: psycopg.Connection, open_docs: Open, statement: str, refusal: str) -> None:
    serve(open_docs("v1"), "v1")
    fill(open_docs("v1", "v2"), "v2")
    with pytest.raises(psycopg.errors.IntegrityError, match=refusal):
        app.execute(statement)
    assert pointer(app) == ("v1", 1)


def test_hand_made_flip_without_passing_evidence_is_refused(app: psycopg.Connection, open_served: Open) -> None:
    """Everything else is right: state, coverage, mark, generation. Only the evidence is missing."""
    index = open_served("v1", "v2")
    fill(index, "v2")
    coverage_id = verify.record_coverage(app, index, "v2", verify.verify(index, "v2")["v2"])
    wanted = serving.Flip("docs", Route("v2"), "cutover", 1, mark=0, coverage_id=coverage_id, evidence_id=None, reason="by hand")
    with pytest.raises(psycopg.errors.CheckViolation, match="no fresh, passing evidence for v2 against v1"):
        serving.flip(app, wanted)
    assert pointer(app) == ("v1", 1)


def test_verdict_goes_stale_when_rows_move(app: psycopg.Connection, judged: OpenIndex) -> None:
    app.execute("INSERT INTO articles (id, title, body) SELECT n, 'more ' || n, '' FROM generate_series(1000, 1020) AS n")
    with pytest.raises(CutoverRefused, match=r"stale: it judged 60 documents, and there are 81 now"):
        cutover.cutover(judged, "v2")


def test_verdict_goes_stale_when_the_held_out_set_changes(
    app: psycopg.Connection,
    judged: OpenIndex,
    holdout: Path,
) -> None:
    holdout.write_text(holdout.read_text() + '\n{"query_id": "x", "query": "another", "doc_id": "5"}')
    with pytest.raises(CutoverRefused, match="the held-out set has changed"):
        cutover.cutover(judged, "v2")


def test_verdict_goes_stale_when_the_index_is_built_anew(app: psycopg.Connection, judged: OpenIndex) -> None:
    app.execute("DROP INDEX embed_pipeline.docs__v2__hnsw")
    with pytest.raises(CutoverRefused, match="ANN index of docs.v2 is missing"):
        cutover.cutover(judged, "v2")
    ann_index.build(judged, "v2")
    with pytest.raises(CutoverRefused, match="built anew, or is searched otherwise"):
        cutover.cutover(judged, "v2")


def test_verdict_goes_stale_when_less_of_the_index_is_searched(app: psycopg.Connection, judged: OpenIndex) -> None:
    """hnsw.ef_search may be declared anew at any time, on another machine too, and searches go by it at once."""

    def search_with(ef_search: int) -> None:
        app.execute(
            "UPDATE embed_pipeline.index_versions SET settings = jsonb_set(settings, '{hnsw,ef_search}', to_jsonb(%s)) WHERE version = 'v2'",
            (ef_search,),
        )

    search_with(20)
    with pytest.raises(CutoverRefused, match=r"stale: it was searched with hnsw.ef_search 100, and is with 20 now"):
        cutover.cutover(judged, "v2")
    search_with(200)
    assert cutover.cutover(judged, "v2").version == "v2"


def test_broken_ann_index_is_repaired(app: psycopg.Connection, judged: OpenIndex) -> None:
    """A killed CREATE INDEX CONCURRENTLY leaves an invalid index that no search uses."""
    app.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'embed_pipeline.docs__v2__hnsw'::regclass")
    with pytest.raises(CutoverRefused, match="invalid"):
        cutover.cutover(judged, "v2")
    assert ann_index.build(judged, "v2").valid


def test_cutover_refuses_incomplete_coverage(app: psycopg.Connection, judged: OpenIndex) -> None:
    """Coverage reads the vectors, not a flag: every partition says complete."""
    app.execute("DELETE FROM embed_pipeline.docs__v2 WHERE doc_id = '17'")
    with pytest.raises(CutoverRefused, match="17 is"):
        cutover.cutover(judged, "v2")
    assert pointer(app) == ("v1", 1)


def test_too_many_dead_letters_refuse_the_cutover_by_name(app: psycopg.Connection, judged: OpenIndex) -> None:
    app.execute("UPDATE articles SET title = NULL, body = NULL WHERE id = 44")
    dual_write.sync(judged)
    with pytest.raises(CutoverRefused, match=r"44 \(empty text\)"):
        cutover.cutover(judged, "v2")


def test_dead_letter_made_by_the_drain_counts(app: psycopg.Connection, judged: OpenIndex) -> None:
    """The edit that makes a text blank waits in the queue when the cutover begins, and is set aside by its own drain."""
    app.execute("UPDATE articles SET title = NULL, body = NULL WHERE id = 44")
    with pytest.raises(CutoverRefused, match=r"44 \(empty text\)"):
        cutover.cutover(judged, "v2")
    assert pointer(app) == ("v1", 1)


def test_ann_index_waits_for_all_partitions(open_docs: Open) -> None:
    index = open_docs("v1", partitions=4)
    backfill.fill_partition(index, "v1", "00")
    with pytest.raises(IllegalTransition, match="3 of 4 partitions"):
        ann_index.build(index, "v1")
    with pytest.raises(IllegalTransition, match="nothing complete to judge"):
        gate.run(index, "v1")


def test_two_builds_of_one_ann_index(app: psycopg.Connection, second_app: psycopg.Connection, open_docs: Open) -> None:
    """The first build waits for an old transaction; a second one beside it is refused at once, in words."""
    index = open_docs("v1")
    for key in index.spec.partition_keys():
        backfill.fill_partition(index, "v1", key)
    second_app.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    second_app.execute("SELECT count(*) FROM articles")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ann_index.build, index, "v1")
        deadline = time.monotonic() + 30
        while not app.execute("SELECT FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%'").fetchall():
            assert time.monotonic() < deadline
        second = pool.submit(ann_index.build, index, "v1")
        try:
            with pytest.raises(Stopped, match="being built by another run"):
                second.result(timeout=10)
        finally:
            second_app.rollback()
        assert first.result(timeout=30).valid


def test_gate_fails_a_worse_version_and_leaves_serving_alone(app: psycopg.Connection, open_docs: Open) -> None:
    good = {"provider": "tests.harness.fakes:HashEmbedder", "dimensions": 16, "model_name": "m", "options": {"salt": "a"}}
    # The classic wiring fault: documents were embedded with a prefix that queries do not have a counterpart for.
    bad = good | {"document_prefix": "passage: "}
    serve(open_docs(versions={"v1": good}), "v1")
    index = open_docs(versions={"v1": good, "v2": bad})
    fill(index, "v2")
    result = gate.run(index, "v2")
    assert result.outcome == "fail"
    with pytest.raises(CutoverRefused, match="did not pass v2"):
        cutover.cutover(index, "v2")
    assert pointer(app) == ("v1", 1)
