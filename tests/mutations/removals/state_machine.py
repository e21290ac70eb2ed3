"""The state machine of hypothesis: it can fail: each protection taken out."""

from __future__ import annotations

from tests.mutations.removal import Removal, edits_of
from tests.mutations.removals.capture import CAPTURE_RACES
from tests.mutations.removals.cutover import CUTOVER_RACES
from tests.mutations.removals.dual_write import NO_LOOK_AT_DOCUMENTS
from tests.mutations.removals.where import STATE_MACHINE

# That the state machine can fail, in each thing that it looks at.
STATE_MACHINE_CAN_FAIL = (
    Removal(
        "machine_writes_without_a_look_at_the_document",
        NO_LOOK_AT_DOCUMENTS,
        (STATE_MACHINE + "_for_long",),
        r"assert \{.* == set\(\)|assert \[|KeyError: '\d'",
    ),
    Removal(
        "machine_deletes_wait_for_the_queue",
        edits_of("deletes_wait_for_the_queue", CAPTURE_RACES),
        (STATE_MACHINE,),
        r"is deleted, and .* still finds it",
    ),
    Removal(
        "machine_cutover_does_not_drain",
        edits_of("cutover_does_not_drain", CUTOVER_RACES),
        (STATE_MACHINE + "_for_long",),
        r"assert \(frozenset\(\{",
    ),
)
