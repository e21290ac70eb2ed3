"""The view `embed_pipeline.health` and `status` say the same words of what SQL alone can tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from embed_pipeline.catalog import searchers
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.report.attention import CODES
from embed_pipeline.report.next_command import BEHIND_SECONDS
from embed_pipeline.report.status import status_of
from tests.harness.articles import declared, leave_behind

# The documents, their triggers, the stores, the declaration and other sessions are not for SQL alone.
BEYOND_SQL = {
    *("documents_unusable", "capture_off", "vectors_gone", "another_ledger", "coverage", "evidence_stale"),
    *("store_away", "ann_index", "readers_told_otherwise", "declared_otherwise", "old_transaction"),
}
PENDING = """
    INSERT INTO embed_pipeline.pending (index_name, version, doc_id, seq, since_seq, since, removed)
    VALUES ('docs', 'v1', '1', 1, 1, clock_timestamp() - make_interval(secs => {seconds}), false)
    ON CONFLICT (doc_id, index_name, version) DO UPDATE SET since = excluded.since"""
# Each adds its word to those before it; None takes the last one away again.
FAULTS: list[tuple[str | None, str]] = [
    (None, PENDING.format(seconds=BEHIND_SECONDS - 20)),
    ("queue", PENDING.format(seconds=BEHIND_SECONDS + 1)),
    ("dead_letters", "INSERT INTO embed_pipeline.dead_letters VALUES ('docs', 'v2', '2', '', 'empty text')"),
    ("held", "SELECT embed_pipeline.pause('docs', 'lunch')"),
    (
        "watch",
        "INSERT INTO embed_pipeline.watch_looks (index_name, generation, look, version, outcome, sentence) "
        "SELECT 'docs', generation, 1, 'v1', 'fail', 'recall fell' FROM embed_pipeline.serving_pointer",
    ),
    (
        "bypassed",
        "INSERT INTO embed_pipeline.audit_events (index_name, event, reason, detail) VALUES ('docs', 'reconcile', 'two differ', "
        '\'{"queued": {"v1": 2}, "disarmed": []}\')',
    ),
    (
        "model_changed",
        "INSERT INTO embed_pipeline.model_samples (index_name, version, texts, vectors, late, changed_at) "
        "VALUES ('docs', 'v1', '{}', '', false, now())",
    ),
    (
        "no_evidence",
        "SET session_replication_role = replica; DELETE FROM embed_pipeline.gate_evidence; SET session_replication_role = origin",
    ),
    ("retire_unfinished", "UPDATE embed_pipeline.index_versions SET state = 'retired' WHERE version = 'v3'"),
]


def test_the_view_and_the_status_say_the_same_words(
    database_url: str,
    app: psycopg.Connection[Any],
    open_served: Callable[..., OpenIndex],
    holdout: Path,
    reader_url: Callable[[], str],
) -> None:
    open_served("v1", "v2", "v3")
    spec = declared(database_url, holdout, "v1", "v2", "v3")

    with psycopg.connect(reader_url(), autocommit=True) as reader:

        def require(words: set[str]) -> None:
            row = reader.execute("SELECT well, reasons, version FROM embed_pipeline.health WHERE index_name = 'docs'").fetchone()
            assert row is not None
            shown = status_of(spec)
            assert {each.code for each in shown.attention} - BEYOND_SQL == set(row[1]) == words
            assert (row[0], row[2]) == (not words, "v1")

        words: set[str] = set()
        require(words)
        for word, fault in FAULTS:
            app.execute(fault)  # type: ignore[arg-type]
            words = words if word is None else words | {word}
            require(words)
        leave_behind(app, "v2")
        require(words := words | {"reader_left_behind"})
        app.execute(
            "UPDATE embed_pipeline.searchers SET seen_at = seen_at - make_interval(secs => %s)", (searchers.GONE_SECONDS + 1,)
        )
        require(words := words - {"reader_left_behind"})
        # While something is doubted the last comparison is not the word that counts.
        app.execute("INSERT INTO embed_pipeline.doubts (index_name, kind, reason) VALUES ('docs', 'capture', 'it failed')")
        require(words := words - {"bypassed"} | {"doubt"})
    assert {word for word, _ in FAULTS if word} | {"reader_left_behind", "doubt"} == set(CODES) - BEYOND_SQL
