"""Which scenario of the campaign fails without which protection (`tests/protections/removals.py`), and why the others do not.

docs/faults.md has what was measured. `make soak` takes out again those that failed at the first seed each time.
"""

from __future__ import annotations

HOT = "test_hot_documents"
KILL, FREEZE, TWINS = "test_many_migrations[kill]", "test_many_migrations[freeze]", "test_many_migrations[twins]"
BAD_MODEL, TRUNCATE, CHUNKED = (
    "test_many_migrations[bad_model]",
    "test_many_migrations[truncate]",
    "test_many_migrations[chunked]",
)
CUT, LOST_ANSWER = "test_many_migrations[cut]", "test_many_migrations[lost_answer]"
HURRIED = "test_many_migrations[statement_timeout]"
RESTARTS, ROLLBACK, BYPASSED = "test_many_server_restarts", "test_rollback_loses_nothing", "test_capture_bypassed"
FULL_DISK = "test_full_disk_many_times"

# Tried, the likeliest scenario first.
TRIED: dict[str, tuple[str, ...]] = {
    # change capture
    "registration_does_not_wait": (KILL, HOT),
    "second_registration_is_an_error": (TWINS,),
    "versions_read_from_a_table": (KILL, HOT),
    "inline_delete_in_strict_transactions": (KILL,),
    "update_trigger_with_a_column_list": (KILL,),
    "no_truncate_trigger": (TRUNCATE,),
    "deletes_wait_for_the_queue": (HOT,),
    "no_full_comparison": (BYPASSED,),
    "truncate_leaves_dead_letters": (TRUNCATE,),
    # dual-write
    "writes_without_a_look_at_the_document": (HOT,),
    "gone_is_believed": (HOT,),
    "acknowledges_newer_changes": (HOT,),
    "leases_never_run_out": (KILL,),
    "lease_is_not_looked_at": (HOT,),
    "queue_read_by_a_cursor": (HOT,),
    "waits_for_the_application": (HOT,),
    "versions_drained_one_after_another": (BAD_MODEL,),
    "queue_row_goes_with_the_claim": (HOT,),
    "documents_claimed_in_parts": (HOT,),
    "set_aside_without_the_documents_row": (HOT,),
    "settled_without_the_lease": (HOT,),
    "frozen_writes_are_left_alone": (HOT,),
    "frozen_locks_are_left_alone": (FREEZE,),
    "rejected_text_keeps_its_old_vector": (HOT,),
    # backfill
    "backfill_overwrites_something_newer": (HOT,),
    "backfill_overwrites_what_was_there_first": (HOT,),
    "locked_documents_are_left_out": (HOT,),
    "two_backfills_of_one_partition": (TWINS,),
    "two_builders_of_one_ann_index": (TWINS,),
    "backfill_reads_everything_again": (KILL,),
    "an_outage_becomes_dead_letters": (BAD_MODEL,),
    "ann_index_over_part_of_the_vectors": (HOT,),
    "invalid_ann_index_is_kept": (CUT,),
    # the server
    "a_lost_connection_is_the_end": (CUT,),
    "lost_answer_of_a_batch_is_not_asked_for": (LOST_ANSWER,),
    "dead_connection_is_unknown": (RESTARTS,),
    "full_disk_has_no_sentence_of_its_own": (FULL_DISK,),
    "remains_of_a_build_stay": (FULL_DISK,),
    "long_statements_are_hurried": (HURRIED,),
    # passages
    "chunks_come_and_go_in_several_transactions": (CHUNKED,),
    "chunks_of_the_longer_text_stay": (CHUNKED,),
    "poison_chunks_are_left_out": (CHUNKED,),
    # cutover
    "cutover_does_not_drain": (ROLLBACK,),
    "flip_does_not_look_again": (ROLLBACK,),
    "mark_is_not_waited_for": (ROLLBACK,),
    "lost_answer_is_taken_for_a_failure": (LOST_ANSWER,),
    "commit_under_way_is_not_waited_for": (LOST_ANSWER,),
    "flip_in_several_transactions": (KILL, ROLLBACK),
    "two_movers": (TWINS,),
    "no_compare_and_set": (TWINS,),
    "completeness_is_a_flag": (ROLLBACK,),
    "standby_is_not_dual_written": (ROLLBACK,),
    "retired_tables_stay_in_the_triggers": (KILL,),
    "retired_tables_are_a_failure": (FREEZE,),
    "interrupted_retire_stays_interrupted": (KILL,),
    "registration_in_two_transactions": (LOST_ANSWER,),
    # search
    "query_meets_whatever_serves": (ROLLBACK,),
    "flips_are_not_heard": (ROLLBACK,),
    "searcher_looks_once": (KILL,),
}
