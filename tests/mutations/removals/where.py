"""The files of tests that removals name, and an edit that several of them make."""

from __future__ import annotations

from tests.mutations.removal import Edit

CAPTURE = "tests/races/test_capture_races.py::"
BACKFILL = "tests/races/test_backfill_races.py::"
WRITE = "tests/races/test_write_races.py::"
CUTOVER = "tests/races/test_cutover_races.py::"
BATCH = "tests/database/migrate/test_batch_mode.py::"
REVISITS = "tests/database/migrate/test_revisits.py::"
CHUNKS = "tests/races/test_chunk_races.py::"
THROTTLE = "tests/database/migrate/test_throttle.py::"
THROTTLE_RULES = "tests/unit/migrate/test_throttle.py::"
CAMPAIGN = "tests/faults/campaign/test_campaign.py::"
MOMENTS = "tests/faults/campaign/test_moments.py::"
RESTARTS = "tests/faults/servers/test_restarts.py::"
LOST = "tests/faults/servers/test_lost_answers.py::"
DISK = "tests/faults/servers/test_full_disk.py::"
TIMEOUTS = "tests/faults/servers/test_timeouts.py::"
COMPARISON = "tests/database/dagster_layer/test_comparison.py::"
SEARCH = "tests/database/test_search.py::"
DAGSTER = "tests/database/dagster_layer/test_migration.py::"
EMBEDDED = "tests/database/postgres/test_embedded.py::"
MODEL_CHECK = "tests/database/migrate/test_model_check.py::"
ELSEWHERE = "tests/database/migrate/test_vectors_elsewhere.py::"
READERS = "tests/database/migrate/test_readers.py::"
STATE_MACHINE = "tests/races/test_state_machine.py::test_any_order_of_steps"

# So that a test that waits for what never comes true ends soon.
WAIT_BRIEFLY = Edit("../tests/harness/postgres/seen.py", "DEADLINE_SECONDS = 30.0", "DEADLINE_SECONDS = 10.0")

# Acknowledging by document takes a newer change along.
ACKNOWLEDGE_BY_DOCUMENT = Edit(
    "documents/queue.sql",
    "DELETE FROM embed_pipeline.change_queue\n"
    "WHERE seq IN (SELECT seq FROM embed_pipeline.change_queue\n"
    "              WHERE seq = ANY (%(seqs)s) AND lease_id = %(lease)s ORDER BY seq FOR UPDATE SKIP LOCKED)",
    "DELETE FROM embed_pipeline.change_queue q USING embed_pipeline.change_queue mine\n"
    "WHERE mine.seq = ANY (%(seqs)s) AND mine.lease_id = %(lease)s AND (q.version, q.doc_id) = (mine.version, mine.doc_id)",
)
