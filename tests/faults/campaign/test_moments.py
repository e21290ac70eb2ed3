"""Workers that are held at exact moments of the code while the application goes on, judged by the campaign's oracle.

The random load of `test_campaign.py` meets these moments by chance; here each of them is met every time. After the first round come
others, with workers that are held up at other moments too.
"""

from __future__ import annotations

import pytest

from tests.faults.campaign import (
    moments_of_backfills,
    moments_of_chunks,
    moments_of_models,
    moments_of_moves,
    moments_of_operators,
    moments_of_payments,
    moments_of_registrations,
    moments_of_searchers,
    moments_of_tables,
    moments_of_waiting,
    moments_of_writes,
)
from tests.faults.campaign.faults import Freeze
from tests.faults.campaign.load import PLAIN
from tests.faults.campaign.stage import Stage
from tests.faults.campaign.test_campaign import Make, seeds

pytestmark = pytest.mark.soak

GROUPS = {
    "writes": moments_of_writes.SCENES,
    "backfills": moments_of_backfills.SCENES,
    "registrations": moments_of_registrations.SCENES,
    "moves": moments_of_moves.SCENES,
    "operators": moments_of_operators.SCENES,
    "searchers": moments_of_searchers.SCENES,
    "tables": moments_of_tables.SCENES,
    "waiting": moments_of_waiting.SCENES,
    "payments": moments_of_payments.SCENES,
    "models": moments_of_models.SCENES,
    "chunks": moments_of_chunks.SCENES,
}


# Of the other groups it is the plain one.
TABLES = {"tables": moments_of_tables.BY_TIME}
# Here capture is made to miss something.
DOUBTED = ("operators",)


@pytest.mark.parametrize("group", GROUPS)
def test_moments(campaign: Make, group: str) -> None:
    for number, seed in enumerate(seeds()):
        play(campaign, group, seed, pressed=number > 0)


def play(campaign: Make, group: str, seed: int, *, pressed: bool) -> None:
    """One scene after another, until somebody objects."""
    # A worker that is thrown out while it is frozen says so.
    excused = {"states": Freeze.states, "words": Freeze.words}
    table = TABLES.get(group, PLAIN)
    run = campaign(
        seed, keys=10, writers=0, readers=0, syncs=0, table=table, pressed=pressed, doubted=group in DOUBTED, **excused
    )
    run.start_load()
    stage = Stage(run)
    for scene in GROUPS[group]:
        scene(stage)
        stage.look()
        if run.disturbed() or stage.refused:
            break
    stage.leave()
    run.verdict()
