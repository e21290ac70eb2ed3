"""What a store outside PostgreSQL asks of everything above it: each protection taken out."""

from __future__ import annotations

from tests.mutations.removal import Edit, Removal
from tests.mutations.removals.where import ELSEWHERE, READERS, SEARCH, THROTTLE

STORE_RACES = (
    Removal(
        "no_trigger_before_truncate",
        (
            Edit(
                "documents/capture.py",
                'return ("truncate", "before_truncate") if any(version.documents is None for version in versions) else ("truncate",)',
                'return ("truncate",)',
            ),
        ),
        (
            ELSEWHERE + "test_truncate_queues_what_is_about_to_go",
            ELSEWHERE + "test_truncate_of_a_partition_queues_its_documents_alone",
            ELSEWHERE + "test_backfill_is_refused_without_the_trigger_before_truncate",
        ),
        r"assert \[\] == \[|UndefinedObject",
    ),
    Removal(
        "truncate_of_a_partition_attached_later",
        (
            Edit(
                "documents/capture.sql",
                "\n       OR NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = d.tableoid AND t.tgname = TG_NAME);",
                ";",
            ),
        ),
        (ELSEWHERE + "test_truncate_of_all_partitions_reaches_one_that_was_attached_later",),
        r"'150'",
    ),
    Removal(
        "trigger_before_truncate_is_not_missed",
        (
            Edit(
                "documents/capture.py",
                '    truncates = [(kind, "A") for kind in _truncate_kinds(versions)]\n',
                '    truncates = [("truncate", "A")]\n',
            ),
        ),
        (ELSEWHERE + "test_backfill_is_refused_without_the_trigger_before_truncate",),
        r"assert \[\] == \[",
    ),
    Removal(
        "payload_is_no_change",
        (Edit("documents/capture.py", "    if not any(version.payload for version in versions):\n", "    if True:\n"),),
        (
            ELSEWHERE + "test_changed_payload_is_a_change",
            ELSEWHERE + "test_replicated_change_of_the_payload_is_a_change",
        ),
        r"assert \[\] == \[|assert \(\[\], \[\]\) == ",
    ),
    Removal(
        "store_may_move",
        (Edit("migrate/register.py", "    if registered != declared:\n", "    if registered[:3] != declared[:3]:\n"),),
        ("tests/database/migrate/test_declared_store.py::test_another_place_for_the_vectors_is_refused",),
        r"DID NOT RAISE|CheckViolation",
    ),
    Removal(
        "cutover_that_is_done_tells_nobody",
        (
            Edit(
                "migrate/cutover.py",
                "            readers.tell(index)\n            raise CutoverRefused",
                "            raise CutoverRefused",
            ),
        ),
        (READERS + "test_cutover_that_died_before_it_told_is_told_by_the_same_command",),
        r"assert \('v1', 1\) == \('v2', 2\)",
    ),
    Removal(
        "full_comparison_tells_nobody",
        (Edit("migrate/verify.py", "    readers.tell(index)\n", ""),),
        (READERS + "test_store_that_cannot_be_told_leaves_the_move_standing_and_says_so",),
        r"assert \('v1', 1\) == \('v2', 2\)",
    ),
    Removal(
        "tellings_overtake_each_other",
        (Edit("migrate/readers.py", "        if row is not None and row[0]:\n", "        if row is not None:\n"),),
        (READERS + "test_late_telling_never_overtakes_a_newer_move",),
        r"assert \('v1', 1\) == \('v2', 2\)",
    ),
    Removal(
        "retire_tells_nobody",
        (Edit("migrate/retire.py", "        readers.tell(index)\n", ""),),
        (READERS + "test_retire_tells_before_it_drops",),
        r"assert \[.*'drop v1'",
    ),
    Removal(
        "store_that_is_away_ends_the_run",
        (
            Edit(
                "migrate/outage.py",
                "        if isinstance(problem, StoreUnavailable):\n            return True\n",
                "        if isinstance(problem, StoreUnavailable):\n            return False\n",
            ),
        ),
        ("tests/database/migrate/test_store_away.py::test_backfill_waits_for_its_store",),
        r"StoreUnavailable",
    ),
    Removal(
        "store_that_is_away_ends_the_throttle",
        (
            Edit(
                "migrate/throttle.py",
                "            except StoreUnavailable as problem:\n",
                "            except MemoryError as problem:\n",
            ),
        ),
        (THROTTLE + "test_a_store_that_does_not_answer_is_unknown_and_asked_again",),
        r"StoreUnavailable|AttributeError",
    ),
    Removal(
        "searcher_gives_up_on_a_retired_version",
        (Edit("search.py", "except (psycopg.errors.UndefinedTable, VersionRetired):", "except psycopg.errors.UndefinedTable:"),),
        (SEARCH + "test_retired_under_the_search",),
        r"VersionRetired",
    ),
)
