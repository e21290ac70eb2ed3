"""Compare-and-set on points: each is written only where it still is as it was read.

Two operations at most for a batch. New points go in by INSERT_ONLY, so that a point which appeared meanwhile keeps what it has. Points
that were there go in by UPDATE_ONLY under a guard of each one's own (`points.as_read`), so that whatever changed meanwhile stays. A
whole point is one atomic write in Qdrant (vector, provenance and payload together); partial updates are never used, because a batch of
them aborts half-way at the first id that is gone. Nothing is believed: what was written is read back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qdrant_client import QdrantClient, models

from embed_pipeline.signals import signal
from embed_pipeline.stores.qdrant.engine import Engine
from embed_pipeline.stores.qdrant.limits import Limits
from embed_pipeline.stores.qdrant.own_fields import KEY
from embed_pipeline.stores.qdrant.ownership import Writer
from embed_pipeline.stores.qdrant.points import Content, PointId, Stored, as_read, stored


@dataclass(frozen=True)
class Change:
    """What a point shall hold, and what was read of it. `read` None: there was no such point.

    `text_field`: payload field of the text of points that somebody else has made (`points.as_read`).
    """

    id: PointId
    content: Content
    read: Stored | None
    text_field: str | None = None


def read_points(
    engine: Engine, collection: str, ids: Sequence[PointId], *, vectors: bool | Sequence[str]
) -> dict[PointId, Stored]:
    """Those of the points that are there. `vectors`: all, none, or the named ones."""
    found: dict[PointId, Stored] = {}
    limits = engine.limits(collection)
    for start in range(0, len(ids), limits.points_per_read):
        records = _records(engine, limits, list(ids[start : start + limits.points_per_read]), True, vectors)
        found.update((point.id, point) for point in map(stored, records))
    return found


def _records(
    engine: Engine, limits: Limits, ids: list[PointId], payload: bool | list[str], vectors: bool | Sequence[str]
) -> list[models.Record]:
    """Those of the points that are there: by a scroll where reads are counted, since that counts ids as one condition."""
    with_vectors = vectors if isinstance(vectors, bool) else list(vectors)
    if not limits.reads_by_scroll:
        return engine.call(
            lambda client: client.retrieve(limits.collection, ids, with_payload=payload, with_vectors=with_vectors)
        )
    these = models.Filter(must=[models.HasIdCondition(has_id=list(ids))])
    return engine.call(
        lambda client: client.scroll(
            limits.collection, scroll_filter=these, limit=len(ids), with_payload=payload, with_vectors=with_vectors
        )
    )[0]


def compare_and_set(writer: Writer, collection: str, version: str, changes: Sequence[Change], seq: int) -> set[PointId]:
    """Write every change whose point is as it was read; returns the ids of those that now stand there.

    `seq` must be a number that no other write has: it is how a write knows itself again. `version` is whose source_hash guards beside it.
    """
    written: set[PointId] = set()
    most = writer.engine.limits(collection).points_per_write
    for start in range(0, len(changes), most):
        portion = changes[start : start + most]
        new = [change for change in portion if change.read is None]
        known = [change for change in portion if change.read is not None]
        if new:
            _insert(writer, collection, new, seq)
        signal("qdrant.inserted")
        if known:
            _update(writer, collection, version, known, seq)
        signal("qdrant.written")
        written |= _standing(writer.engine, collection, [change.id for change in portion], seq)
    return written


def _insert(writer: Writer, collection: str, changes: Sequence[Change], seq: int) -> None:
    points = [change.content.point(change.id, seq) for change in changes]

    def insert(client: QdrantClient) -> None:
        client.upsert(collection, points, wait=True, update_mode=models.UpdateMode.INSERT_ONLY)

    writer.write(collection, insert)


def _update(writer: Writer, collection: str, version: str, changes: Sequence[Change], seq: int) -> None:
    points = [change.content.point(change.id, seq) for change in changes]
    guard = models.Filter(should=[as_read(each.read, version, each.text_field) for each in changes if each.read is not None])

    def update(client: QdrantClient) -> None:
        client.upsert(collection, points, wait=True, update_filter=guard, update_mode=models.UpdateMode.UPDATE_ONLY)

    writer.write(collection, update)


def _standing(engine: Engine, collection: str, ids: Sequence[PointId], seq: int) -> set[PointId]:
    found: set[PointId] = set()
    limits = engine.limits(collection)
    for start in range(0, len(ids), limits.points_per_read):
        records = _records(engine, limits, list(ids[start : start + limits.points_per_read]), [f"{KEY}.seq"], False)
        found |= {point.id for point in map(stored, records) if point.seq == seq}
    return found
