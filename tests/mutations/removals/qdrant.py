"""The protections of the Qdrant store, each taken out."""

from __future__ import annotations

from tests.mutations.removal import Edit, Removal

POINTS = "tests/races/test_point_races.py::"
LAYOUT = "tests/stores/qdrant/test_layout.py::"
ADOPT = "tests/stores/qdrant/test_adopt.py::"
ADOPT_RACES = "tests/races/test_adopt_races.py::"
STORE = "stores/qdrant/store.py"
WRITES = "stores/qdrant/writes.py"
COMPARE = "stores/qdrant/compare.py"

QDRANT_RACES = (
    Removal(
        "points_written_without_a_guard",
        (Edit(WRITES, "wait=True, update_filter=guard, update_mode", "wait=True, update_mode"),),
        (
            POINTS + "test_an_older_write_lands_after_a_newer_one",
            POINTS + "test_a_document_goes_a_second_time",
        ),
        r"assert '[0-9a-f.]+' == '[0-9a-f.]+'|assert '1' not in",
    ),
    Removal(
        "ledger_looked_at_before_the_points",
        (
            Edit(
                STORE,
                "        there = self._read(doc_ids, vectors=keep_own or self._has_further_vectors())\n",
                "        now = documents.look(conn, self.source, doc_ids)\n",
            ),
            Edit(
                STORE,
                "        now = documents.look(conn, self.source, doc_ids)\n        changes = {}\n",
                "        there = self._read(doc_ids, vectors=keep_own or self._has_further_vectors())\n        changes = {}\n",
            ),
        ),
        (POINTS + "test_the_ledger_is_looked_at_after_the_points",),
        r"assert '[0-9a-f.]+' == '[0-9a-f.]+'",
    ),
    Removal(
        "new_points_overwrite",
        (Edit(WRITES, "models.UpdateMode.INSERT_ONLY", "models.UpdateMode.UPSERT"),),
        (
            POINTS + "test_a_backfill_inserts_after_a_newer_write[local-collections]",
            POINTS + "test_a_backfill_inserts_a_deleted_document",
        ),
        r"assert '[0-9a-f.]+' == '[0-9a-f.]+'|assert '1' not in|assert \d+ == ",
    ),
    Removal(
        "what_was_written_is_believed",
        (
            Edit(
                WRITES,
                "        written |= _standing(engine, collection, [change.id for change in portion], seq)\n",
                "        written |= {change.id for change in portion}\n",
            ),
        ),
        (POINTS + "test_a_backfill_inserts_after_a_newer_write",),
        r"assert \d+ == ",
    ),
    Removal(
        "no_tombstones",
        (
            Edit(
                STORE,
                "                return _tombstone(doc_id)\n",
                "                return None if read is None else _tombstone(doc_id)\n",
            ),
        ),
        (POINTS + "test_a_backfill_inserts_a_deleted_document[local-collections]",),
        r"assert '1' not in",
        hangs=True,
        seconds=40.0,
    ),
    Removal(
        "settling_writes_nothing",
        (
            Edit(
                STORE,
                "            return self._document(doc_id, read, now)\n\n",
                "            unchanged.add(doc_id)\n            return None\n\n        unchanged: set[str] = set()\n",
            ),
            Edit(
                STORE,
                "        return self._acknowledge(conn, claim, written)\n\n    def _change",
                "        return self._acknowledge(conn, claim, written | unchanged)\n\n    def _change",
            ),
        ),
        (POINTS + "test_a_text_that_came_back_is_settled_while_a_worker_writes",),
        r"assert '[0-9a-f.]+' == '[0-9a-f.]+'",
    ),
    Removal(
        "rejecting_leaves_no_point",
        (
            Edit(
                STORE,
                "now.source_hash != letters[doc_id][0] or (claim is None and self._is_there(read)):\n                return None\n",
                "now.source_hash != letters[doc_id][0] or (claim is None and self._is_there(read)):\n                return None\n"
                "            if read is None:\n                absent.add(doc_id)\n                return None\n",
            ),
            Edit(
                STORE,
                "            emptied = self._change(conn, list(letters), decide)\n",
                "            absent: set[str] = set()\n            emptied = self._change(conn, list(letters), decide) | absent\n",
            ),
        ),
        (POINTS + "test_a_rejected_edit_beside_an_insert_on_its_way[local-collections]",),
        r"assert '1' not in",
    ),
    Removal(
        "letter_without_a_look_at_the_text",
        (
            Edit(
                STORE,
                "documents.unchanged(conn, self.source, {doc_id: letters[doc_id][0] for doc_id in mine})",
                "mine",
            ),
        ),
        (POINTS + "test_a_backfill_sets_aside_a_text_that_has_changed",),
        r"assert 1 == 0",
    ),
    Removal(
        "letter_without_the_claim",
        (
            Edit(STORE, "emptied if claim is None else set(queue.still_mine(conn, claim, emptied))", "emptied"),
            Edit(
                STORE,
                "documents.unchanged(conn, self.source, {doc_id: letters[doc_id][0] for doc_id in mine})",
                "mine",
            ),
        ),
        (POINTS + "test_a_letter_about_a_text_that_has_changed",),
        r"assert 1 == 0",
    ),
    Removal(
        "letters_forgotten_without_the_claim",
        (
            Edit(
                STORE,
                "            dead_letters.forget(conn, self.version.index, self.version.name, mine)\n",
                "            dead_letters.forget(conn, self.version.index, self.version.name, sorted(doc_ids))\n",
            ),
        ),
        (POINTS + "test_the_letter_of_another_worker_is_not_forgotten",),
        r"assert 0 == 1",
    ),
    Removal(
        "tombstones_swept_under_a_writer",
        (Edit("stores/qdrant/documents.py", "    alone = bool(row and row[0])\n", "    alone = True\n"),),
        (POINTS + "test_tombstones_are_not_swept_under_a_writer[local-collections]",),
        r"assert '1' not in",
    ),
    Removal(
        "tombstones_stay_for_ever",
        (Edit(STORE, "        if not found.differences:\n            self._sweep(conn)\n", ""),),
        (POINTS + "test_tombstones_go_once_a_version_is_verified",),
        r"assert \{",
    ),
    Removal(
        "one_look_decides",
        (Edit(COMPARE, "LOOKS = 4\n", "LOOKS = 1\n"),),
        (POINTS + "test_a_document_is_written_while_everything_is_compared",),
        r"assert \(\d+, \d+, \d+\) ==",
    ),
    Removal(
        "retired_neighbour_ends_the_write",
        (
            Edit(
                STORE,
                "                    if not self._has_vector():\n                        raise\n                    continue\n",
                "                    raise\n",
            ),
        ),
        (POINTS + "test_another_version_is_retired_between_reading_and_writing[local-named_vectors]",),
        r"assert 1 == 0",
    ),
    Removal(
        "neighbours_are_not_carried",
        (
            Edit(
                STORE,
                "        return self.place.shared or bool(self._further_vectors())\n",
                "        return False\n",
            ),
        ),
        ("tests/stores/test_conformance.py::test_two_workers_share_the_queue[local-named_vectors]",),
        r"is missing",
        hangs=True,
    ),
    Removal(
        "points_that_are_gone_are_written_as_if_there",
        (
            Edit(WRITES, "update_filter=guard, update_mode=models.UpdateMode.UPDATE_ONLY", "update_filter=guard"),
            Edit(
                WRITES,
                "        written |= _standing(engine, collection, [change.id for change in portion], seq)\n",
                "        written |= {change.id for change in portion if change.read is None}\n",
            ),
        ),
        (POINTS + "test_points_are_removed_by_somebody_else_while_they_are_written",),
        r".",
        hangs=True,
        seconds=40.0,
    ),
    Removal(
        "foreign_points_pass_for_ours",
        (
            Edit(
                COMPARE,
                '    if (source_hash, fingerprint, stored_payload) != (digest, version.fingerprint, payload_hash):\n        return "stale"\n',
                "",
            ),
        ),
        (POINTS + "test_a_writer_that_knows_nothing_of_us",),
        r"assert \(0, 1\) == \(1, 1\)",
    ),
    Removal(
        "the_payload_proves_a_vector",
        (
            Edit(
                COMPARE,
                "    return models.Filter(must=[models.HasVectorCondition(has_vector=place.vector)])\n",
                "    return models.Filter()\n",
            ),
        ),
        (POINTS + "test_a_vector_is_removed_and_its_provenance_stays",),
        r"assert 0 == 1",
    ),
    Removal(
        "a_short_batch_is_the_end",
        (
            Edit(
                STORE,
                "            if len(found) == limit or (whole and len(page) < size):\n",
                "            if found or (whole and len(page) < size):\n",
            ),
        ),
        (POINTS + "test_documents_go_while_a_backfill_reads_its_range",),
        r"assert \[",
    ),
    Removal(
        "client_imported_under_the_lock",
        (Edit("migrate/open_index.py", "    registry.load(spec.store)\n", ""),),
        (POINTS + "test_nothing_is_imported_under_the_documents_lock",),
        r"assert 1 == 0",
    ),
    Removal(
        "payload_changes_are_not_written",
        (
            Edit(
                STORE,
                "vectors, labels, payload=now.payload, ",
                "vectors, labels, payload=now.payload if read is None else read.payload, ",
            ),
        ),
        (POINTS + "test_payload_is_kept_in_step",),
        r"assert 0 == 42",
    ),
    Removal(
        "half_made_collection_stays_so",
        (
            Edit(
                "stores/qdrant/layout.py",
                "        if found is None:\n            # Another process may have made it by now.\n",
                "        if found is not None:\n            return\n        if found is None:\n",
            ),
        ),
        (LAYOUT + "test_a_collection_is_finished_when_its_maker_died",),
        r"KeyError: 'year'",
    ),
    Removal(
        "half_made_vector_stays_so",
        (
            Edit(
                "stores/qdrant/layout.py",
                "            _require_vector(found, place, version)\n        else:\n",
                "            _require_vector(found, place, version)\n            return\n        else:\n",
            ),
        ),
        (LAYOUT + "test_a_named_vector_is_finished_when_its_maker_died",),
        r"assert None is True",
    ),
    Removal(
        "drop_takes_the_alias_away",
        (
            Edit(
                "stores/qdrant/layout.py",
                "        if _behind(self._engine, self.alias) == place.collection:\n",
                "        if False:\n",
            ),
        ),
        (LAYOUT + "test_a_collection_that_readers_follow_is_not_dropped",),
        r"DID NOT RAISE",
    ),
    Removal(
        "refused_registration_holds_on",
        (Edit("migrate/open_index.py", "                index.close()\n                raise\n", "                raise\n"),),
        ("tests/stores/qdrant/test_engine.py::test_a_refused_registration_lets_go_of_local_mode",),
        r"assert <.*Engine|assert 2 == 1",
    ),
    Removal(
        "any_label_is_right",
        (
            Edit(
                COMPARE,
                "must=[models.HasVectorCondition(has_vector=place.vector)], must_not=[own])",
                "must=[own], must_not=[own])",
            ),
        ),
        (
            "tests/database/dagster_layer/test_qdrant.py::test_a_vector_with_another_label_fails_provenance[fingerprint-collections]",
        ),
        r"assert not True",
    ),
    Removal(
        "interrupted_retire_of_points_stays_interrupted",
        (
            Edit(
                STORE,
                "        except (CollectionGone, VectorGone):\n            return 0\n",
                "        except ZeroDivisionError:\n            return 0\n",
            ),
        ),
        ("tests/stores/qdrant/test_interrupted_retire.py::test_it_is_finished_by_the_same_command[local-collections]",),
        r"Gone|retired",
    ),
    Removal(
        "labels_without_vectors_are_carried",
        (
            Edit(
                STORE,
                '                if name == self.version.name or self._layout.vector_of(name, str(label.get("fingerprint"))) in vectors\n',
                "                if True\n",
            ),
        ),
        (POINTS + "test_a_neighbour_is_being_retired_while_its_points_are_read",),
        r"'v1'",
    ),
    Removal(
        "points_are_removed_in_a_transaction",
        (
            Edit("migrate/retire.py", "        if not store.tables():\n", "        if False:\n"),
            Edit("migrate/retire.py", "            if store.tables():\n", "            if True:\n"),
        ),
        ("tests/stores/qdrant/test_interrupted_retire.py::test_removing_the_vectors_takes_longer_than_a_process_may_freeze",),
        r"IdleInTransactionSessionTimeout",
    ),
    Removal(
        "alias_deleted_and_created",
        (
            Edit(
                "stores/qdrant/layout.py",
                "client.update_collection_aliases([operation])",
                "client.update_collection_aliases([models.DeleteAliasOperation("
                "delete_alias=models.DeleteAlias(alias_name=self.alias)), operation])",
            ),
        ),
        (POINTS + "test_one_operation_moves_the_alias",),
        r"assert|refused|Alias|alias",
    ),
    Removal(
        "adopted_points_are_not_guarded_by_their_text",
        (
            Edit(
                "stores/qdrant/points.py",
                "    if point.seq is None and text_field is not None and",
                "    if False and",
            ),
        ),
        (ADOPT_RACES + "test_a_point_edited_while_it_is_adopted_keeps_the_edit",),
        r"assert",
        seconds=300.0,
    ),
    Removal(
        "an_adoption_forgets_what_it_inserted",
        (Edit("documents/existing.sql", "WHERE %(again)s OR NOT EXISTS", "WHERE true OR %(again)s OR NOT EXISTS"),),
        (ADOPT_RACES + "test_a_document_deleted_between_two_runs_stays_deleted",),
        r"assert '[0-9a-f-]+' not in",
        seconds=300.0,
    ),
    Removal(
        "nothing_is_compared_after_an_adoption",
        (Edit("migrate/adopt.py", "    return index.store(version).enqueue_differences(conn, unfilled)\n", "    return 0\n"),),
        (ADOPT_RACES + "test_a_document_changed_in_the_table_during_adoption_is_brought_up_to_date",),
        r"assert 0 == 2",
        seconds=300.0,
    ),
    Removal(
        "a_version_is_registered_before_it_is_adopted",
        (Edit("migrate/register.py", "            if not adopted:\n", "            if False:\n"),),
        (ADOPT + "test_nothing_of_an_index_is_registered_before_it_is_adopted",),
        r"DID NOT RAISE",
        seconds=300.0,
    ),
    Removal(
        "adoptions_do_not_take_turns",
        (
            Edit(
                "migrate/adopt.py",
                "with Line(index, waiting, taken=_alone(index)) as line:",
                "with Line(index, waiting) as line:",
            ),
        ),
        (ADOPT_RACES + "test_two_adoptions_at_once_are_one",),
        r"DID NOT RAISE",
        seconds=300.0,
    ),
)
