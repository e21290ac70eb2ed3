"""The files of tests that removals name, and an edit that several of them make."""

from __future__ import annotations

from tests.protections.removal import Edit

CAPTURE = "tests/migrate/test_capture_races.py::"
BACKFILL = "tests/migrate/test_backfill_races.py::"
WRITE = "tests/migrate/test_write_races.py::"
CUTOVER = "tests/migrate/test_cutover_races.py::"
BATCH = "tests/migrate/test_batch_mode.py::"
REVISITS = "tests/migrate/test_revisits.py::"
CHUNKS = "tests/migrate/test_chunk_races.py::"
THROTTLE = "tests/migrate/test_throttle.py::"
CAMPAIGN = "tests/campaign/test_campaign.py::"
MOMENTS = "tests/campaign/test_moments.py::"
RESTARTS = "tests/servers/test_restarts.py::"
LOST = "tests/servers/test_lost_answers.py::"
DISK = "tests/servers/test_full_disk.py::"
TIMEOUTS = "tests/servers/test_timeouts.py::"
COMPARISON = "tests/dagster_layer/test_comparison.py::"
SEARCH = "tests/test_search.py::"
DAGSTER = "tests/dagster_layer/test_migration.py::"
EMBEDDED = "tests/postgres/test_embedded.py::"
MODEL_CHECK = "tests/migrate/test_model_check.py::"
ELSEWHERE = "tests/migrate/test_vectors_elsewhere.py::"
READERS = "tests/migrate/test_readers.py::"
STATE_MACHINE = "tests/migrate/test_state_machine.py::test_any_order_of_steps"

# So that a test that waits for what never comes true ends soon.
WAIT_BRIEFLY = Edit("../tests/servers/seen.py", "DEADLINE_SECONDS = 30.0", "DEADLINE_SECONDS = 10.0")

# Acknowledging by document takes a newer change along.
ACKNOWLEDGE_BY_DOCUMENT = Edit(
    "documents/queue.sql",
    "DELETE FROM embed_pipeline.change_queue\n"
    "WHERE seq IN (SELECT seq FROM embed_pipeline.change_queue\n"
    "              WHERE seq = ANY (%(seqs)s) AND lease_id = %(lease)s ORDER BY seq FOR UPDATE SKIP LOCKED)",
    "DELETE FROM embed_pipeline.change_queue q USING embed_pipeline.change_queue mine\n"
    "WHERE mine.seq = ANY (%(seqs)s) AND mine.lease_id = %(lease)s AND (q.version, q.doc_id) = (mine.version, mine.doc_id)",
)
