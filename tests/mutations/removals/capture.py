"""Change capture: each protection taken out."""

from __future__ import annotations

from tests.mutations.removal import Edit, Removal
from tests.mutations.removals.where import CAPTURE, COMPARISON, REVISITS

CAPTURE_RACES = (
    Removal(
        "registration_does_not_wait",
        (
            # CREATE TRIGGER takes the lock too, so replacing only the functions is what a version without a lock would do.
            Edit("documents/capture.py", 'conn.execute(queries("lock_documents", documents=source.identifier))', "pass"),
            Edit(
                "documents/capture.py",
                "    trigger = sql.Identifier(trigger_name(index, kind))\n",
                "    trigger = sql.Identifier(trigger_name(index, kind))\n"
                '    there = "SELECT 1 FROM pg_trigger WHERE tgrelid = %s::regclass AND tgname = %s"\n'
                "    if conn.execute(there, (table.as_string(conn), trigger_name(index, kind))).fetchone():\n"
                "        return\n",
            ),
        ),
        (CAPTURE + "test_registration_waits_for_writers_in_flight",),
        r"assert not True",
    ),
    Removal(
        "second_registration_is_an_error",
        (Edit("migrate/register.py", "        if versions_named(conn, index.name, name):\n", "        if False:\n"),),
        (CAPTURE + "test_two_processes_register_one_version",),
        r"the very space of a version|AssertionError",
    ),
    Removal(
        "versions_read_from_a_table",
        (
            Edit(
                "documents/capture.sql",
                ") AS changed CROSS JOIN unnest({versions}::text[]) AS live(version);\n\n-- name: delete_function",
                ") AS changed CROSS JOIN (SELECT v.version FROM embed_pipeline.index_versions v\n"
                "        WHERE v.index_name = {index} AND v.state <> 'retired') AS live(version);\n\n-- name: delete_function",
            ),
        ),
        (CAPTURE + "test_repeatable_read_writer_older_than_the_registration",),
        r"stale=1",
    ),
    Removal(
        "inline_delete_in_strict_transactions",
        (
            Edit(
                "documents/capture.sql",
                "there the queue alone carries the delete.\n"
                "    IF removed IS NOT NULL AND current_setting('transaction_isolation') = 'read committed' THEN",
                "there the queue alone carries the delete.\n    IF removed IS NOT NULL THEN",
            ),
        ),
        (CAPTURE + "test_strict_transactions_never_fail_because_of_us",),
        r"SerializationFailure",
    ),
    Removal(
        "lock_without_timeout",
        (
            Edit(
                "migrate/register.py",
                """conn.execute("SELECT set_config('lock_timeout', %s, true)", (f"{LOCK_TIMEOUT_MS}ms",))""",
                "pass",
            ),
        ),
        (CAPTURE + "test_writers_are_let_through_while_registration_waits",),
        r"LockNotAvailable",
    ),
    Removal(
        "update_trigger_with_a_column_list",
        (
            # A trigger with a column list cannot have transition tables: the row trigger takes the updates.
            Edit(
                "documents/capture.py",
                'STATEMENT_KINDS = ("insert", "update", "delete")',
                'STATEMENT_KINDS = ("insert", "delete")',
            ),
            Edit(
                "documents/capture.py",
                'for kind in (*STATEMENT_KINDS, "row", "truncate"):',
                'for kind in ("insert", "delete", "row", "truncate"):',
            ),
            Edit(
                "documents/capture.py",
                '_arm(conn, source.identifier, index, "row", "enable_replica")',
                '_arm(conn, source.identifier, index, "row")',
            ),
            Edit(
                "documents/capture.sql",
                "AFTER INSERT OR UPDATE OR DELETE ON {documents}",
                "AFTER UPDATE OF title, body ON {documents}",
            ),
        ),
        (CAPTURE + "test_trigger_fires_for_derived_column",),
        r"stale=1",
    ),
    Removal(
        "no_truncate_trigger",
        (
            Edit(
                "documents/capture.sql",
                "    {queue_orphans}\n    IF current_setting('transaction_isolation') = 'read committed' THEN\n"
                "        {delete_orphans}\n    END IF;\n",
                "",
            ),
        ),
        (CAPTURE + "test_truncate_is_seen",),
        r"assert \{",
    ),
    Removal(
        "no_trigger_for_replicated_changes",
        (
            Edit(
                "documents/capture.py",
                '_arm(conn, source.identifier, index, "row", "enable_replica")',
                '_arm(conn, source.identifier, index, "row")',
            ),
        ),
        (CAPTURE + "test_replicated_changes_are_seen",),
        r"stale=1",
    ),
    Removal(
        "statement_triggers_on_a_partitioned_table",
        (
            Edit(
                "documents/capture.py",
                '        _arm(conn, source.identifier, index, "row", "enable_always")\n',
                "        for kind in STATEMENT_KINDS:\n            _arm(conn, source.identifier, index, kind)\n"
                '        _arm(conn, source.identifier, index, "row", "enable_replica")\n',
            ),
            # The canary would notice: it is not what this removal is about.
            Edit("documents/capture.py", "    if arrived is False:\n", "    if False:\n"),
        ),
        (CAPTURE + "test_partitioned_table_with_direct_writes_and_attach",),
        r"stale=1",
    ),
    Removal(
        "no_truncate_trigger_on_partitions",
        (
            Edit(
                "documents/capture.py",
                '_arm(conn, sql.Identifier(schema, table), index, kind, "enable_always")',
                "pass",
            ),
        ),
        (CAPTURE + "test_partitioned_table_with_direct_writes_and_attach",),
        r"orphaned=",
    ),
    Removal(
        "settings_of_the_writers_session",
        (
            Edit(
                "documents/capture.sql",
                "SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC' SET intervalstyle = 'postgres'\n"
                "SET bytea_output = 'hex' SET extra_float_digits = 1 SET lc_monetary = 'C'",
                "SET search_path = pg_catalog, pg_temp",
            ),
        ),
        (CAPTURE + "test_keys_of_any_type",),
        r"(stale|missing|orphaned|pending)=|DatetimeFieldOverflow|InvalidDatetimeFormat",
    ),
    Removal(
        "settings_of_our_own_connections",
        (Edit("postgres/connection.py", " {_STABLE_TEXT}", ""),),
        ("tests/database/postgres/test_connection.py::test_key_text_does_not_depend_on_the_role",),
        r"assert \(",
    ),
    Removal(
        "deletes_wait_for_the_queue",
        (
            Edit(
                "documents/capture.sql",
                "DELETE FROM {version_documents} WHERE doc_id = ANY (removed);\nDELETE FROM {version_vectors} WHERE doc_id = ANY (removed);",
                "NULL;",
            ),
        ),
        (CAPTURE + "test_delete_removes_the_vectors_in_the_same_transaction",),
        r"assert '5' not in",
    ),
    Removal(
        "catalog_made_without_a_lock",
        (Edit("catalog/schema.py", "SELECT pg_advisory_lock(hashtextextended('embed_pipeline.schema', 0))", "SELECT 1"),),
        ("tests/database/catalog/test_states.py::test_schema_is_made_once_by_many",),
        r"Duplicate|UniqueViolation|already exists|LockNotAvailable|lock timeout|KeyError: '(script|config)'",
    ),
    Removal(
        "no_full_comparison",
        (Edit("migrate/verify.py", "index.store(version).enqueue_differences(conn, unfilled)", "0"),),
        (
            CAPTURE + "test_full_comparison_repairs_what_no_trigger_saw",
            CAPTURE + "test_full_comparison_finds_dead_letters_of_documents_that_are_gone",
            COMPARISON + "test_what_bypassed_capture_is_found_repaired_and_said",
        ),
        r"\{'v1': 0\}|AssertionError|assert",
    ),
    Removal(
        "truncate_leaves_dead_letters",
        (
            Edit(
                "documents/capture.sql",
                "SELECT l.doc_id FROM embed_pipeline.dead_letters l WHERE l.index_name = {index} AND l.version = {version}\n",
                "SELECT l.doc_id FROM embed_pipeline.dead_letters l WHERE false\n",
            ),
        ),
        (CAPTURE + "test_truncate_takes_dead_letters_along",),
        r"assert \[\('1',\)\] == \[\]",
    ),
    Removal(
        "full_comparison_queues_a_whole_new_version",
        (Edit("stores/pgvector.sql", "      AND NOT (v.doc_id IS NULL AND x.is_unfilled)\n", ""),),
        (REVISITS + "test_full_comparison_leaves_unfilled_partitions_to_the_backfill",),
        r"'v2': \d\d",
    ),
    Removal(
        "full_comparison_always_arms",
        (
            Edit("migrate/verify.py", "        if off:\n\n", "        if True:\n\n"),
            # So that the test ends soon.
            Edit("../tests/database/dagster_layer/test_comparison.py", "thread.join(timeout=60)", "thread.join(timeout=10)"),
        ),
        (COMPARISON + "test_armed_triggers_are_left_alone_and_long_writers_are_not_met",),
        r"assert \[\] == \[True\]|assert \[False\]",
    ),
)
