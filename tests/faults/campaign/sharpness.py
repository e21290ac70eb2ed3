"""Which scenario of the campaign was seen to fail without which protection (`tests/mutations/removals/__init__.py`), and why the others were not.

Each run had the seed 20 and one migration, or one round of the scenes. docs/faults.md says where it was measured. Every soak takes a
third of those in CAUGHT out again, which third its seed says (`test_oracle_is_sharp.py`).
"""

from __future__ import annotations

CAMPAIGN, MOMENTS = "tests/faults/campaign/test_campaign.py", "tests/faults/campaign/test_moments.py"
BAD_MODEL = f"{CAMPAIGN}::test_many_migrations[bad_model]"
BYPASSED = f"{CAMPAIGN}::test_capture_bypassed"
FULL_DISK = f"{CAMPAIGN}::test_full_disk_many_times"
WRITES, BACKFILLS = f"{MOMENTS}::test_moments[writes]", f"{MOMENTS}::test_moments[backfills]"
REGISTRATIONS, MOVES = f"{MOMENTS}::test_moments[registrations]", f"{MOMENTS}::test_moments[moves]"
OPERATORS, SEARCHERS = f"{MOMENTS}::test_moments[operators]", f"{MOMENTS}::test_moments[searchers]"
TABLES = f"{MOMENTS}::test_moments[tables]"
WAITING, PAYMENTS = f"{MOMENTS}::test_moments[waiting]", f"{MOMENTS}::test_moments[payments]"
MODELS, CHUNKS = f"{MOMENTS}::test_moments[models]", f"{MOMENTS}::test_moments[chunks]"

# The scenario that failed, and a part of what it said.
CAUGHT: dict[str, tuple[str, str]] = {
    "unheard_rollback_is_the_end": (BACKFILLS, "backfill v2 failed: Rollback"),
    "no_truncate_trigger": (WRITES, "orphan"),
    "deletes_wait_for_the_queue": (WRITES, "is deleted, and . versions still have it"),
    "no_full_comparison": (BYPASSED, "the full comparison says"),
    "writes_without_a_look_at_the_document": (WRITES, "was gone when a write of it began|was over when the write began"),
    "acknowledges_newer_changes": (WRITES, "and nothing is queued"),
    "leases_never_run_out": (WRITES, "did not come to dual_write.claimed"),
    "queue_row_goes_with_the_claim": (WRITES, "and nothing is queued"),
    "frozen_writes_are_left_alone": (WRITES, "statement timeout"),
    "rejected_text_keeps_its_old_vector": (WRITES, "can have no vector and has one"),
    "backfill_overwrites_something_newer": (BACKFILLS, "is stale"),
    "two_backfills_of_one_partition": (BACKFILLS, "was filled by two at once"),
    "two_builders_of_one_ann_index": (REGISTRATIONS, "LockNotAvailable"),
    "an_outage_becomes_dead_letters": (BAD_MODEL, "has a dead letter without a reason"),
    "ann_index_over_part_of_the_vectors": (MOVES, "not all of its partitions are filled"),
    "a_lost_connection_is_the_end": (BACKFILLS, "terminating connection|connection is lost"),
    "full_disk_has_no_sentence_of_its_own": (FULL_DISK, "No space left on device"),
    "chunks_come_and_go_in_several_transactions": (CHUNKS, "is half there"),
    "chunks_of_the_longer_text_stay": (CHUNKS, "UniqueViolation|is half there"),
    "cutover_does_not_drain": (MOVES, "at once after the rollback"),
    "lost_answer_is_taken_for_a_failure": (MOVES, "has happened, and it says: .*nothing was moved"),
    "flip_in_several_transactions": (MOVES, "the pointer says"),
    "standby_is_not_dual_written": (MOVES, "changes are still queued"),
    "retired_tables_stay_in_the_triggers": (REGISTRATIONS, "UndefinedTable"),
    "registration_in_two_transactions": (REGISTRATIONS, 'is registered without its partitions|__v4__documents" does not exist'),
    "update_trigger_with_a_column_list": (WRITES, "is stale, and nothing is queued"),
    "truncate_leaves_dead_letters": (WRITES, "has a dead letter that is stale, and nothing is queued"),
    "interrupted_retire_stays_interrupted": (REGISTRATIONS, "is retired already"),
    "a_dual_write_at_the_same_document_is_the_end": (BACKFILLS, "backfill v2 failed: LockNotAvailable"),
    "settled_beside_an_old_dead_letter": (BACKFILLS, "has a dead letter beside its vectors"),
    "registration_does_not_wait": (REGISTRATIONS, "is stale, and nothing is queued"),
    "second_registration_is_an_error": (REGISTRATIONS, "registered by two at once"),
    "versions_read_from_a_table": (REGISTRATIONS, "is stale, and nothing is queued"),
    "inline_delete_in_strict_transactions": (WRITES, "of the application failed: SerializationFailure"),
    "gone_is_believed": (WRITES, "is missing from a partition that is filled"),
    "queue_read_by_a_cursor": (WRITES, "a change with an early number, by a worker that lives, did not happen"),
    "waits_for_the_application": (WRITES, "of the application failed: DeadlockDetected"),
    "documents_claimed_in_parts": (WRITES, "is stale, and nothing is queued"),
    "set_aside_without_the_documents_row": (BACKFILLS, "has a dead letter beside its vectors, and nothing is queued"),
    "locked_documents_are_left_out": (BACKFILLS, "is missing from a partition that is filled, and nothing is queued"),
    "frozen_locks_are_left_alone": (REGISTRATIONS, "of the application failed: QueryCanceled"),
    "remains_of_a_build_stay": (FULL_DISK, "left an invalid index behind"),
    "commit_under_way_is_not_waited_for": (MOVES, "has happened, and it says: .*nothing was moved"),
    "lease_is_not_looked_at": (WRITES, "a worker whose lease was taken over has written"),
    "settled_without_the_lease": (WRITES, "can have no vector and has no dead letter, and nothing is queued"),
    "vectors_of_lost_documents_stay": (BACKFILLS, "is half there"),
    "backfill_overwrites_what_was_there_first": (BACKFILLS, "is stale, and nothing is queued"),
    "backfill_reads_everything_again": (BACKFILLS, "were asked for again"),
    "invalid_ann_index_is_kept": (REGISTRATIONS, "has no valid ANN index"),
    "lost_answer_of_a_batch_is_not_asked_for": (BACKFILLS, "an answer was lost, and it says"),
    "dead_connection_is_unknown": (BACKFILLS, "the end of a backfill whose connection was cut did not happen"),
    "poison_chunks_are_left_out": (CHUNKS, "can have no vector and has one"),
    "completeness_is_a_flag": (BYPASSED, "were not what they should be"),
    "retired_tables_are_a_failure": (REGISTRATIONS, "UndefinedTable"),
    "query_meets_whatever_serves": (MOVES, "v2 was asked and v1 answered"),
    "flips_are_not_heard": (MOVES, "the notice of a flip did not happen"),
    "searcher_looks_once": (MOVES, "of the application failed: UndefinedTable"),
    "two_movers_and_no_compare_and_set": (MOVES, "two cutovers at once"),
    "mark_is_not_waited_for_and_flip_does_not_look_again": (MOVES, "at once after the rollback"),
    "no_trigger_for_replicated_changes": (WRITES, "is stale, and nothing is queued"),
    "statement_triggers_on_a_partitioned_table": (TABLES, "is stale, and nothing is queued"),
    "no_truncate_trigger_on_partitions": (TABLES, "is an orphan, and nothing is queued"),
    "settings_of_the_writers_session": (TABLES, "is stale, and nothing is queued"),
    "settings_of_our_own_connections": (TABLES, "is missing"),
    "a_document_that_moves_is_the_end": (TABLES, "backfill v2 failed: SerializationFailure"),
    "pointer_moved_by_hand": (OPERATORS, "the pointer says"),
    "history_rewritten_by_hand": (OPERATORS, "the audit ends with"),
    "evidence_never_goes_stale": (OPERATORS, "evidence about other documents: cutover v2 was not refused"),
    "retire_does_not_ask_for_the_soak": (OPERATORS, "a retire before its time: retire v1 was not refused"),
    "retire_does_not_ask_for_readers": (OPERATORS, "a retire under readers: retire v1 was not refused"),
    "backfill_starts_without_proof": (OPERATORS, "is stale, and nothing is queued"),
    "another_model_under_a_registered_name": (OPERATORS, "not of the text it is labelled with"),
    "tables_that_pin_nothing": (OPERATORS, "not of the text it is labelled with"),
    "coverage_before_the_drain": (OPERATORS, "a document without a vector: cutover v2 was not refused"),
    "cutover_does_not_ask_for_evidence_and_pointer_moved_by_hand": (
        OPERATORS,
        "was served without evidence",
    ),
    "any_space_in_python": (SEARCHERS, "a query of another space met the vectors of v1"),
    "any_space_in_sql": (SEARCHERS, "an answer of v1 names another fingerprint"),
    "cached_queries_know_no_space": (SEARCHERS, "a query of another space met the vectors of v2"),
    "ann_scan_ends_early": (SEARCHERS, "v2 found . documents of 3"),
    "nearest_passages_are_asked_for_once": (SEARCHERS, "v3 found 1 documents of 3"),
    "lock_without_timeout": (WAITING, "of the application failed: QueryCanceled"),
    "full_comparison_always_arms": (WAITING, "with nothing to arm waits"),
    "everybody_is_waited_for": (WAITING, "that has changed no document"),
    "catalog_made_without_a_lock": (WAITING, "several registered the first version of all at once"),
    "full_comparison_queues_a_whole_new_version": (WAITING, "the full comparison queued"),
    "versions_drained_one_after_another": (WAITING, "has to wait because the model of v1 is down"),
    "lease_is_not_renewed": (PAYMENTS, "two workers paid 2 times"),
    "batches_in_flight_are_dropped": (PAYMENTS, "a backfill that failed and the next one paid 2 times"),
    "queued_documents_are_the_backfills": (PAYMENTS, "a backfill paid 1 times for a text that costs 0"),
    "locked_documents_are_embedded_at_each_look": (PAYMENTS, "a backfill paid [3-9] times"),
    "copy_under_the_locks_of_the_documents": (BACKFILLS, "of the application failed: QueryCanceled"),
    "lock_is_not_taken_again": (BACKFILLS, "was filled by two at once, after the first one had lost its connection"),
    "own_lost_session_is_a_stranger": (BACKFILLS, "own lost session had left behind ended it"),
    "long_statements_are_hurried": (WAITING, "ended an index build"),
    "running_backfill_does_not_look_at_its_model": (MODELS, "not of the text it is labelled with"),
    "dual_write_does_not_look_at_its_model": (MODELS, "not of the text it is labelled with"),
    "check_speaks_about_another_sample": (MODELS, "before it was accepted ended a backfill"),
}

# Without one of these the next one holds. The campaign fails when they are taken out together (`removals/together.py`).
BEHIND: dict[str, str] = {
    "two_movers": "two_movers_and_no_compare_and_set",
    "no_compare_and_set": "two_movers_and_no_compare_and_set",
    "mark_is_not_waited_for": "mark_is_not_waited_for_and_flip_does_not_look_again",
    "flip_does_not_look_again": "mark_is_not_waited_for_and_flip_does_not_look_again",
    "cutover_does_not_ask_for_evidence": "cutover_does_not_ask_for_evidence_and_pointer_moved_by_hand",
}

# The campaign has no part in it.
LEFT_OUT: dict[str, str] = {
    "our_error_passes_for_the_applications": "it is a message",
    "a_document_that_moves_ends_the_comparison": "the comparison takes a title, and no scene can stop it between reading one and locking it",
    "admission_without_the_accounts_lock": "its models run here",
    "a_batch_job_is_submitted_without_a_look": "its models run here",
    "batch_jobs_are_not_remembered": "its models run here",
    "catalog_migration_waits_for_ever": "it makes the catalog once, before anything runs",
    "no_row_is_no_lag": "it has no standby",
    "first_reason_decides": "it has no standby and no slot",
    "first_reading_stops": "it has no standby and no slot",
    "time_is_lag": "it has no standby",
    "goes_on_at_the_limit": "it has no standby",
    "every_stutter_is_audited": "its throttle never objects",
    "audit_fails_the_backfill": "its throttle never objects",
    "dual_write_materializes": "it runs without Dagster",
    "partitions_are_logged_at_the_end": "it runs without Dagster",
    "sensor_asks_again": "it runs without Dagster",
    "dual_write_has_no_end": "it runs without Dagster",
    "starts_without_a_lock": "it has one server, started before",
    "any_server_counts_as_ready": "it has one server, started before",
    "old_backends_are_not_waited_for": "its restarts are immediate shutdowns, which leave no backend",
    "process_id_is_believed": "it has one server, started before",
    "machine_writes_without_a_look_at_the_document": "it fails without it (above); here the state machine must",
    "machine_deletes_wait_for_the_queue": "it fails without it (above); here the state machine must",
    "machine_cutover_does_not_drain": "it fails without it (above); here the state machine must",
}
