"""Local mode's collection, made to answer like the engine and fast enough for a fault campaign.

A guarded write names its points one by one: should=[must=[has_id, seq == n], ...]. Local mode tries every clause on every
point, which for 128 guards over 3,000 points takes two seconds. Here the clauses are looked up by the id they name. The
answer is the same: a clause whose `must` names other ids is false for this point, whatever else it says.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from qdrant_client import models
from qdrant_client.local.local_collection import DEFAULT_VECTOR_NAME, LocalCollection
from qdrant_client.local.payload_filters import check_filter, validate_filter
from qdrant_client.local.utils import normalize_point_id

# The engine writes vectors in portions of this many points, and stops after the portion with a missing one.
PORTION = 32


def conditions(clause: Any) -> list[Any]:
    """A clause of a filter as a list: one condition and a list of conditions mean the same on the wire."""
    if clause is None:
        return []
    return clause if isinstance(clause, list) else [clause]


def named_ids(condition: Any) -> set[Any] | None:
    """The only ids for which the condition can be true, or None when it does not name them."""
    if isinstance(condition, models.HasIdCondition):
        return {normalize_point_id(point) for point in condition.has_id}
    if not isinstance(condition, models.Filter):
        return None
    bounds = [named_ids(part) for part in conditions(condition.must)]
    alternatives = [named_ids(part) for part in conditions(condition.should)]
    if alternatives and all(part is not None for part in alternatives):
        bounds.append({point for part in alternatives if part is not None for point in part})
    known = [bound for bound in bounds if bound is not None]
    return set.intersection(*known) if known else None


class Narrowed:
    """A filter whose `should` is sorted by the ids it names, so that one point meets its own clauses only."""

    def __init__(self, whole: models.Filter) -> None:
        self.whole = whole
        self.by_id: dict[Any, list[Any]] = {}
        self.others: list[Any] = []
        for clause in conditions(whole.should):
            ids = named_ids(clause)
            if ids is None:
                self.others.append(clause)
            for point in ids or ():
                self.by_id.setdefault(point, []).append(clause)

    def at(self, point: Any) -> models.Filter:
        should = self.by_id.get(point, []) + self.others
        # An empty `should` would let everything through: a clause for other ids stays, and says no.
        return self.whole.model_copy(update={"should": should or conditions(self.whole.should)[:1] or None})


class NarrowedCollection(LocalCollection):
    """A collection of local mode with the filters above and the engine's half written batches."""

    order = random.Random(0)
    _last: Narrowed | None = None

    def _narrowed(self, whole: models.Filter) -> Narrowed:
        if self._last is None or self._last.whole is not whole:
            self._last = Narrowed(whole)
        return self._last

    def upsert(self, points: Any, update_filter: Any = None, update_mode: Any = None) -> None:
        """Decide for every point on what is stored before the batch, then write: the engine resolves conditions first.

        It shows when an id comes twice in one batch: both pass or none does, and the last one stays.
        """
        validate_filter(update_filter)
        for point in self._materialize_points(points):
            # Local mode takes any number for an id.
            if isinstance(point.id, int) and point.id < 0:
                raise ValueError(f"Point id {point.id} is not a valid UUID")
        asked = [self._validate_point(point) for point in self._materialize_points(points)]
        if not asked:
            raise ValueError("Empty update request")
        for point in [point for point in asked if self._passes(point.id, update_filter, update_mode)]:
            self._upsert_point(point)

    def _passes(self, point: Any, update_filter: Any, update_mode: Any) -> bool:
        at = self._existing_idx(point)
        if at is None:
            return bool(update_mode != models.UpdateMode.UPDATE_ONLY)
        if update_mode == models.UpdateMode.INSERT_ONLY:
            return False
        if update_filter is None:
            return True
        narrow = self._narrowed(update_filter).at(point)
        return bool(check_filter(narrow, self.payload[at], point, self._calculate_has_vector(at)))

    def _payload_and_non_deleted_mask(self, payload_filter: Any, vector_name: str | None = None) -> np.ndarray:
        ids = None if payload_filter is None else named_ids(payload_filter)
        if ids is None:
            return super()._payload_and_non_deleted_mask(payload_filter, vector_name)
        validate_filter(payload_filter)
        mask = np.zeros(len(self.payload), dtype=bool)
        for at in self._held(ids):
            point = self.ids_inv[at]
            narrow = self._narrowed(payload_filter).at(point)
            if vector_name is None or not self.deleted_per_vector[vector_name][at]:
                mask[at] = check_filter(narrow, self.payload[at], point, self._calculate_has_vector(at))
        return mask

    def _held(self, ids: Iterable[Any]) -> Iterator[int]:
        for point in ids:
            at = self._existing_idx(point)
            if at is not None:
                yield at

    def update_vectors(self, points: Sequence[Any], update_filter: Any = None) -> None:
        """Write portion after portion in no particular order, and stop behind the first portion with a missing id.

        The engine keeps the batch in a hash map, writes 32 points at a time, and raises when a portion was not written
        whole. What it had written until then stays. A guard does not take the missing ids out.
        """
        for point in points:
            self._validate_named_vectors(point.vector if isinstance(point.vector, dict) else {DEFAULT_VECTOR_NAME: point.vector})
        shuffled = list(points)
        self.order.shuffle(shuffled)
        for first in range(0, len(shuffled), PORTION):
            missing: Any = None
            for point in shuffled[first : first + PORTION]:
                narrow = None if update_filter is None else self._narrowed(update_filter).at(normalize_point_id(point.id))
                try:
                    super().update_vectors([point], narrow)
                except KeyError as absent:
                    missing = absent
            if missing is not None:
                raise missing
