"""Where a version's vectors are, and whether its collection is at rest."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from qdrant_client import models

from embed_pipeline.errors import StoreUnavailable
from embed_pipeline.stores.qdrant.engine import Engine

# Vectors are added and removed while no optimizer runs: Qdrant 1.18 could lose a vector that was added during one (its issue 9110), and
# the tests of 1.19 still name both operations as broken beside one.
GREEN_SECONDS = 120.0


@dataclass(frozen=True)
class Place:
    """A vector in a collection. `shared`: other versions live in the same points."""

    collection: str
    vector: str
    shared: bool


def wait_until_green(engine: Engine, collection: str, progress: Callable[[str, float], None] | None = None) -> None:
    """Return when no optimizer runs or waits. StoreUnavailable when that takes too long, or one has failed."""
    deadline = time.monotonic() + GREEN_SECONDS
    while True:
        info = engine.call(lambda client: client.get_collection(collection))
        if info.optimizer_status != models.OptimizersStatusOneOf.OK or info.status == models.CollectionStatus.RED:
            raise StoreUnavailable(
                f"Collection {collection} is {info.status.value}: {_optimizer_words(info)}.", next_step="Look at Qdrant's log."
            )
        if info.status in (models.CollectionStatus.GREEN, models.CollectionStatus.GREY):
            return
        if progress is not None:
            progress("optimizing", 0.0)
            deadline = float("inf")
        if time.monotonic() > deadline:
            raise StoreUnavailable(
                f"Collection {collection} was still {info.status.value} after {GREEN_SECONDS:.0f} s.",
                next_step="Run the same command again when its optimizers have finished.",
            )
        time.sleep(0.2)


def _optimizer_words(info: models.CollectionInfo) -> str:
    status = info.optimizer_status
    return str(getattr(status, "error", status)).rstrip(".")
