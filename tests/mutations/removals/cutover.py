"""Cutover, rollback and retire: each protection taken out."""

from __future__ import annotations

from tests.mutations.removal import Edit, Removal
from tests.mutations.removals.where import CAMPAIGN, CUTOVER, DAGSTER, LOST, WAIT_BRIEFLY

CUTOVER_RACES = (
    Removal(
        "cutover_does_not_drain",
        (
            Edit("migrate/cutover.py", "left = dual_write.drain(index, version.name, mark, DRAIN_SECONDS)", "left = 0"),
            Edit("catalog/serving.py", "if queue.pending(conn, wanted.index, wanted.target, wanted.mark):", "if False:"),
            Edit(
                "catalog/migrations/sql/0001_catalog.sql", "AND q.seq <= NEW.mark) THEN", "AND q.seq <= NEW.mark AND false) THEN"
            ),
        ),
        (CUTOVER + "test_cutover_with_pending_changes", CAMPAIGN + "test_rollback_loses_nothing"),
        r"AssertionError: assert '|\d+ problems",
    ),
    Removal(
        "flip_does_not_look_again",
        (Edit("catalog/serving.py", "if queue.pending(conn, wanted.index, wanted.target, wanted.mark):", "if False:"),),
        (CUTOVER + "test_change_that_arrives_after_the_drain_fails_back",),
        r"are still pending for v2",
    ),
    Removal(
        "mark_is_not_waited_for",
        (Edit("documents/queue.py", "if not left:", "if True:"),),
        (
            CUTOVER + "test_open_transaction_below_the_mark_is_waited_for",
            CUTOVER + "test_open_transaction_past_the_deadline_is_named",
        ),
        r"assert not True|DID NOT RAISE",
    ),
    Removal(
        "everybody_is_waited_for",
        (
            Edit(
                "documents/queue.sql",
                "WHERE l.locktype = 'relation' AND l.granted AND",
                "WHERE l.locktype IN ('relation', 'virtualxid') AND l.granted AND",
            ),
            Edit(
                "documents/queue.sql",
                "  AND l.mode IN ('RowExclusiveLock',",
                "  AND l.mode IN ('RowShareLock', 'RowExclusiveLock',",
            ),
        ),
        (CUTOVER + "test_open_transaction_elsewhere_is_not_waited_for",),
        r"are still open after",
    ),
    Removal(
        "coverage_before_the_drain",
        (
            Edit(
                "migrate/cutover.py",
                '        coverage_id = _require_coverage(conn, index, version)\n        signal("cutover.covered")\n',
                "",
            ),
            Edit(
                "migrate/cutover.py",
                "        generation = serving.read(conn, index.name)\n",
                "        coverage_id = _require_coverage(conn, index, version)\n        generation = serving.read(conn, index.name)\n",
            ),
        ),
        (CUTOVER + "test_dead_letter_made_by_the_drain_counts",),
        r"DID NOT RAISE",
    ),
    Removal(
        "lost_answer_is_taken_for_a_failure",
        (Edit("migrate/cutover.py", "if not line.repeat(lambda again: serving.already_done(again, wanted)):", "if True:"),),
        (CUTOVER + "test_cutover_answer_lost_after_commit",),
        r"nothing was moved",
    ),
    Removal(
        "flip_in_several_transactions",
        (
            Edit(
                "catalog/serving.py",
                "    with conn.transaction():\n"
                '        row = conn.execute(queries("lock_pointer"), {"index": wanted.index}).fetchone()\n        if row',
                '    if True:\n        row = conn.execute(queries("lock_pointer"), {"index": wanted.index}).fetchone()\n        if row',
            ),
            # The database would refuse the first half: it stands behind the transaction.
            Edit(
                "catalog/migrations/sql/0001_catalog.sql",
                "CREATE CONSTRAINT TRIGGER pointer_agrees AFTER INSERT OR UPDATE ON embed_pipeline.index_versions",
                "CREATE CONSTRAINT TRIGGER pointer_agrees AFTER INSERT ON embed_pipeline.index_versions",
            ),
        ),
        (CUTOVER + "test_cutover_connection_lost_before_commit",),
        r"differ|AssertionError",
    ),
    Removal(
        "two_movers",
        (Edit("migrate/cutover.py", "    if row is None or not row[0]:\n", "    if row is None:\n"),),
        (CUTOVER + "test_two_cutovers",),
        r"IndexError|Somebody else moved",
    ),
    Removal(
        "no_compare_and_set",
        (Edit("catalog/serving.py", "if row is None or row[2] != wanted.generation:", "if row is None:"),),
        (CUTOVER + "test_pointer_moved_by_another_is_seen",),
        r"was not moved|IntegrityError|CheckViolation|AssertionError",
    ),
    Removal(
        "evidence_never_goes_stale",
        (
            Edit(
                "catalog/evidence.py",
                "if abs(now.documents - evidence.documents) > max_row_change * max(evidence.documents, 1):",
                "if False:",
            ),
            Edit("catalog/evidence.py", "if evidence.holdout_sha256 != now.holdout_sha256:", "if False:"),
            Edit("catalog/evidence.py", "if evidence.ann_index != now.ann_index:", "if False:"),
        ),
        (
            CUTOVER + "test_verdict_goes_stale_when_rows_move",
            CUTOVER + "test_verdict_goes_stale_when_the_held_out_set_changes",
            CUTOVER + "test_verdict_goes_stale_when_the_index_is_built_anew",
        ),
        r"DID NOT RAISE|AssertionError: Regex",
    ),
    Removal(
        "completeness_is_a_flag",
        (Edit("stores/protocol.py", "return self.missing + self.stale + self.orphaned + self.wrong_chunks", "return 0"),),
        (CUTOVER + "test_cutover_refuses_incomplete_coverage", DAGSTER + "test_a_missing_vector_fails_coverage"),
        r"DID NOT RAISE|assert",
    ),
    Removal(
        "pointer_moved_by_hand",
        (
            Edit(
                "catalog/migrations/sql/0001_catalog.sql",
                "CREATE TRIGGER check_pointer_move BEFORE INSERT OR UPDATE ON",
                "CREATE TRIGGER check_pointer_move BEFORE INSERT ON",
            ),
        ),
        (
            CUTOVER + "test_sql_at_a_prompt_cannot_skip_the_gate",
            CUTOVER + "test_hand_made_flip_without_passing_evidence_is_refused",
        ),
        r"DID NOT RAISE|AssertionError: Regex",
    ),
    Removal(
        "history_rewritten_by_hand",
        (
            Edit(
                "catalog/migrations/sql/0001_catalog.sql",
                "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON embed_pipeline.audit_events",
                "CREATE TRIGGER append_only BEFORE TRUNCATE ON embed_pipeline.audit_events",
            ),
        ),
        (CUTOVER + "test_sql_at_a_prompt_cannot_skip_the_gate",),
        r"DID NOT RAISE",
    ),
    Removal(
        "standby_is_not_dual_written",
        (
            Edit(
                "catalog/states.py",
                'LIVE: tuple[State, ...] = ("building", "ready", "active", "standby")',
                'LIVE: tuple[State, ...] = ("building", "ready", "active")',
            ),
        ),
        (CUTOVER + "test_rollback_after_writes_is_current",),
        r"AssertionError|is stale|is missing|KeyError: '1'",
    ),
    Removal(
        "retired_tables_stay_in_the_triggers",
        (
            # The view of provenance is made anew all the same: while it names the tables, PostgreSQL does not drop them.
            Edit(
                "migrate/register.py",
                "    capture.install(conn, index.source, index.name, [index.store(version).captured() for version in live])\n",
                '    known = conn.execute("SELECT state FROM embed_pipeline.versions WHERE index_name = %s", (index.name,)).fetchall()\n'
                '    if ("retired",) not in known:\n'
                "        capture.install(conn, index.source, index.name, [index.store(version).captured() for version in live])\n",
            ),
        ),
        (CUTOVER + "test_retire_fails_no_writer",),
        r"UndefinedTable",
    ),
    Removal(
        "retired_tables_are_a_failure",
        (Edit("stores/pgvector.py", "except psycopg.errors.UndefinedTable as gone:", "except ZeroDivisionError as gone:"),),
        (CUTOVER + "test_retire_under_a_dual_write_worker", CUTOVER + "test_retire_under_a_sync_is_no_failure"),
        r"UndefinedTable|assert",
    ),
    Removal(
        "interrupted_retire_stays_interrupted",
        (Edit("migrate/retire.py", "elif version.dropped_at is not None:", "else:"),),
        (
            CUTOVER + "test_retire_is_finished_by_the_same_command_after_a_crash",
            LOST + "test_retire_is_finished_by_the_same_command[CREATE OR REPLACE VIEW embed_pipeline.provenance-swallow]",
        ),
        r"retired already",
    ),
    Removal(
        "retire_does_not_ask_for_the_soak",
        (Edit("migrate/retire.py", "if soaked < rules.soak_seconds:", "if False:"),),
        (CUTOVER + "test_retire_refuses_before_the_soak_and_a_recent_reader",),
        r"DID NOT RAISE",
    ),
    Removal(
        "retire_does_not_ask_for_readers",
        (Edit("migrate/retire.py", "if row is not None and row[0] is not None and row[1] < rules.unread_seconds:", "if False:"),),
        (CUTOVER + "test_retire_refuses_before_the_soak_and_a_recent_reader",),
        r"DID NOT RAISE",
    ),
    Removal(
        "registration_in_two_transactions",
        (
            Edit(
                "migrate/register.py",
                "        versions.insert_partitions(conn, index.name, name, key_ranges)\n",
                "\n    def rest() -> None:\n        versions.insert_partitions(conn, index.name, name, key_ranges)\n",
            ),
            Edit(
                "migrate/register.py",
                '        in_short_lock(conn, under_lock, what=f"register {name}", table=str(index.source))\n',
                '        in_short_lock(conn, under_lock, what=f"register {name}", table=str(index.source))\n'
                '        in_short_lock(conn, rest, what=f"register {name}", table=str(index.source))\n',
            ),
        ),
        (LOST + "test_registration_is_finished_by_the_same_command[swallow]",),
        r"IndexError",
    ),
    Removal(
        "commit_under_way_is_not_waited_for",
        (
            Edit(
                "catalog/serving.py",
                'row = conn.execute(queries("lock_pointer"), {"index": wanted.index}).fetchone()\n    now',
                'row = conn.execute(queries("pointer"), {"index": wanted.index}).fetchone()\n    now',
            ),
            WAIT_BRIEFLY,
        ),
        (LOST + "test_flip_whose_commit_is_still_under_way_is_waited_for",),
        r"nothing was moved",
    ),
)
