"""Qdrant's own load, as a signal for the throttle."""

from __future__ import annotations

import time

from qdrant_client import models

from embed_pipeline.spec import QdrantSpec
from embed_pipeline.stores.protocol import StorePressure
from embed_pipeline.stores.qdrant.engine import Engine


class Watch:
    """Reads one collection's signals. Remembers since when it has been optimizing."""

    def __init__(self, engine: Engine, collection: str, limits: QdrantSpec) -> None:
        self._engine = engine
        self._collection = collection
        self._limits = limits
        self._yellow_since: float | None = None

    def read(self) -> StorePressure:
        """One reading, and what it means. Raises StoreUnavailable when there is none."""
        patience = self._engine.busy_until - time.monotonic()
        if patience > 0:
            return StorePressure("wait", f"Qdrant asked to slow down (429) for another {patience:.0f} s")
        info = self._engine.call(lambda client: client.get_collection(self._collection))
        broken = self._broken(info)
        if broken is not None:
            return broken
        reasons = (self._yellow(info), self._update_queue(info), self._optimization_queue())
        return next((StorePressure("wait", reason) for reason in reasons if reason), StorePressure("go"))

    def _broken(self, info: models.CollectionInfo) -> StorePressure | None:
        if info.optimizer_status != models.OptimizersStatusOneOf.OK:
            words = getattr(info.optimizer_status, "error", info.optimizer_status)
            return StorePressure("stop", f"the optimizer of {self._collection} failed: {words}")
        if info.status == models.CollectionStatus.RED:
            return StorePressure("stop", f"collection {self._collection} is red")
        return None

    def _yellow(self, info: models.CollectionInfo) -> str:
        if info.status != models.CollectionStatus.YELLOW:
            self._yellow_since = None
            return ""
        self._yellow_since = self._yellow_since or time.monotonic()
        seconds = time.monotonic() - self._yellow_since
        if seconds <= self._limits.max_yellow_seconds:
            return ""
        return f"collection {self._collection} has been optimizing for {seconds:.0f} s, over max_yellow_seconds"

    def _update_queue(self, info: models.CollectionInfo) -> str:
        length = 0 if info.update_queue is None else info.update_queue.length
        if length <= self._limits.max_update_queue:
            return ""
        return f"{length} updates of {self._collection} are queued, over max_update_queue {self._limits.max_update_queue}"

    def _optimization_queue(self) -> str:
        if self._engine.is_local:
            return ""

        queued = self._engine.call(lambda client: client.get_optimizations(self._collection).summary.queued_points or 0)
        if queued <= self._limits.max_queued_points:
            return ""
        return f"{queued} points of {self._collection} wait for its optimizer, over max_queued_points {self._limits.max_queued_points}"
