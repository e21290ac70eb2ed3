"""Protections that stand behind each other, taken out together: without one of them the next one holds.

No single test is named for these; `tests/faults/campaign/sharpness.py` says which scenario of the campaign fails without them.
"""

from __future__ import annotations

from tests.mutations.removal import Edit, Removal, edits_of
from tests.mutations.removals.cutover import CUTOVER_RACES
from tests.mutations.removals.dagster_layer import DAGSTER_RACES

TOGETHER = (
    Removal(
        "two_movers_and_no_compare_and_set",
        (
            *edits_of("two_movers", CUTOVER_RACES),
            *edits_of("no_compare_and_set", CUTOVER_RACES),
            # The generation in the statement that moves the pointer, and the trigger of the catalog.
            Edit(
                "catalog/queries.sql",
                "WHERE index_name = %(index)s AND generation = %(generation)s\n",
                "WHERE index_name = %(index)s\n",
            ),
            *edits_of("pointer_moved_by_hand", CUTOVER_RACES),
        ),
        (),
        "",
    ),
    Removal(
        "mark_is_not_waited_for_and_flip_does_not_look_again",
        (
            *edits_of("mark_is_not_waited_for", CUTOVER_RACES),
            *edits_of("flip_does_not_look_again", CUTOVER_RACES),
            # The trigger of the catalog.
            *edits_of("cutover_does_not_drain", CUTOVER_RACES)[2:],
        ),
        (),
        "",
    ),
    Removal(
        "cutover_does_not_ask_for_evidence_and_pointer_moved_by_hand",
        (
            *edits_of("cutover_does_not_ask_for_evidence", DAGSTER_RACES),
            # The trigger of the catalog.
            *edits_of("pointer_moved_by_hand", CUTOVER_RACES),
        ),
        (),
        "",
    ),
)
