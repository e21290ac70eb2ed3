"""The server, the connection, the disk: each protection taken out."""

from __future__ import annotations

from tests.mutations.removal import Edit, Removal
from tests.mutations.removals.where import BACKFILL, DISK, LOST, RESTARTS, REVISITS, THROTTLE, TIMEOUTS, WAIT_BRIEFLY

SERVER_RACES = (
    Removal(
        "unheard_rollback_is_the_end",
        (
            Edit(
                "stores/pgvector.py",
                "        except psycopg.Rollback as unheard:\n",
                "        except ZeroDivisionError as unheard:\n",
            ),
        ),
        (BACKFILL + "test_connection_goes_in_the_moment_of_a_rollback",),
        r"Rollback",
    ),
    Removal(
        "a_lost_connection_is_the_end",
        (Edit("migrate/outage.py", "                if not self._is_away(problem):\n", "                if True:\n"),),
        (
            RESTARTS + "test_backfill_outlives_cut_connections[backfill.embedded-true]",
            RESTARTS + "test_dual_write_outlives_cut_connections[dual_write.embedded]",
            RESTARTS + "test_index_build_outlives_cut_connections",
        ),
        r"terminating connection|the connection is lost|assert \('The databas",
    ),
    Removal(
        "lost_answer_of_a_batch_is_not_asked_for",
        (Edit("migrate/outage.py", "if tries > 1 and len(written) < len(batch):", "if False:"),),
        (LOST + "test_insert_of_a_backfill[swallow]", LOST + "test_replace_of_a_dual_write[swallow]"),
        r"assert \d+ == \d+|assert \(",
    ),
    Removal(
        "lock_is_not_taken_again",
        (
            Edit(
                "migrate/outage.py",
                "            if self._taken is not None:\n",
                "            if self._taken is not None and not self._lost:\n",
            ),
        ),
        (RESTARTS + "test_a_partition_taken_by_another_run_meanwhile_is_left_to_it",),
        r"DID NOT RAISE",
    ),
    Removal(
        "own_lost_session_is_a_stranger",
        (
            Edit(
                "migrate/outage.py",
                "if holders - lost or time.monotonic() > deadline:",
                "if holders or time.monotonic() > deadline:",
            ),
        ),
        (RESTARTS + "test_the_servers_own_leftover_session_does_not_keep_the_partition",),
        r"is being filled by another run",
    ),
    Removal(
        "dead_connection_is_unknown",
        (
            Edit(
                "migrate/throttle.py", "        if conn.closed:\n            # Nobody", "        if False:\n            # Nobody"
            ),
            WAIT_BRIEFLY,
        ),
        (THROTTLE + "test_a_lost_connection_is_no_reason_to_wait", RESTARTS + "test_a_paused_backfill_outlives_cut_connections"),
        r"DID NOT RAISE|it notices: not within",
    ),
    Removal(
        "queued_documents_are_the_backfills",
        (
            Edit("migrate/backfill.py", "unqueued=again, unlocked=again)", "unqueued=False, unlocked=again)"),
            Edit("migrate/backfill.py", "None, 1, unqueued=True)", "None, 1, unqueued=False)"),
            # So that the test ends soon.
            Edit("migrate/backfill.py", "LOCKED_TRIES = 40", "LOCKED_TRIES = 4"),
        ),
        (REVISITS + "test_a_document_that_is_edited_all_the_time_is_left_to_the_dual_write",),
        r"stayed locked by the application|title 5 edit",
    ),
    Removal(
        "locked_documents_are_embedded_at_each_look",
        (Edit("migrate/backfill.py", "unqueued=again, unlocked=again)", "unqueued=again, unlocked=False)"),),
        (REVISITS + "test_a_document_that_stays_locked_is_not_embedded_at_every_look",),
        r"once while it was locked",
    ),
    Removal(
        "full_disk_has_no_sentence_of_its_own",
        (Edit("postgres/failures.py", "if isinstance(problem, errors.DiskFull):", "if False:"),),
        (DISK + "test_writing",),
        r"AssertionError|assert",
    ),
    Removal(
        "remains_of_a_build_stay",
        (Edit("stores/hnsw.py", "        _drop_remains(conn, name)\n        raise\n", "        raise\n"),),
        (DISK + "test_building_the_index",),
        r"hnsw',\) == \(None,\)",
    ),
    Removal(
        "long_statements_are_hurried",
        (
            Edit(
                "postgres/connection.py",
                '{"names": ["statement_timeout", "transaction_timeout"], "local": True}',
                '{"names": [], "local": True}',
            ),
            Edit("postgres/connection.py", '{"names": names, "local": False}', '{"names": [], "local": False}'),
        ),
        (
            TIMEOUTS + "test_building_the_index",
            TIMEOUTS + "test_statements_that_read_the_whole_table[coverage]",
            TIMEOUTS + "test_cutting_the_key_ranges",
        ),
        r"statement timeout",
    ),
)
