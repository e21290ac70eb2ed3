"""The protections of docs/races.md, each taken out, with the tests that must then fail.

To add one: find the least edit that takes the protection out and leaves the code running, write a `Removal` for it in the file
of its heading in docs/races.md, and run `SOAK_WITHOUT=NAME pytest -m soak tests/mutations`. `old` must stand exactly once in its file, so take
enough of its line, and no more: an unmarked test says when a change of the package has moved it. `sees` is a part of what pytest
prints as the reason; copy it from the first run, and read there that the test failed for want of the protection. Where one
protection stands behind another, take out all of them in one removal. Every race has a removal that names one of its tests.

Name few and quick tests, and make one that would wait for what never comes give up soon by another edit: the removals share a server,
and a cutover there waits for every old transaction, of whatever database, for 30 s.
"""

from __future__ import annotations

from tests.mutations.removals.backfill import BACKFILL_RACES
from tests.mutations.removals.capture import CAPTURE_RACES
from tests.mutations.removals.chunks import CHUNK_RACES
from tests.mutations.removals.cutover import CUTOVER_RACES
from tests.mutations.removals.dagster_layer import DAGSTER_RACES
from tests.mutations.removals.dual_write import DUAL_WRITE_RACES
from tests.mutations.removals.elsewhere import STORE_RACES
from tests.mutations.removals.embedded import EMBEDDED_RACES
from tests.mutations.removals.providers import PROVIDER_RACES
from tests.mutations.removals.qdrant import QDRANT_RACES
from tests.mutations.removals.search import SEARCH_RACES
from tests.mutations.removals.server import SERVER_RACES
from tests.mutations.removals.state_machine import STATE_MACHINE_CAN_FAIL
from tests.mutations.removals.throttle import THROTTLE_RACES

REMOVALS = (
    *CAPTURE_RACES,
    *DUAL_WRITE_RACES,
    *BACKFILL_RACES,
    *SERVER_RACES,
    *CHUNK_RACES,
    *CUTOVER_RACES,
    *SEARCH_RACES,
    *STORE_RACES,
    *THROTTLE_RACES,
    *DAGSTER_RACES,
    *EMBEDDED_RACES,
    *QDRANT_RACES,
    *PROVIDER_RACES,
    *STATE_MACHINE_CAN_FAIL,
)
