"""Points that were there before: found, read, and marked as a version's without a change of their vectors.

Which ones no write of ours has touched is seen by reading them: to ask for it takes a payload index over every point.

Also what a new collection takes over from the one beside it: vectors of a document that this package does not make.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from qdrant_client import models

from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents.existing import ExistingDocument
from embed_pipeline.stores.guarded.documents import Now
from embed_pipeline.stores.guarded.points import Change
from embed_pipeline.stores.qdrant.engine import CollectionGone, Engine
from embed_pipeline.stores.qdrant.ids import point_id
from embed_pipeline.stores.qdrant.limits import MOST_POINTS
from embed_pipeline.stores.qdrant.own_fields import KEY
from embed_pipeline.stores.qdrant.place import Place
from embed_pipeline.stores.qdrant.points import Content, PointId, Stored, provenance, stored
from embed_pipeline.stores.qdrant.writes import read_points


def page(engine: Engine, place: Place, text_field: str, after: PointId | None) -> tuple[list[ExistingDocument], PointId | None]:
    """Those of the next points that no write of ours has touched, from the point `after` on, and where to go on."""
    most = engine.limits(place.collection).page(MOST_POINTS)
    seen, following = _scroll(engine, place, after, most, _has_vector(place))
    untouched = [point.id for point in seen if point.seq is None]
    # Read anew, and whole: most of a later pass has been touched.
    found = read_points(engine, place.collection, untouched, vectors=False)
    documents = []
    for point in (found[each] for each in untouched if each in found and found[each].seq is None):
        payload = dict(point.payload)
        text = payload.pop(text_field, None)
        documents.append(ExistingDocument(str(point.id), text, payload))
    return documents, following


def count(engine: Engine, place: Place) -> tuple[int, int]:
    """(untouched points with the version's vector, untouched points without it)."""
    without = models.Filter(must_not=_has_vector(place).must)
    return _untouched(engine, place, _has_vector(place)), _untouched(engine, place, without)


def is_there(engine: Engine, place: Place) -> bool:
    """Whether there is a point with the version's vector that no write of ours has touched."""
    return next(_pages(engine, place, _has_vector(place)), 0) > 0


def vectors(engine: Engine, place: Place, doc_ids: Sequence[str]) -> dict[str, Any]:
    """The version's vector of each document that has one."""
    ids = {point_id(doc_id): doc_id for doc_id in doc_ids}
    found = read_points(engine, place.collection, list(ids), vectors=[place.vector])
    return {ids[each]: point.vectors[place.vector] for each, point in found.items() if place.vector in point.vectors}


def marked(version: Version, place: Place, text_field: str, doc_id: str, read: Stored | None, now: Now | None) -> Content | None:
    """The point with the version's provenance, all its vectors as read and its payload as the ledger has it.

    None for a point that is somebody's already, has no vector, or has another text than the document.
    """
    if read is None or read.seq is not None or place.vector not in read.vectors or now is None:
        return None
    text = read.payload.get(text_field)
    if text is not None and not isinstance(text, str):
        return None
    if now.source_hash != hashlib.sha256((text or "").encode()).digest():
        return None
    found = provenance(version, now.source_hash, 1)
    # When it was embedded, nobody has written down.
    found["adopted_at"] = found.pop("embedded_at")
    return Content(doc_id, read.vectors, {**read.versions, version.name: found}, now.payload, now.payload_hash)


def with_further(
    engine: Engine, beside: str | None, names: Collection[str], changes: Mapping[str, Change[Stored, Content]]
) -> Mapping[str, Change[Stored, Content]]:
    """The changes, where a new point has those vectors `names` that its document's point has in the collection `beside`.

    Nobody but the application makes them (sparse ones, those of other models), so a new collection can only take them over.
    """
    new = [point_id(doc_id) for doc_id, change in changes.items() if change.read is None and change.content.deleted_at is None]
    if beside is None or not new:
        return changes
    try:
        there = read_points(engine, beside, new, vectors=list(names))
    except CollectionGone:
        return changes
    return {doc_id: _carrying(change, there.get(point_id(doc_id))) for doc_id, change in changes.items()}


def _carrying(change: Change[Stored, Content], beside: Stored | None) -> Change[Stored, Content]:
    if beside is None or change.read is not None:
        return change
    content = replace(change.content, vectors={**beside.vectors, **change.content.vectors})
    return replace(change, content=content)


def _untouched(engine: Engine, place: Place, those: models.Filter) -> int:
    return sum(_pages(engine, place, those))


def _pages(engine: Engine, place: Place, those: models.Filter) -> Iterator[int]:
    """How many of each page no write of ours has touched; pages without one are passed by."""
    after: PointId | None = None
    while True:
        seen, after = _scroll(engine, place, after, engine.limits(place.collection).page(), those)
        untouched = sum(point.seq is None for point in seen)
        if untouched:
            yield untouched
        if after is None:
            return


def _scroll(
    engine: Engine, place: Place, after: PointId | None, most: int, those: models.Filter
) -> tuple[list[Stored], PointId | None]:
    """The next points with their seq and nothing else, and where to go on."""
    records, following = engine.call(
        lambda client: client.scroll(
            place.collection, scroll_filter=those, limit=most, offset=after, with_payload=[f"{KEY}.seq"], with_vectors=False
        )
    )
    # A server's ids are integers or texts; its models allow for more.
    return list(map(stored, records)), following if following is None or isinstance(following, int) else str(following)


def _has_vector(place: Place) -> models.Filter:
    return models.Filter(must=[models.HasVectorCondition(has_vector=place.vector)])
