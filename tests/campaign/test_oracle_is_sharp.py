"""The campaign is run without a protection, one after another, and must fail: an oracle that is never seen to object proves nothing.

Every protection of tests/protections has its place in `sharpness.py`. docs/faults.md has what was measured.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from embed_pipeline.postgres import embedded
from tests.campaign.sharpness import CAUGHT, LEFT_OUT, NOT_RUN, NOT_SEEN, SOAKED
from tests.protections.patched import Preloaded
from tests.protections.removals import REMOVALS
from tests.protections.removals.elsewhere import STORE_RACES
from tests.protections.removals.qdrant import QDRANT_RACES
from tests.test_docs import functions_of

BY_NAME = {removal.name: removal for removal in REMOVALS}
# The campaign on Qdrant was not run without them, and that on pgvector has no part in them.
ELSEWHERE = {removal.name for removal in (*STORE_RACES, *QDRANT_RACES)}
SECONDS = 240.0


@pytest.mark.soak
@pytest.mark.parametrize("name", SOAKED)
def test_the_campaign_fails_without_the_protection(
    place: Path, preloaded: Preloaded, postgres_server: embedded.Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # The seed that it was seen to fail with, and one migration of it.
    monkeypatch.setenv("SOAK_SEED", "20")
    monkeypatch.setenv("SOAK_SECONDS", "1")
    scenario, sees = CAUGHT[name]
    BY_NAME[name].apply(place / "embed_pipeline")
    test = f"tests/campaign/test_campaign.py::{scenario}"
    run = preloaded.run(place, [test], postgres_server.log.parent, SECONDS)
    assert run.code == 1, run.output
    assert re.search(sees, run.output), f"it failed for another reason:\n{run.output}"


def test_every_protection_has_its_place_in_the_list() -> None:
    named = [*CAUGHT, *NOT_SEEN, *NOT_RUN, *LEFT_OUT]
    assert sorted(named) == sorted(BY_NAME.keys() - ELSEWHERE)
    assert set(SOAKED) <= set(CAUGHT)


def test_every_scenario_of_the_list_is_there() -> None:
    functions = functions_of(Path(__file__).with_name("test_campaign.py"))
    assert {scenario.partition("[")[0] for scenario, _ in CAUGHT.values()} <= set(functions)
