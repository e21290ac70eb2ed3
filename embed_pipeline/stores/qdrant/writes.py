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
from embed_pipeline.stores.qdrant.ownership import Writer
from embed_pipeline.stores.qdrant.points import KEY, Content, PointId, Stored, as_read, stored

# Guards are one filter with a clause for each point. Strict mode of a server may allow fewer conditions; more cost time.
MOST_POINTS = 256


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
    with_vectors = vectors if isinstance(vectors, bool) else list(vectors)
    for start in range(0, len(ids), MOST_POINTS):
        portion = list(ids[start : start + MOST_POINTS])
        records = engine.call(
            lambda client, portion=portion, with_vectors=with_vectors: client.retrieve(  # type: ignore[misc]
                collection, portion, with_payload=True, with_vectors=with_vectors
            )
        )
        found.update((point.id, point) for point in map(stored, records))
    return found


def compare_and_set(writer: Writer, collection: str, version: str, changes: Sequence[Change], seq: int) -> set[PointId]:
    """Write every change whose point is as it was read; returns the ids of those that now stand there.

    `seq` must be a number that no other write has: it is how a write knows itself again. `version` is whose source_hash guards beside it.
    """
    written: set[PointId] = set()
    for start in range(0, len(changes), MOST_POINTS):
        portion = changes[start : start + MOST_POINTS]
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
    records = engine.call(lambda client: client.retrieve(collection, list(ids), with_payload=[f"{KEY}.seq"], with_vectors=False))
    return {point.id for point in map(stored, records) if point.seq == seq}
