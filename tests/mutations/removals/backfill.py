"""The backfill: each protection taken out."""

from __future__ import annotations

from tests.mutations.removal import Edit, Removal
from tests.mutations.removals.dual_write import NO_LOOK_AT_DOCUMENTS
from tests.mutations.removals.where import BACKFILL, BATCH, CAPTURE, CHUNKS, CUTOVER, DAGSTER, MOMENTS, RESTARTS, WRITE

# The backfill overwrites what is there.
OVERWRITE = (
    Edit(
        "stores/pgvector.sql",
        "-- name: first_wins\nON CONFLICT (doc_id) DO NOTHING",
        "-- name: first_wins\nON CONFLICT (doc_id) DO UPDATE SET source_hash = excluded.source_hash",
    ),
    Edit(
        "stores/pgvector.py",
        "            self._insert_vectors(conn, batch, written)\n",
        "            self._delete_vectors(conn, sorted(written))\n            self._insert_vectors(conn, batch, written)\n",
    ),
)

# The advisory lock of a run is tried, and not being given it does not matter.
NO_LOCK_OF_A_RUN = (
    Edit("migrate/outage.py", "            if row is not None and row[0]:\n", "            if row is not None:\n"),
)

BACKFILL_RACES = (
    Removal(
        "a_dual_write_at_the_same_document_is_the_end",
        (
            Edit(
                "stores/pgvector.py",
                "        except (psycopg.errors.UniqueViolation, psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):\n",
                "        except psycopg.errors.UniqueViolation:\n",
            ),
        ),
        (BACKFILL + "test_a_dual_write_is_at_a_document_whose_vectors_were_copied",),
        r"LockNotAvailable|DeadlockDetected",
    ),
    Removal(
        "vectors_of_lost_documents_stay",
        (Edit("stores/pgvector.py", "                if len(written) < len(batch):\n", "                if not batch:\n"),),
        (BACKFILL + "test_documents_that_change_after_their_vectors_were_copied",),
        r"assert \[\('1',\)",
    ),
    Removal(
        "a_document_that_moves_is_the_end",
        (Edit("migrate/outage.py", "                if moved > MOVED_TRIES:\n", "                if True:\n"),),
        (BACKFILL + "test_document_goes_to_another_partition_under_the_insert",),
        r"SerializationFailure",
    ),
    Removal(
        "a_document_that_moves_ends_the_comparison",
        (
            Edit(
                "migrate/verify.py",
                "line.repeat(lambda conn, version=version: capture.prove_live(conn, index.source, index.name, version))  # type: ignore[misc]",
                "capture.prove_live(conn, index.source, index.name, version)",
            ),
        ),
        (BACKFILL + "test_document_goes_to_another_partition_under_the_canary",),
        r"SerializationFailure",
    ),
    Removal(
        "backfill_starts_without_proof",
        (
            Edit(
                "migrate/backfill.py",
                "capture.prove_live(conn, index.source, index.name, index.store(version).captured())",
                "pass",
            ),
        ),
        (CAPTURE + "test_backfill_refuses_while_capture_is_off", CAPTURE + "test_canary_sees_a_trigger_that_does_nothing"),
        r"DID NOT RAISE",
    ),
    Removal(
        "our_error_passes_for_the_applications",
        (Edit("documents/capture.py", 'if "embed_pipeline.capture_" in (refused.diag.context or ""):', "if False:"),),
        (CAPTURE + "test_canary_tells_our_broken_trigger_from_the_applications_rules",),
        r"DID NOT RAISE",
    ),
    Removal(
        "backfill_overwrites_something_newer",
        (*OVERWRITE, NO_LOOK_AT_DOCUMENTS[1]),
        (
            BACKFILL + "test_backfill_never_overwrites_something_newer",
            CHUNKS + "test_dual_write_overtakes_a_backfill_with_another_number_of_chunks[backfill.embedded-5-3]",
        ),
        r"AssertionError: assert '|stale=1",
    ),
    Removal(
        "backfill_overwrites_what_was_there_first",
        OVERWRITE,
        (BACKFILL + "test_backfill_leaves_a_row_that_was_there_first", MOMENTS + "test_moments[backfills]"),
        r"AssertionError: assert '|\d+ problems",
    ),
    Removal(
        "locked_documents_are_left_out",
        (
            Edit(
                "migrate/backfill.py", "            if not left and not again:\n                return\n", "            return\n"
            ),
        ),
        (BACKFILL + "test_backfill_leaves_locked_documents_and_comes_back",),
        r"AssertionError: assert 14 == 15|assert \d+ == \d+",
    ),
    Removal(
        "two_backfills_of_one_partition",
        NO_LOCK_OF_A_RUN,
        (BACKFILL + "test_two_backfills_of_one_partition",),
        r"assert 0 == 1",
    ),
    Removal(
        "two_builders_of_one_ann_index",
        (
            *NO_LOCK_OF_A_RUN,
            # Not for ever, so that the tests end.
            Edit(
                "stores/hnsw.py",
                '        conn.execute(queries("drop", name=name))\n    hnsw = ',
                "        conn.execute(\"SET lock_timeout = '1s'\")\n"
                '        conn.execute(queries("drop", name=name))\n    hnsw = ',
            ),
        ),
        (CUTOVER + "test_two_builds_of_one_ann_index", RESTARTS + "test_two_index_builds_do_not_meet"),
        r"LockNotAvailable",
    ),
    Removal(
        "backfill_reads_everything_again",
        (
            Edit(
                "stores/pgvector.sql", "  AND NOT EXISTS (SELECT FROM {version_documents} AS v WHERE v.doc_id = {doc_id})\n", ""
            ),
            # Or it would look for ever at what seems to be missing.
            Edit("migrate/backfill.py", "            if not held:\n                return\n", "            return\n"),
        ),
        (BACKFILL + "test_resumed_backfill_pays_for_nothing_twice",),
        r"assert \d+ == \d+",
    ),
    Removal(
        "batches_in_flight_are_dropped",
        (Edit("migrate/in_flight.py", "if self._lost:", "if self._problem is not None:"),),
        (
            BACKFILL + "test_batches_beside_a_failing_one_are_kept",
            RESTARTS + "test_batches_in_flight_are_kept_when_reading_fails",
        ),
        r"assert set\(\) ==|Extra items in the right set|AssertionError: assert \{|assert \{",
    ),
    Removal(
        "a_batch_job_is_submitted_without_a_look",
        (Edit("embedders/batch.py", "found = self._service.find(token) if uncertain else None", "found = None"),),
        (
            BATCH + "test_a_process_that_dies_in_between_pays_for_nothing_twice[batch.submitted]",
            BATCH + "test_a_job_whose_answer_was_lost_is_found_by_its_token",
        ),
        r"assert \(\d+, 0, \d+\) == \(60, 0, 0\)|assert 3 == 2",
    ),
    Removal(
        "batch_jobs_are_not_remembered",
        (
            Edit("migrate/batch_backfill.py", "    if any(job.is_last for job in jobs):\n        return\n", ""),
            Edit("migrate/batch_backfill.py", "{doc_id for job in jobs for doc_id in job.doc_ids}", "set[str]()"),
        ),
        (BATCH + "test_stop_reaches_who_waits_for_a_job_and_the_next_run_collects_it",),
        r"assert \(\d+, 0, \d+\) == \(60, 0, 0\)",
    ),
    Removal(
        "an_outage_becomes_dead_letters",
        (
            Edit(
                "embedders/checked.py",
                'raise EmbedderError(f"The embedder of {self._who} failed: {describe(exc, self.spec)}") from exc',
                "return Embedded(np.zeros((len(texts), self.spec.dimensions), np.float32), dict.fromkeys(range(len(texts)), str(exc)))",
            ),
        ),
        (WRITE + "test_failing_provider_marks_nothing_done",),
        r"DID NOT RAISE",
    ),
    Removal(
        "another_model_under_a_registered_name",
        (Edit("migrate/open_index.py", "if embedder.fingerprint != version.fingerprint:", "if False:"),),
        (WRITE + "test_changed_model_under_a_registered_name_is_refused",),
        r"DID NOT RAISE",
    ),
    Removal(
        "tables_that_pin_nothing",
        (Edit("stores/pgvector.sql", " CHECK (fingerprint = {fingerprint})", ""),),
        (WRITE + "test_another_versions_rows_cannot_be_stored",),
        r"DID NOT RAISE",
    ),
    Removal(
        "ann_index_over_part_of_the_vectors",
        (Edit("migrate/ann_index.py", 'if missing and version.state == "building":', "if False:"),),
        (
            CUTOVER + "test_ann_index_waits_for_all_partitions",
            DAGSTER + "test_the_ann_index_is_refused_while_partitions_are_missing",
        ),
        r"DID NOT RAISE|AssertionError: SerializableErrorInfo",
    ),
    Removal(
        "invalid_ann_index_is_kept",
        (Edit("stores/hnsw.py", "if found is not None and found.valid:", "if found is not None:"),),
        (CUTOVER + "test_broken_ann_index_is_repaired",),
        r"assert False",
    ),
)
