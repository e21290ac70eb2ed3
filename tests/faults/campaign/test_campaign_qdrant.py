"""The same campaign with vectors in Qdrant, a server in a process of its own, the same load, the same oracle.

Of the two layouts a soak takes the one whose turn it is.

The engine behind it is qdrant-client's local mode, which `tests/harness/qdrant` holds against the real one. There is no auditor: Qdrant and the
ledger have no snapshot in common.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.campaign import scenes
from tests.faults.campaign.faults import BadModel, Fault, Freeze, Kill, KillChunked, Twins
from tests.faults.campaign.qdrant_faults import Away, Strange
from tests.faults.campaign.scenario import STEP_SECONDS, Campaign
from tests.faults.campaign.test_campaign import FROZEN_MS, one_migration, own_server, seeds  # noqa: F401  (own_server: fixture)
from tests.harness.qdrant.loopback import Loopback
from tests.harness.qdrant.strict import CLOUD
from tests.harness.strikes import in_turn

pytestmark = pytest.mark.soak

Make = Callable[..., Campaign]
LAYOUTS = ("collections", "named_vectors")


@pytest.fixture
def qdrant(tmp_path: Path) -> Iterator[Loopback]:
    """A server of this test's own, which keeps what it has written, as strict as Qdrant Cloud is."""
    with Loopback(tmp_path / "qdrant") as server:
        server.strict(**CLOUD)
        yield server


def stored_in(server: Loopback, layout: str, seed: int = 0) -> dict[str, Any]:
    return {
        "store": {"kind": "qdrant", "url": server.url, "layout": layout, "collection": f"round_{seed}"},
        "audited": False,
        # The server here is Python's, and takes some ten documents a second. A backfill yields while what serves is half a minute behind
        # (throttle.max_queue_age_seconds), so no more may wait than is done in less.
        "most_waiting": 100,
        "step_seconds": 5 * STEP_SECONDS,
    }


def faults(server: Loopback) -> dict[str, tuple[Callable[[], Fault], dict[str, Any]]]:
    return {
        "kill": (Kill, {}),
        "freeze": (Freeze, {"syncs": 2, "frozen_ms": FROZEN_MS}),
        "twins": (Twins, {"syncs": 2}),
        "bad_model": (BadModel, {}),
        "truncate": (Fault, {"truncates": True}),
        "chunked": (KillChunked, {"chunked": True}),
        "away": (lambda: Away(server=server), {"server_dies": True}),
        "strange": (lambda: Strange(server=server), {}),
    }


@pytest.mark.parametrize("layout", in_turn(LAYOUTS))
@pytest.mark.parametrize("name", ["kill", "freeze", "twins", "bad_model", "truncate", "chunked", "away", "strange"])
def test_many_migrations(campaign: Make, qdrant: Loopback, name: str, layout: str) -> None:
    """Whole migrations, struck at every step."""
    fault, options = faults(qdrant)[name]
    for seed in seeds():
        one_migration(campaign, fault(), seed, keys=200, **options, **stored_in(qdrant, layout, seed))


@pytest.mark.parametrize("layout", in_turn(LAYOUTS))
def test_rollbacks_lose_nothing(campaign: Make, qdrant: Loopback, layout: str) -> None:
    run = campaign(**stored_in(qdrant, layout))
    scenes.edits_then_rollback(run, rounds=2)
    run.verdict()


@pytest.mark.parametrize("layout", in_turn(LAYOUTS))
def test_capture_bypassed(campaign: Make, qdrant: Loopback, layout: str) -> None:
    run = campaign(**stored_in(qdrant, layout))
    scenes.bypassed(run, rounds=2)
    run.verdict()


@pytest.mark.parametrize("layout", in_turn(LAYOUTS))
def test_hot_documents(campaign: Make, qdrant: Loopback, layout: str) -> None:
    options = {"syncs": 3, "delay": 0.03, "states": Freeze.states, "frozen_ms": FROZEN_MS}
    run = campaign(keys=12, writers=3, **options, **stored_in(qdrant, layout))
    scenes.hot_documents(run, seconds=20.0)
    run.verdict()
