"""The dual-write: each protection taken out."""

from __future__ import annotations

from tests.mutations.removal import Edit, Removal
from tests.mutations.removals.where import ACKNOWLEDGE_BY_DOCUMENT, BACKFILL, CAMPAIGN, CHUNKS, DAGSTER, WRITE

# The write does not look at the document again: neither whether it is there nor whether it still has the text.
NO_LOOK_AT_DOCUMENTS = (
    Edit(
        "stores/pgvector.sql",
        "JOIN {documents} AS d ON {key_is_wanted}\nWHERE {source_hash} = w.source_hash\nORDER BY w.doc_id\nFOR KEY SHARE OF d SKIP LOCKED",
        "ORDER BY w.doc_id",
    ),
    Edit(
        "stores/pgvector.sql",
        "FROM wanted w JOIN {documents} AS d ON {key_is_wanted}\n"
        "    WHERE {source_hash} = w.source_hash\n    FOR KEY SHARE OF d SKIP LOCKED",
        "FROM wanted w",
    ),
)

# A change that comes while a worker holds its document goes to another worker.
CLAIMED_IN_PARTS = (
    Edit(
        "documents/queue.sql",
        "      AND NOT EXISTS (SELECT FROM embed_pipeline.change_queue held\n"
        "                      WHERE held.index_name = %(index)s AND held.version = %(version)s AND held.doc_id = q.doc_id\n"
        "                        AND held.leased_until >= clock_timestamp())\n",
        "",
    ),
    Edit("documents/queue.sql", "    HAVING count(*) = (SELECT count(*)", "    HAVING 0 <= (SELECT count(*)"),
)

DUAL_WRITE_RACES = (
    Removal(
        "writes_without_a_look_at_the_document",
        NO_LOOK_AT_DOCUMENTS,
        (
            WRITE + "test_read_update_write",
            WRITE + "test_read_delete_write",
            WRITE + "test_delete_reinsert_write",
            BACKFILL + "test_backfill_does_not_resurrect_a_deleted_document",
            CHUNKS + "test_the_chunks_change_while_they_are_embedded[embed.split-5-3]",
        ),
        r"assert [12] == [01]|assert '1' not in",
    ),
    Removal(
        "gone_is_believed",
        (
            Edit(
                "stores/pgvector.sql",
                " AND NOT EXISTS (SELECT FROM {documents} AS d WHERE {key_is_wanted})\n                 ORDER BY w.doc_id FOR UPDATE SKIP LOCKED)",
                "\n                 ORDER BY w.doc_id FOR UPDATE SKIP LOCKED)",
            ),
            *CLAIMED_IN_PARTS,
        ),
        (WRITE + "test_gone_then_back_while_a_worker_removes_it",),
        r"missing=1",
    ),
    Removal(
        "acknowledges_newer_changes",
        (ACKNOWLEDGE_BY_DOCUMENT,),
        (WRITE + "test_ack_does_not_remove_newer_request",),
        r"assert 2 == 1",
    ),
    Removal(
        "leases_never_run_out",
        (
            Edit(
                "documents/queue.sql",
                "AND (q.leased_until IS NULL OR q.leased_until < clock_timestamp())\n      AND NOT EXISTS",
                "AND q.leased_until IS NULL\n      AND NOT EXISTS",
            ),
        ),
        (WRITE + "test_claim_crash",),
        r"assert 1 == 0",
    ),
    Removal(
        "lease_is_not_looked_at",
        (
            Edit(
                "documents/queue.sql",
                "WHERE seq = ANY (%(seqs)s) AND lease_id = %(lease)s\nORDER BY seq FOR UPDATE SKIP LOCKED",
                "WHERE seq = ANY (%(seqs)s)\nORDER BY seq FOR UPDATE SKIP LOCKED",
            ),
        ),
        (WRITE + "test_lease_expires_while_alive",),
        r"assert 1 == 0",
    ),
    Removal(
        "queue_read_by_a_cursor",
        (
            Edit(
                "documents/queue.py",
                'queries = Queries(__file__, "queue.sql")\n',
                'queries = Queries(__file__, "queue.sql")\npassed: dict[str, int] = {}\n',
            ),
            Edit(
                "documents/queue.py",
                '"lease": lease, "seconds": lease_seconds}',
                '"lease": lease, "seconds": lease_seconds, "after": passed.get(version, 0)}',
            ),
            Edit(
                "documents/queue.py",
                "        seqs[doc_id].append(seq)\n",
                "        seqs[doc_id].append(seq)\n        passed[version] = max(passed.get(version, 0), seq)\n",
            ),
            Edit(
                "documents/queue.sql",
                "AND (q.leased_until IS NULL OR q.leased_until < clock_timestamp())\n      AND NOT EXISTS",
                "AND q.seq > %(after)s\n      AND NOT EXISTS",
            ),
        ),
        (WRITE + "test_low_seq_commits_late",),
        r"assert 1 == 0",
    ),
    Removal(
        "waits_for_the_application",
        (
            Edit(
                "stores/pgvector.sql",
                "WHERE {source_hash} = w.source_hash\nORDER BY w.doc_id\nFOR KEY SHARE OF d SKIP LOCKED",
                "WHERE {source_hash} = w.source_hash\nORDER BY w.doc_id\nFOR KEY SHARE OF d",
            ),
            # Not for ever, so that the test ends.
            Edit(
                "stores/pgvector.py",
                '        query = queries("lock_current", ',
                """        conn.execute("SELECT set_config('lock_timeout', '300ms', true)")\n        query = queries("lock_current", """,
            ),
        ),
        (WRITE + "test_worker_never_waits_for_the_application",),
        r"assert \(0, 2\) == \(1, 1\)",
    ),
    Removal(
        "versions_drained_one_after_another",
        (
            Edit(
                "migrate/dual_write.py",
                "list(pool.map(lambda version: _drain_isolated(index, version, deadline, waiting), live))",
                "[_drain_isolated(index, version, deadline, waiting) for version in reversed(live)]",
            ),
            Edit("migrate/dual_write.py", "        result.error = str(problem)\n", "        raise\n"),
        ),
        (
            WRITE + "test_candidates_failing_provider_never_delays_the_active_version",
            DAGSTER + "test_dual_write_of_a_broken_model_fails_and_the_other_version_is_written",
        ),
        r"the provider is down|assert \(0,\) == \(1,\)",
    ),
    Removal(
        "queue_row_goes_with_the_claim",
        (
            Edit(
                "migrate/dual_write.py",
                "        return queue.claim(conn, index.name, version.name, limit=BATCH, lease_seconds=LEASE_SECONDS)\n",
                "        claim = queue.claim(conn, index.name, version.name, limit=BATCH, lease_seconds=LEASE_SECONDS)\n"
                "        queue.acknowledge(conn, claim, claim.seqs)\n        return claim\n",
            ),
            Edit(
                "documents/queue.py",
                "    seqs = claim_.of(doc_ids)\n",
                "    return sorted(doc_ids)\n    seqs = claim_.of(doc_ids)\n",
            ),
        ),
        (CAMPAIGN + "test_migration[kill]",),
        r"\d+ problems",
    ),
    Removal(
        "documents_claimed_in_parts",
        CLAIMED_IN_PARTS,
        (WRITE + "test_a_document_is_claimed_whole_by_one_worker", WRITE + "test_text_comes_back_while_a_worker_writes"),
        r"'1'|stale=1",
    ),
    Removal(
        "set_aside_without_the_documents_row",
        (
            Edit(
                "stores/pgvector.py",
                "taken = self._take_rows(conn, EmbeddedBatch(ids, [letters[each][0] for each in ids], [1] * len(ids), NO_VECTORS))",
                "taken = set(ids)",
            ),
        ),
        (BACKFILL + "test_rejected_edit_beside_an_unfinished_insert",),
        r"assert '1' not in|AssertionError",
    ),
    Removal(
        "settled_without_the_lease",
        (Edit("stores/pgvector.py", "mine = queue.still_mine(conn, claim, claim.seqs)", "mine = list(claim.seqs)"),),
        (WRITE + "test_dead_letter_of_a_document_that_came_back",),
        r"AssertionError",
    ),
    Removal(
        "settled_beside_an_old_dead_letter",
        (
            Edit(
                "stores/pgvector.py",
                "            # Also of what stands there already: a backfill may have written it after its text was mended.\n"
                "            dead_letters.forget(conn, self.version.index, self.version.name, sorted(done))\n",
                "            dead_letters.forget(conn, self.version.index, self.version.name, gone)\n",
            ),
        ),
        (BACKFILL + "test_backfill_writes_a_document_whose_dead_letter_is_old",),
        r"assert \[\('1',\)\] == \[\]",
    ),
    Removal(
        "lease_is_not_renewed",
        (Edit("migrate/dual_write.py", "queue.renew(conn, claim, LEASE_SECONDS)", "None"),),
        (WRITE + "test_a_slow_provider_keeps_its_lease",),
        r"AssertionError|assert ",
    ),
    Removal(
        "frozen_writes_are_left_alone",
        (
            Edit(
                "postgres/connection.sql",
                "SELECT set_config('idle_in_transaction_session_timeout', %(milliseconds)s, true)",
                "SELECT %(milliseconds)s",
            ),
        ),
        (WRITE + "test_frozen_worker_is_thrown_out[replace.locked]",),
        r"QueryCanceled",
    ),
    Removal(
        "copy_under_the_locks_of_the_documents",
        (
            Edit(
                "stores/pgvector.py",
                "                self._copy(conn, batch)\n",
                "                self._lock_current(conn, dict(zip(batch.doc_ids, batch.hashes, strict=True)))\n"
                "                self._copy(conn, batch)\n",
            ),
        ),
        (WRITE + "test_frozen_in_its_copy_a_worker_holds_nobody_up",),
        r"QueryCanceled",
    ),
    Removal(
        "frozen_locks_are_left_alone",
        (
            Edit("migrate/register.py", "                end_when_frozen(conn)\n", ""),
            Edit("documents/capture.py", "        end_when_frozen(conn)\n        try:", "        try:"),
        ),
        (WRITE + "test_frozen_holder_of_a_documents_lock_is_thrown_out",),
        r"QueryCanceled",
    ),
    Removal(
        "rejected_text_keeps_its_old_vector",
        (
            Edit("stores/pgvector.py", "self._delete(conn, sorted(current))", "pass"),
            # Its row is not taken anew then, or the old one would be in the way for ever.
            Edit(
                "stores/pgvector.py",
                "taken = self._take_rows(conn, EmbeddedBatch(ids, [letters[each][0] for each in ids], [1] * len(ids), NO_VECTORS))\n"
                "            self._delete(conn, sorted(taken))\n",
                "taken = set(ids)\n",
            ),
        ),
        (WRITE + "test_rejected_edit_takes_the_old_vector_away",),
        r"stale=1|assert '4' not in",
    ),
)
