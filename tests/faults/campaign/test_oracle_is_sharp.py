"""The campaign is run without a protection, one after another, and must fail: an oracle that is never seen to object proves nothing.

Every protection of tests/mutations has its place in `sharpness.py`. Which of them a soak takes out says tests/mutations/chosen.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from embed_pipeline.postgres import embedded
from tests.faults.campaign.sharpness import BEHIND, CAUGHT, LEFT_OUT
from tests.mutations.chosen import chosen
from tests.mutations.patched import ROOT, Preloaded
from tests.mutations.removals import REMOVALS
from tests.mutations.removals.elsewhere import STORE_RACES
from tests.mutations.removals.qdrant import QDRANT_RACES
from tests.mutations.removals.together import TOGETHER
from tests.unit.test_docs import functions_of, tables

BY_NAME = {removal.name: removal for removal in (*REMOVALS, *TOGETHER)}
# The campaign on Qdrant was not run without them, and that on pgvector has no part in them.
ELSEWHERE = {removal.name for removal in (*STORE_RACES, *QDRANT_RACES)}
SECONDS = 120.0
# The seed that they were seen to fail with, and one migration of it. What hangs without its protection is not waited for as long.
SMALL = {"SOAK_SEED": "20", "SOAK_SECONDS": "0", "CAMPAIGN_STEP_SECONDS": "20"}


@pytest.mark.soak
@pytest.mark.parametrize("name", chosen(CAUGHT))
def test_the_campaign_fails_without_the_protection(
    place: Path, preloaded: Preloaded, postgres_server: embedded.Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for variable, value in SMALL.items():
        monkeypatch.setenv(variable, value)
    scenario, sees = CAUGHT[name]
    BY_NAME[name].apply(place / "embed_pipeline")
    run = preloaded.run(place, [scenario], postgres_server.log.parent, SECONDS)
    if run.code == 0 and not run.passed:
        pytest.skip("the scenario cannot be run here")
    assert run.code == 1, run.output
    assert re.search(sees, run.output), f"it failed for another reason:\n{run.output}"


def test_every_protection_has_its_place_in_the_list() -> None:
    assert sorted([*CAUGHT, *BEHIND, *LEFT_OUT]) == sorted(BY_NAME.keys() - ELSEWHERE)
    assert set(BEHIND.values()) <= {removal.name for removal in TOGETHER}


def test_every_scenario_of_the_list_is_there() -> None:
    for scenario, _ in CAUGHT.values():
        file, _, name = scenario.partition("[")[0].partition("::")
        assert name in functions_of(ROOT / file), scenario


def test_the_list_is_in_the_documentation() -> None:
    expected = [
        *([words(name), "fails", f"`{scenario.rpartition('::')[2]}`"] for name, (scenario, _) in CAUGHT.items()),
        *([words(name), "fails with the next one", f"see: {words(together)}"] for name, together in BEHIND.items()),
        *([words(name), "left out", why] for name, why in LEFT_OUT.items()),
    ]
    documented = [cells for heading, cells in tables(ROOT / "docs/faults.md") if heading == "Without a protection"]
    assert sorted(documented) == sorted(expected)


def words(name: str) -> str:
    return name.replace("_", " ")
