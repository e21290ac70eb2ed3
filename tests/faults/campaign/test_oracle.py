"""An oracle that finds nothing proves nothing: an index is broken by hand, one way after another, and each must be reported."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.faults.campaign import gone, models, oracle
from tests.faults.campaign.paid import Kill, Paid
from tests.faults.campaign.readers import REFRESH_SECONDS
from tests.faults.campaign.records import Log, read
from tests.faults.campaign.scenario import Campaign

TABLE = "embed_pipeline.docs__v1"
QUIET = "ALTER TABLE articles DISABLE TRIGGER USER; "
UNCHECKED = "SET session_replication_role = replica; "
# A version that does not split its texts has no room for a second vector of a document.
ROOM = f"ALTER TABLE {TABLE} DROP CONSTRAINT docs__v1_chunk_check; ALTER TABLE {TABLE} DROP CONSTRAINT docs__v1_check; "
SECOND = f"INSERT INTO {TABLE} (doc_id, chunk, chunks, source_hash, embedding) SELECT doc_id, 1, {{}}, embedding FROM {TABLE} WHERE doc_id = '1'"

BROKEN = {
    "a vector is gone": (f"DELETE FROM {TABLE} WHERE doc_id = '1'", "1 is missing"),
    "the first passage is gone, the second stays": (
        ROOM + SECOND.format("2, source_hash") + f"; DELETE FROM {TABLE} WHERE doc_id = '1' AND chunk = 0",
        "1 has vectors and no row of its own",
    ),
    "a passage too many": (ROOM + SECOND.format("1, source_hash"), "1 has the passages [0, 1]"),
    "a passage of another text": (ROOM + SECOND.format("1, sha256('x')"), "1 has passages [1] with labels of their own"),
    "a number of passages that are not there": (
        ROOM + f"UPDATE {TABLE} SET chunks = 2 WHERE doc_id = '1'",
        "1 has the passages [0], counted 2, of 1",
    ),
    "a hash of another text": (f"UPDATE {TABLE} SET source_hash = sha256('x') WHERE doc_id = '1'", "1 is stale"),
    "an edit that nobody saw": (QUIET + "UPDATE articles SET body = 'new' WHERE id = 1", "1 is stale"),
    "a delete that nobody saw": (QUIET + "DELETE FROM articles WHERE id = 1", "1 is an orphan"),
    "an insert that nobody saw": (QUIET + "INSERT INTO articles (id, title) VALUES (99, 'x')", "99 is missing"),
    "a blank text that keeps its vector": (
        QUIET + "UPDATE articles SET title = '', body = '' WHERE id = 1",
        "1 can have no vector, and has one",
    ),
    "another document's vector": (
        f"UPDATE {TABLE} SET embedding = (SELECT embedding FROM {TABLE} WHERE doc_id = '2') WHERE doc_id = '1'",
        "1 has a vector that its model did not make",
    ),
    "provenance of another version": (
        f"ALTER TABLE {TABLE} DROP CONSTRAINT docs__v1_fingerprint_check; "
        f"UPDATE {TABLE} SET fingerprint = 'other' WHERE doc_id = '1'",
        "1 has the provenance",
    ),
    "a dead letter of an old text": (
        "INSERT INTO embed_pipeline.dead_letters (index_name, version, doc_id, source_hash, reason) "
        "VALUES ('docs', 'v1', '1', sha256('x'), 'old')",
        "1 has a dead letter that is stale",
    ),
    "a dead letter of nobody": (
        "INSERT INTO embed_pipeline.dead_letters (index_name, version, doc_id, source_hash, reason) "
        "VALUES ('docs', 'v1', '99', sha256('x'), 'gone')",
        "99 has a dead letter that is stale",
    ),
    "a change that nobody was told of": ("UPDATE articles SET body = 'new' WHERE id = 1", "the inbox holds 1 rows"),
    "a TRUNCATE that nobody was told of": ("TRUNCATE articles", "the inbox holds 1 rows"),
    "work that nobody did": (
        "INSERT INTO embed_pipeline.pending VALUES ('docs', 'v1', '1', 7, 7, now(), false)",
        "1 documents are pending for v1",
    ),
    "a claim that nobody ended": (
        "INSERT INTO embed_pipeline.claims (claim, index_name, version, who) VALUES (gen_random_uuid(), 'docs', 'v1', 'nobody')",
        "1 claims are left for v1",
    ),
    "a doubt that nobody looked into": (
        "INSERT INTO embed_pipeline.doubts (index_name, kind, reason) VALUES ('docs', 'capture', 'out of memory')",
        "a doubt is open (capture): out of memory",
    ),
    "an id that was set aside": (
        "INSERT INTO embed_pipeline.unwieldy_ids VALUES ('docs', sha256('x'), 'x', 'too long')",
        "an id was set aside: too long",
    ),
    "a transition that is told twice": (
        "INSERT INTO embed_pipeline.audit_events (index_name, version, event, from_state, to_state) "
        "VALUES ('docs', 'v1', 'cutover', 'ready', 'active')",
        "the audit says v1 went from ready to active when it was active",
    ),
    "a cutover that stands on nothing": (
        UNCHECKED + "UPDATE embed_pipeline.audit_events SET evidence_id = NULL",
        "the audit says v1 was served without evidence",
    ),
    "a transition that is not told": (
        UNCHECKED + "UPDATE embed_pipeline.index_versions SET state = 'standby'",
        "the audit ends with {'v1': 'active'}",
    ),
    "a transition by hand": (
        "INSERT INTO embed_pipeline.audit_events (index_name, version, event, from_state, to_state) "
        "VALUES ('docs', 'v1', 'by hand', 'active', 'standby')",
        "the audit says v1 became standby by hand",
    ),
    "a generation too many": (
        UNCHECKED + "UPDATE embed_pipeline.serving_pointer SET generation = generation + 1",
        "the pointer says ('v1', None, 2)",
    ),
    "a pointer to nothing": (
        UNCHECKED + "UPDATE embed_pipeline.serving_pointer SET version = NULL",
        "the pointer says (None, None, 1)",
    ),
    "a route that is not told": (
        UNCHECKED + "UPDATE embed_pipeline.serving_pointer SET refine_version = 'v9', refine_depth = 20",
        "the pointer says ('v1', 'v9', 1)",
    ),
}


def test_the_oracle_reports_every_kind_of_damage(campaign: Callable[..., Campaign]) -> None:
    """Each damage is done in a transaction that is rolled back: the next one starts from an index without any."""
    with campaign(keys=4).connect() as conn:
        assert oracle.problems(conn) == []
        for name, (damage, expected) in BROKEN.items():
            with conn.transaction(force_rollback=True):
                conn.execute(damage)  # type: ignore[arg-type]
                found = oracle.problems(conn)
                assert any(expected in each for each in found), (name, found)
        assert oracle.problems(conn) == []


def test_the_oracle_compares_every_passage(campaign: Callable[..., Campaign], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a chunker each text has several passages; an index that holds one vector for each text is then wrong everywhere."""
    with campaign(keys=4).connect() as conn:
        monkeypatch.setattr(oracle.Registered, "passages", lambda self, text: text.split("\n\n"))
        found = oracle.problems(conn)
        assert len(found) == 34
        assert all("of 2" in each for each in found)


def test_a_full_comparison_must_find_what_differs(campaign: Callable[..., Campaign]) -> None:
    with campaign(keys=4).connect() as conn:
        assert oracle.differing(conn, "v1") == set()
        conn.execute(
            "ALTER TABLE articles DISABLE TRIGGER USER; UPDATE articles SET body = 'x' WHERE id = 1; DELETE FROM articles WHERE id = 2;"
            "INSERT INTO articles (id, title) VALUES (99, 'x'); UPDATE articles SET views = 1 WHERE id = 3"
        )
        assert oracle.differing(conn, "v1") == {"1", "2", "99"}


def answer(**changed: Any) -> dict[str, Any]:
    """A right answer of v1, but for what is changed."""
    right = {"kind": "search", "at": time.time(), "asked": None, "version": "v1", "generation": 1, "anchor": "1"}
    return right | {"hits": [("1", models.own_distance(0)), ("2", 0.7)]} | changed


WRONG_ANSWERS = {
    "another fingerprint": ({"fingerprint": "x"}, "names another fingerprint"),
    "another version than asked": ({"asked": "v2"}, "v2 was asked and v1 answered"),
    "the vectors of another space": ({"hits": [("1", 1.0)]}, "a query of another space"),
    "another model's query": ({"hits": [("1", models.own_distance(1))]}, "at the distance of another model"),
    "a document is not found": ({"hits": [("2", 0.7)]}, "did not find a document"),
    "too few are found": ({"wanted": 3}, "v1 found 2 documents of 3 that were there"),
    "nothing is found": ({"hits": []}, "did not find a document"),
}


def test_the_oracle_reports_every_wrong_answer(campaign: Callable[..., Campaign]) -> None:
    with campaign(keys=4).connect() as conn:
        (v1,) = oracle.versions(conn)
        right = answer(fingerprint=v1.fingerprint)
        assert oracle.wrong_answers(conn, [right], REFRESH_SECONDS) == []
        for name, (changed, expected) in WRONG_ANSWERS.items():
            (found,) = oracle.wrong_answers(conn, [right | changed], REFRESH_SECONDS)
            assert expected in found, name


# What a writer noted, and whether a search between 10 and 11 that answered with document 1 was wrong. Times are monotonic seconds.
DELETED = {"kind": "delete", "start": 1.0, "seconds": 0.5, "gone": ["1"]}
WRITERS: dict[str, tuple[list[dict[str, Any]], bool]] = {
    "deleted before": ([DELETED], True),
    "deleted while the search was under way": ([DELETED | {"start": 10.5}], False),
    "deleted and born again before": ([DELETED, {"start": 5.0, "seconds": 0.1, "born": ["1"]}], False),
    "deleted and born again while the search was under way": ([DELETED, {"start": 10.9, "seconds": 9.0, "born": ["1"]}], False),
    "deleted and born again afterwards": ([DELETED, {"start": 11.5, "seconds": 0.1, "born": ["1"]}], True),
    "born before it was deleted": ([{"start": 0.0, "seconds": 0.9, "born": ["1"]}, DELETED], True),
    "born by another writer in the meantime of the delete": ([{"start": 0.5, "seconds": 1.0, "born": ["1"]}, DELETED], False),
    "the answer to the delete was lost": ([DELETED | {"error": "OperationalError"}], False),
    "truncated before": ([{"start": 1.0, "seconds": 0.5, "truncated": True, "born": ["2"]}], True),
    "truncated and filled again": ([{"start": 1.0, "seconds": 0.5, "truncated": True, "born": ["1", "2"]}], False),
    "another one deleted": ([DELETED | {"gone": ["3"]}], False),
}


def test_the_oracle_reports_answers_with_what_is_gone(campaign: Callable[..., Campaign]) -> None:
    with campaign(keys=4).connect() as conn:
        search = answer(start=10.0, seconds=1.0)
        for name, (writing, wrong) in WRITERS.items():
            found = gone.wrong_answers(conn, writing, [search])
            assert found == (
                ["v1 answered with a document that was deleted before the search began (1 times)"] if wrong else []
            ), name
        # What is not filled yet may be compared later.
        assert gone.wrong_answers(conn, [DELETED], [search | {"at": time.time() - 3600}]) == []


def test_two_spaces_are_at_right_angles() -> None:
    """What the verdict on an answer stands on: in pgvector's single precision the distance is exactly 1, and never so in one space."""
    query = models.query_vector(0, "a text")
    for other in range(1, models.SPACES):
        assert float(query @ models.document_vector(other, "a text")) == 0.0
    assert abs(1 - float(query @ models.document_vector(0, "a text")) - models.own_distance(0)) < 1e-6
    assert all(1 - float(query @ models.document_vector(0, f"another {n}")) > 0.1 for n in range(1_000))


def test_paying_twice_is_reported(tmp_path: Path) -> None:
    """A stored text that is asked for after the kill, and more texts in flight than declared."""
    calls = tmp_path / "calls"
    calls.write_text('[1, 0.0, "stored"]\n[1, 0.1, "lost"]\n[2, 0.2, "stored"]\n[2, 0.3, "lost"]\n')
    stored, lost = (hashlib.sha256(text).hexdigest() for text in (b"stored", b"lost"))
    kill = Kill(pid=1, asked=2, stored=frozenset([stored]), current=frozenset([stored, lost]))
    paid = Paid(calls, in_flight=1, workers={1, 2}, kills=[kill])
    assert [each.split(" ", 1)[1] for each in paid.problems(set())] == [
        "texts that were stored when 1 was struck were asked for again"
    ]
    assert paid.problems({"stored"}) == []
    alive = Kill(1, 0, kill.stored, kill.current, alive=True)
    assert Paid(calls, in_flight=1, workers={1, 2}, kills=[alive]).problems(set()) == [], "it had read that one already"
    assert len(Paid(calls, in_flight=1, workers={1, 2}, kills=[replace(alive, asked=2)]).problems(set())) == 1
    assert "in flight" in Paid(calls, in_flight=0, workers={1}, kills=[kill]).problems(set())[0]


def test_errors_of_the_load_are_written_down(tmp_path: Path, conn: psycopg.Connection) -> None:
    """With their SQLSTATE, and with the waits that the application planned."""
    with Log(tmp_path / "writer-0.log") as log:
        with log.timed("fails"):
            conn.execute("SELECT 1 / 0")
        with log.timed("waits") as record:
            record["planned"] = 0.05
            time.sleep(0.06)
    failed, waited = read([tmp_path / "writer-0.log"])
    assert (failed["state"], failed["error"]) == ("22012", "DivisionByZero")
    assert "error" not in waited
    assert waited["planned"] < waited["seconds"]
