"""The auditor is checked first, like the oracle: an index is broken by hand, one way after another, and each must be reported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.faults.campaign.auditor import GRACE_SECONDS, Auditor, audit, report
from tests.faults.campaign.scenario import Campaign
from tests.faults.campaign.test_oracle import DOCUMENTS, QUIET, VECTORS

BROKEN = {
    "an edit that nobody saw": (QUIET + "UPDATE articles SET body = 'new' WHERE id = 1", "1 is stale, and nothing is queued"),
    "a delete that nobody saw": (QUIET + "DELETE FROM articles WHERE id = 1", "1 is an orphan, and nothing is queued"),
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
        f"SELECT 'docs', 'v1', doc_id, source_hash, 'down' FROM {DOCUMENTS} WHERE doc_id = '1'",
        "1 has a dead letter beside its vectors",
    ),
    "a vector is gone": (f"DELETE FROM {VECTORS} WHERE doc_id = '1'", "1 is half there"),
    "a row is gone, its vector stays": (f"DELETE FROM {DOCUMENTS} WHERE doc_id = '1'", "1 is half there"),
    "another document's vector": (
        f"UPDATE {VECTORS} SET embedding = (SELECT embedding FROM {VECTORS} WHERE doc_id = '2') WHERE doc_id = '1'",
        "1 has a vector 0 that is not of the text it is labelled with",
    ),
    "a label of no text": (
        "UPDATE articles SET body = body WHERE id = 1;"
        f"UPDATE {DOCUMENTS} SET source_hash = sha256('never') WHERE doc_id = '1'; UPDATE {VECTORS} SET chunk = 0 WHERE doc_id = '1'",
        "1 is labelled with the hash of no text that was ever there",
    ),
    "a partition that is not filled": (
        "UPDATE embed_pipeline.partitions SET completed_at = NULL WHERE partition_key = '02'",
        "is active, and not all of its partitions are filled",
    ),
    "a version without its partitions": ("DELETE FROM embed_pipeline.partitions", "is registered without its partitions"),
    "no ANN index": ("DROP INDEX embed_pipeline.docs__v1__hnsw", "is active, and has no valid ANN index"),
    "a generation too many": (
        "SET session_replication_role = replica; UPDATE embed_pipeline.serving_pointer SET generation = generation + 1",
        "the pointer says ('v1', 2)",
    ),
}
# What is written after a first look at a right index.
WRITTEN = {
    "an old text, by a write that began later": (
        f"UPDATE {DOCUMENTS} SET source_hash = sha256('x'), embedded_at = clock_timestamp() WHERE doc_id = '1'",
        "1 was written with a text that was over when the write began",
    ),
    "a label in place": (
        f"UPDATE {DOCUMENTS} SET source_hash = sha256('x') WHERE doc_id = '1'",
        "1 got another label without being written anew",
    ),
}


@pytest.fixture
def run(campaign: Callable[..., Campaign]) -> Campaign:
    return campaign(keys=4, audited=False)


def test_the_auditor_reports_every_kind_of_damage(run: Campaign) -> None:
    with run.connect() as conn:
        assert Auditor(run.place, 30.0).look(conn) == []
        for name, (damage, expected) in BROKEN.items():
            with conn.transaction(force_rollback=True):
                conn.execute(damage)  # type: ignore[arg-type]
                found = Auditor(run.place, 30.0).judge(conn)
                assert any(expected in each for each in found), (name, found)
        assert Auditor(run.place, 30.0).look(conn) == []


def test_the_auditor_reports_writes_that_go_back(run: Campaign) -> None:
    with run.connect() as conn:
        for name, (damage, expected) in WRITTEN.items():
            auditor = Auditor(run.place, 30.0)
            assert auditor.look(conn) == []
            with conn.transaction(force_rollback=True):
                conn.execute(damage)  # type: ignore[arg-type]
                found = auditor.judge(conn)
                assert any(expected in each for each in found), (name, found)


def test_the_auditor_reports_a_document_that_is_resurrected(run: Campaign) -> None:
    with run.connect() as conn:
        auditor = Auditor(run.place, 30.0)
        row = conn.execute(f"SELECT doc_id, source_hash, chunks FROM {DOCUMENTS} WHERE doc_id = '1'").fetchone()
        assert auditor.look(conn) == []
        conn.execute("DELETE FROM articles WHERE id = 1")
        assert auditor.look(conn) == []
        conn.execute(f"INSERT INTO {DOCUMENTS} (doc_id, source_hash, chunks) VALUES (%s, %s, %s)", row)  # type: ignore[arg-type]
        assert any("1 was gone when a write of it began" in each for each in auditor.look(conn))


def test_what_the_queue_explains_is_no_defect(run: Campaign) -> None:
    with run.connect() as conn:
        conn.execute("UPDATE articles SET body = 'new' WHERE id = 1; INSERT INTO articles (id, title) VALUES (99, 'x')")
        assert Auditor(run.place, 30.0).look(conn) == []


def test_the_auditor_reports_a_lock_that_nobody_gives_back(run: Campaign) -> None:
    with run.connect() as conn, psycopg.connect(run.url, application_name="campaign-0001") as frozen:
        auditor = Auditor(run.place, -GRACE_SECONDS)
        assert auditor.look(conn) == []
        frozen.execute("SELECT FROM articles WHERE id = 1 FOR KEY SHARE")
        assert any("campaign-0001 is idle in transaction" in each for each in auditor.look(conn))


def test_the_process_writes_down_what_it_saw(run: Campaign, tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    stop.touch()
    audit(run.url, run.place, 30.0, stop, run.place / "auditor-1.json")
    assert report(run.place) == (0, [])
    (run.place / "auditor-2.json").write_text('{"looks": 3, "found": {"v1: 1 is stale": 2}}')
    assert report(run.place) == (3, ["seen during the load: v1: 1 is stale (2 times)"])
