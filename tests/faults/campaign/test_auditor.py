"""The auditor is checked first, like the oracle: an index is broken by hand, one way after another, and each must be reported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.faults.campaign.auditor import Auditor, audit, report
from tests.faults.campaign.locks import GRACE_SECONDS, LONGEST_SECONDS, Held
from tests.faults.campaign.scenario import Campaign
from tests.faults.campaign.test_oracle import QUIET, ROOM, SECOND, TABLE
from tests.harness.postgres.standby import eventually

BROKEN = {
    "an edit that nobody saw": (QUIET + "UPDATE articles SET body = 'new' WHERE id = 1", "1 is stale, and nothing is announced"),
    "a delete that nobody saw": (QUIET + "DELETE FROM articles WHERE id = 1", "1 is an orphan, and nothing is announced"),
    "an insert that nobody saw": (
        QUIET + "INSERT INTO articles (id, title) VALUES (99, 'x')",
        "99 is missing from a partition that is filled",
    ),
    "a blank text that keeps its vector": (
        QUIET + "UPDATE articles SET title = '', body = '' WHERE id = 1",
        "1 can have no vector and has one",
    ),
    "a blank text without a dead letter": (
        QUIET + "INSERT INTO articles (id, title) VALUES (99, '')",
        "99 can have no vector and has no dead letter",
    ),
    "a dead letter of an old text": (
        "INSERT INTO embed_pipeline.dead_letters (index_name, version, doc_id, source_hash, reason) "
        "VALUES ('docs', 'v1', '1', sha256('x'), 'old')",
        "1 has a dead letter that is stale",
    ),
    "a dead letter beside vectors": (
        "INSERT INTO embed_pipeline.dead_letters (index_name, version, doc_id, source_hash, reason) "
        f"SELECT 'docs', 'v1', doc_id, source_hash, 'down' FROM {TABLE} WHERE doc_id = '1'",
        "1 has a dead letter beside its vectors",
    ),
    "a vector is gone": (
        f"DELETE FROM {TABLE} WHERE doc_id = '1'",
        "1 is missing from a partition that is filled, and nothing is announced",
    ),
    "one of two vectors is gone": (ROOM + f"UPDATE {TABLE} SET chunks = 2 WHERE doc_id = '1'", "1 is half there"),
    "vectors of two texts": (ROOM + SECOND.format("2, sha256('x')"), "1 is half there"),
    "another document's vector": (
        f"UPDATE {TABLE} SET embedding = (SELECT embedding FROM {TABLE} WHERE doc_id = '2') WHERE doc_id = '1'",
        "1 has a vector 0 that is not of the text it is labelled with",
    ),
    "a label of no text": (
        f"UPDATE {TABLE} SET source_hash = sha256('never') WHERE doc_id = '1'",
        "1 is labelled with the hash of no text that was ever there",
    ),
    "a delete that is announced as a change": (
        QUIET + "DELETE FROM articles WHERE id = 1;"
        "INSERT INTO embed_pipeline.pending VALUES ('docs', 'v1', '1', 7, 7, now(), false)",
        "1 is gone, and nothing that is announced hides it",
    ),
    "a TRUNCATE that is announced, an edit that is not": (
        QUIET + "UPDATE articles SET body = 'new' WHERE id = 1;"
        "INSERT INTO embed_pipeline.inbox (index_name, doc_ids, removed) VALUES ('docs', NULL, true)",
        "1 is stale, and nothing is announced",
    ),
    "an orphan that a backfill left in a partition that is filled": (
        QUIET + f"UPDATE {TABLE} SET partition = 0, epoch = 1 WHERE doc_id = '1'; DELETE FROM articles WHERE id = 1",
        "1 is an orphan, and nothing is announced",
    ),
    "a claim of nobody": (
        "INSERT INTO embed_pipeline.pending VALUES ('docs', 'v1', '1', 7, 7, now(), false, gen_random_uuid())",
        "1 is claimed, and nobody counts for the claim",
    ),
    "a doubt without a reason": (
        "INSERT INTO embed_pipeline.doubts (index_name, kind, reason) VALUES ('docs', 'shape', 'x')",
        "a doubt is open, and nothing was missed",
    ),
    "a partition that is not filled": (
        "UPDATE embed_pipeline.partitions SET completed_at = NULL WHERE partition_key = '02'",
        "is active, and not all of its partitions are filled",
    ),
    "a version without its partitions": ("DELETE FROM embed_pipeline.partitions", "is registered without its partitions"),
    "no ANN index": ("DROP INDEX embed_pipeline.docs__v1__hnsw", "is active, and has no valid ANN index"),
    "a generation too many": (
        "SET session_replication_role = replica; UPDATE embed_pipeline.serving_pointer SET generation = generation + 1",
        "the pointer says ('v1', None, 2)",
    ),
}
# What is written after a first look at a right index.
BY_NOBODY = "partition = NULL, epoch = NULL, embedded_at = clock_timestamp()"
WRITTEN = {
    "an old text over a newer one of a backfill's, with nothing announced": (
        f"UPDATE {TABLE} SET source_hash = sha256('x'), {BY_NOBODY} WHERE doc_id = '1'",
        "1 went back to a text that was over when its writer began",
    ),
    "a label in place": (
        f"UPDATE {TABLE} SET source_hash = sha256('x') WHERE doc_id = '1'",
        "1 got another label without being written anew",
    ),
    "an insert under an old epoch": (
        f"UPDATE {TABLE} SET epoch = 0, embedded_at = clock_timestamp() WHERE doc_id = '1'",
        "1 was inserted under an epoch of its partition that was over",
    ),
}
ANNOUNCED = "INSERT INTO embed_pipeline.pending VALUES ('docs', 'v1', '1', 7, 7, now(), true)"
# What is written then, by whom, with what announced before, and whether that is wrong.
BACK: dict[str, tuple[str, str, bool]] = {
    "over a dual-write's, announced": (f"UPDATE {TABLE} SET {BY_NOBODY}", ANNOUNCED, True),
    "over a dual-write's from before the document came to this text, announced": (
        f"UPDATE {TABLE} SET partition = NULL, epoch = NULL",
        ANNOUNCED,
        False,
    ),
    "over a backfill's, announced": ("", ANNOUNCED, False),
}


@pytest.fixture
def run(campaign: Callable[..., Campaign]) -> Campaign:
    return campaign(keys=4, audited=False)


def test_the_auditor_reports_every_kind_of_damage(run: Campaign) -> None:
    with run.connect() as conn:
        assert Auditor(run.place).look(conn) == []
        for name, (damage, expected) in BROKEN.items():
            with conn.transaction(force_rollback=True):
                conn.execute(damage)  # type: ignore[arg-type]
                found = Auditor(run.place).judge(conn)
                assert any(expected in each for each in found), (name, found)
        assert Auditor(run.place).look(conn) == []


def test_the_auditor_reports_writes_that_go_back(run: Campaign) -> None:
    with run.connect() as conn:
        for name, (damage, expected) in WRITTEN.items():
            auditor = Auditor(run.place)
            assert auditor.look(conn) == []
            with conn.transaction(force_rollback=True):
                conn.execute(damage)  # type: ignore[arg-type]
                found = auditor.judge(conn)
                assert any(expected in each for each in found), (name, found)


def test_what_is_announced_may_go_back_where_a_backfill_wrote(run: Campaign) -> None:
    """A worker that has claimed a document may hold an older text than a backfill has read, but never than another worker."""
    with run.connect() as conn:
        for name, (before, announced, wrong) in BACK.items():
            auditor = Auditor(run.place)
            with conn.transaction(force_rollback=True):
                auditor.judge(conn)
                for statement in (before, announced):
                    if statement:
                        conn.execute(statement)  # type: ignore[arg-type]
                assert auditor.judge(conn) == [], name
                conn.execute(f"UPDATE {TABLE} SET source_hash = sha256('x'), {BY_NOBODY} WHERE doc_id = '1'")  # type: ignore[arg-type]
                assert any("1 went back" in each for each in auditor.judge(conn)) == wrong, name


@pytest.mark.parametrize("announced", [False, True])
def test_the_auditor_reports_a_document_that_is_resurrected(run: Campaign, announced: bool) -> None:
    """Also when it is announced afterwards: when it was not, nobody had a claim."""
    with run.connect() as conn:
        auditor = Auditor(run.place)
        row = conn.execute(f"SELECT doc_id, source_hash, embedding FROM {TABLE} WHERE doc_id = '1'").fetchone()  # type: ignore[arg-type]
        assert auditor.look(conn) == []
        conn.execute("DELETE FROM articles WHERE id = 1")
        assert auditor.look(conn) == []
        conn.execute(f"DELETE FROM {TABLE} WHERE doc_id = '1'; DELETE FROM embed_pipeline.inbox")  # type: ignore[arg-type]
        assert auditor.look(conn) == []
        if announced:
            conn.execute(ANNOUNCED)  # type: ignore[arg-type]
        conn.execute(f"INSERT INTO {TABLE} (doc_id, chunk, chunks, source_hash, embedding) VALUES (%s, 0, 1, %s, %s)", row)  # type: ignore[arg-type]
        assert any("1 was gone when a writer of it began" in each for each in auditor.look(conn))


EXPLAINED = {
    "by the inbox": "UPDATE articles SET body = 'new' WHERE id = 1; INSERT INTO articles (id, title) VALUES (99, 'x');"
    "DELETE FROM articles WHERE id = 2",
    "by what is pending": QUIET + "UPDATE articles SET body = 'new' WHERE id = 1;" + ANNOUNCED,
    "by a TRUNCATE": "TRUNCATE articles",
    # What a backfill has inserted is compared before its partition counts as filled.
    "by a comparison that is still to come": QUIET
    + "INSERT INTO embed_pipeline.index_versions (index_name, version, fingerprint, model_name, model_version, dimensions, precision, distance, "
    "partitions, spec, settings) SELECT index_name, 'v2', repeat('2', 64), 'm', 'm', dimensions, precision, distance, 1, spec, settings "
    "FROM embed_pipeline.index_versions;"
    "INSERT INTO embed_pipeline.audit_events (index_name, version, event, to_state) VALUES ('docs', 'v2', 'register', 'building');"
    "INSERT INTO embed_pipeline.partitions VALUES ('docs', 'v2', '00', NULL, NULL, false, 1, false);"
    f"CREATE TABLE embed_pipeline.docs__v2 (LIKE {TABLE} INCLUDING ALL);"
    f"INSERT INTO embed_pipeline.docs__v2 SELECT * FROM {TABLE} WHERE doc_id = '1';"
    "UPDATE embed_pipeline.docs__v2 SET doc_id = '98', partition = 0, epoch = 1;",
}


def test_a_doubt_announces_what_capture_has_missed(run: Campaign) -> None:
    with run.connect() as conn, conn.transaction(force_rollback=True):
        conn.execute(QUIET + "UPDATE articles SET body = 'new' WHERE id = 1; DELETE FROM articles WHERE id = 2")  # type: ignore[arg-type]
        assert len(Auditor(run.place, doubts=True).judge(conn)) == 3
        conn.execute("INSERT INTO embed_pipeline.doubts (index_name, kind, reason) VALUES ('docs', 'shape', 'x')")
        assert Auditor(run.place, doubts=True).judge(conn) == []


def test_what_is_announced_is_no_defect(run: Campaign) -> None:
    with run.connect() as conn:
        for name, changes in EXPLAINED.items():
            with conn.transaction(force_rollback=True):
                conn.execute(changes)  # type: ignore[arg-type]
                assert Auditor(run.place).judge(conn) == [], name


LOCKED = {
    "FOR KEY SHARE": ("SELECT FROM articles WHERE id = 1 FOR KEY SHARE", "has RowShareLock on the documents"),
    "a lock on the whole table": ("LOCK TABLE articles IN SHARE MODE", "has ShareLock on the documents"),
    "DELETE": ("DELETE FROM articles WHERE id = 1", "has RowExclusiveLock on the documents"),
    "a read that nobody ends": (
        f"SELECT count(*), pg_sleep({2 * LONGEST_SECONDS}) FROM articles",
        "holds AccessShareLock on the documents for longer than a statement of 25 ms (idle in transaction)",
    ),
}


@pytest.mark.parametrize("name", LOCKED)
def test_the_auditor_reports_a_lock_on_the_documents(run: Campaign, name: str) -> None:
    statement, expected = LOCKED[name]
    with run.connect() as conn, psycopg.connect(run.url, application_name="campaign-0001") as ours:
        held = Held(run.url, run.place, 30.0)
        assert held.look(conn) == []
        ours.execute(statement)  # type: ignore[arg-type]
        assert any(expected in each for each in held.look(conn)), held.look(conn)


def test_the_auditor_reports_who_waits_with_a_lock_in_hand(run: Campaign) -> None:
    """However short the wait: the application's TRUNCATE has to wait as long."""
    with (
        run.connect() as conn,
        psycopg.connect(run.url) as other,
        psycopg.connect(run.url, application_name="campaign-0001") as ours,
    ):
        other.execute("SELECT pg_advisory_lock(1)")
        waiting = threading.Thread(target=ours.execute, args=("SELECT pg_advisory_lock(1) FROM articles LIMIT 1",))
        waiting.start()
        held = Held(run.url, run.place, 30.0)
        sentence = "a session of ours waits for a lock while it holds AccessShareLock on the documents"
        eventually(lambda: any(sentence in each for each in held.look(conn)), "somebody who waits with a lock in hand")
        other.execute("SELECT pg_advisory_unlock(1)")
        waiting.join()


def test_the_auditor_reports_what_a_frozen_process_holds(run: Campaign) -> None:
    """For as long as the server lets a frozen one be, it is excused."""
    frozen = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        os.kill(frozen.pid, signal.SIGSTOP)
        (run.place / "0001-sync-v1.begun").write_text(str(frozen.pid))
        with run.connect() as conn, psycopg.connect(run.url, application_name="campaign-0001") as ours:
            ours.execute(f"SELECT count(*), pg_sleep({2 * LONGEST_SECONDS}) FROM articles")  # type: ignore[arg-type]
            stat = Path(f"/proc/{frozen.pid}/stat")
            eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "the stop of a process")
            assert Held(run.url, run.place, 30.0).look(conn) == []
            (found,) = Held(run.url, run.place, -GRACE_SECONDS).look(conn)
            assert "a frozen process of ours holds AccessShareLock on the documents for longer than it may" in found
    finally:
        frozen.kill()
        frozen.wait()


def test_the_process_writes_down_what_it_saw(run: Campaign, tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    stop.touch()
    audit(run.url, run.place, 30.0, False, stop, run.place / "auditor-1.json")
    assert report(run.place) == (0, [])
    (run.place / "auditor-2.json").write_text('{"looks": 3, "found": {"v1: 1 is stale": 2}}')
    assert report(run.place) == (3, ["seen during the load: v1: 1 is stale (2 times)"])
