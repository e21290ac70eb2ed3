"""Chunks: each protection taken out."""

from __future__ import annotations

from tests.mutations.removal import Edit, Removal
from tests.mutations.removals.where import CHUNKS

CHUNK_RACES = (
    Removal(
        "chunks_come_and_go_in_several_transactions",
        (
            Edit(
                "stores/pgvector.py",
                "        with self._unless_retired(), conn.transaction():\n            end_when_frozen(conn)",
                "        with self._unless_retired():\n            end_when_frozen(conn)",
            ),
        ),
        (
            CHUNKS + "test_dual_write_of_a_document_that_shrinks_or_grows[5-3]",
            CHUNKS + "test_backfill_shows_all_chunks_of_a_document_or_none",
        ),
        r"assert \[\(",
    ),
    Removal(
        "chunks_of_the_longer_text_stay",
        (
            Edit(
                "stores/pgvector.sql",
                "DELETE FROM {version_vectors} WHERE doc_id = ANY (%(doc_ids)s)",
                "DELETE FROM {version_vectors} WHERE doc_id = ANY (%(doc_ids)s) AND chunk < 3",
            ),
        ),
        (CHUNKS + "test_dual_write_of_a_document_that_shrinks_or_grows[5-3]",),
        r"assert \[\(|wrong_chunks=1",
    ),
    Removal(
        "poison_chunks_are_left_out",
        (Edit("migrate/embed.py", "rejected = _rejected_documents(answer, owners, split)", "rejected: dict[int, str] = {}"),),
        (
            CHUNKS + "test_one_poison_chunk_makes_a_dead_letter_of_the_whole_document",
            CHUNKS + "test_backfill_of_a_document_with_a_poison_chunk_writes_none_of_it",
        ),
        r"assert 0 == 1|assert \(1, 0\) == \(0, 1\)",
    ),
    Removal(
        "nearest_passages_are_asked_for_once",
        (Edit("stores/passages.py", "            if len(hits) >= k:\n", "            if True:\n"),),
        ("tests/stores/test_passages.py::test_k_documents_and_not_k_passages_of_one[None-False]",),
        r"assert \{'1'\}|AssertionError",
    ),
    Removal(
        "catalog_migration_waits_for_ever",
        (Edit("catalog/migrations/sql/0003_passages.sql", "    PERFORM set_config('lock_timeout', '2s', true);\n", ""),),
        ("tests/database/catalog/test_passages_migration.py::test_a_long_search_is_waited_for_and_others_are_let_through",),
        r"statement timeout",
    ),
)
