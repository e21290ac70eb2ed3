"""Verification: what Qdrant holds, read point by point and compared with every document. No flag is believed.

Qdrant and the ledger have no snapshot in common. So what differs at first is looked at again, point by point, and counts only when it
differs at every look: a document that was being written at the first one does not.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, NamedTuple

import psycopg
from psycopg import sql
from qdrant_client import models

from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import census
from embed_pipeline.documents.ranges import KeyRange
from embed_pipeline.documents.slices import read_by_id
from embed_pipeline.documents.source import Source
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.signals import signal
from embed_pipeline.stores import compare as sliced
from embed_pipeline.stores.protocol import Found, Labels
from embed_pipeline.stores.qdrant import payload_indexes
from embed_pipeline.stores.qdrant.configuration import params_of
from embed_pipeline.stores.qdrant.engine import Engine
from embed_pipeline.stores.qdrant.ids import point_id
from embed_pipeline.stores.qdrant.limits import IDS, PAGE
from embed_pipeline.stores.qdrant.own_fields import DELETED_AT, KEY, partition_of
from embed_pipeline.stores.qdrant.ownership import Writer
from embed_pipeline.stores.qdrant.place import Place
from embed_pipeline.stores.qdrant.points import PointId, Stored, stored
from embed_pipeline.stores.qdrant.portions import portions
from embed_pipeline.stores.qdrant.writes import read_points

queries = Queries(__file__, "compare.sql")

# Ids of points, read back from the temporary table.
PORTION = 5_000
LOOKS = 4
LOOK_PAUSE_SECONDS = 0.05
# Documents whose verdicts are found together.
LOOKED_AT = 1_000
# More differences than this are no matter of moments.
MOST_LOOKED_AT = 50_000
DIFFERENT = frozenset(("missing", "stale", "orphaned", "wrong_chunks"))

# A write of a deleted document that is still on its way is a request or a worker's batch, and neither lives this long.
TOMBSTONE_SECONDS = 600.0


def clock() -> float:
    """Seconds since 1970, for tombstones."""
    return time.time()


@contextmanager
def comparing(conn: psycopg.Connection, engine: Engine, place: Place, version: Version, source: Source) -> Iterator[Comparing]:
    """A comparison, with a temporary table for what is seen of the points, for the length of the block."""
    conn.execute(queries("drop_seen"))
    conn.execute(queries("create_seen"))
    try:
        yield Comparing(conn, engine, place, version, source)
    finally:
        if not conn.closed:
            conn.execute(queries("drop_seen"))


class Comparing:
    """Points are seen first, once. Then they are compared with the documents, and what differs is looked at again."""

    def __init__(self, conn: psycopg.Connection, engine: Engine, place: Place, version: Version, source: Source) -> None:
        self._conn = conn
        self._engine = engine
        self._place = place
        self._version = version
        self._source = source
        self._seen: set[PointId] = set()

    def see_everything(self) -> None:
        """Every point that has the version's vector."""
        for page in _scroll(self._engine, self._place, _with_vector(self._place), self._wanted_vectors()):
            self._copy(page)

    def see_documents(self, bounds: KeyRange) -> None:
        """The points of the documents of a range."""
        most = self._engine.limits(self._place.collection).ids_per_condition
        for ids in census.ids(self._conn, self._source, bounds):
            for start in range(0, len(ids), most):
                wanted = [point_id(doc_id) for doc_id in ids[start : start + most]]
                those = models.Filter(
                    must=[models.HasVectorCondition(has_vector=self._place.vector), models.HasIdCondition(has_id=wanted)]
                )
                for page in _scroll(self._engine, self._place, those, self._wanted_vectors()):
                    self._seen.update(point.id for point in page)
                    self._copy(page)

    def see_filled(self, partition: KeyRange) -> None:
        """What backfills of one partition have written and nobody since; also of documents that are gone."""
        number, field = int(partition.partition), partition_of(self._version.name)
        those: list[models.Condition] = [models.HasVectorCondition(has_vector=self._place.vector)]
        limits = self._engine.limits(self._place.collection)
        # Where somebody has dropped our index, every point is looked at.
        if limits.serves(field, ["integer"]) or not limits.filters_indexed_only:
            those.append(models.FieldCondition(key=field, match=models.MatchValue(value=number)))
        for page in _scroll(self._engine, self._place, models.Filter(must=those), self._wanted_vectors()):
            filled = [point for point in page if point.versions.get(self._version.name, {}).get("partition") == number]
            self._copy([point for point in filled if point.id not in self._seen])

    def vectors(self) -> int:
        """How many vectors were seen: of a point with passages as many as these."""
        return self._counted()[1]

    def _points(self) -> int:
        return self._counted()[0]

    def _counted(self) -> tuple[int, int]:
        row = self._conn.execute(queries("count_seen")).fetchone()
        assert row is not None
        return row[0], row[1]

    def _seen_ids(self) -> Iterator[list[str]]:
        """The ids of what was seen, in portions."""
        after: str | None = None
        while True:
            rows = self._conn.execute(queries("seen_ids"), {"after": after, "limit": PORTION})
            ids = [doc_id for (doc_id,) in rows]
            if ids:
                yield ids
            if len(ids) < PORTION:
                return
            after = ids[-1]

    def compare(self, ranges: Sequence[KeyRange], *, orphans: bool) -> Found:
        """Compare the documents of these ranges with what was seen; `orphans`: find also what was seen and is no document."""
        self._conn.execute(queries("index_seen"))
        self._conn.execute(queries("analyze_seen"))
        signal("qdrant.seen")
        parts = {name: self._source.parts()[name] for name in ("source_hash", "payload")}
        stored = sliced.Stored(
            relation=sql.SQL("pg_temp.embed_pipeline_seen"),
            differs=queries("differs", **parts),
            is_whole=sql.SQL("v.vectors = v.chunks"),
            is_counted=sql.SQL("v.doc_id IS NOT NULL"),
            values={"fingerprint": self._version.fingerprint},
        )
        comparison = sliced.Comparison(self._conn, self._source, self._version, stored)
        for each in ranges:
            comparison.documents(each)
        if orphans:
            # As many as were seen have met their documents: nothing else was seen.
            comparison.orphans(self._seen_ids() if comparison.counted < self._points() else ())
        self._look_again(comparison.found)
        return comparison.found

    def _wanted_vectors(self) -> list[str] | bool:
        """How many passages there are, only the vectors themselves tell."""
        return [self._place.vector] if self._version.is_chunked else False

    def _copy(self, page: list[Stored]) -> None:
        """In a transaction for each page: none is open while Qdrant is asked for the next one."""
        with self._conn.cursor() as cursor, cursor.copy(queries("copy_seen")) as copy:
            for point in page:
                copy.write_row(_row(point, self._place, self._version))

    def _look_again(self, found: Found) -> None:
        """Keep only what differs at every look."""
        left = found.different
        if len(left) > MOST_LOOKED_AT:
            return
        for look in range(1, LOOKS):
            if not left:
                break
            time.sleep(LOOK_PAUSE_SECONDS * 2**look)
            again: dict[str, str] = {}
            ids = sorted(left)
            for start in range(0, len(ids), LOOKED_AT):
                again.update(self._verdicts(ids[start : start + LOOKED_AT]))
            verdicts = Counter(again.values())
            found.current += verdicts["current"]
            found.dead += verdicts["dead"]
            found.pending += verdicts["pending"]
            left = {doc_id: verdict for doc_id, verdict in again.items() if verdict in DIFFERENT}
        found.different = left

    def _verdicts(self, doc_ids: Sequence[str]) -> dict[str, str]:
        """How each of the documents is at this moment; nothing about one of which there is nothing at all."""
        wanted = [point_id(doc_id) for doc_id in doc_ids]
        points = read_points(self._engine, self._place.collection, wanted, vectors=[self._place.vector])
        signal("qdrant.looked")
        parts = self._source.parts()
        wanted_parts = {name: parts[name] for name in ("source_hash", "payload", "documents")}
        values = {"index": self._version.index, "version": self._version.name, "doc_ids": list(doc_ids)}
        rows = read_by_id(
            self._conn, self._source, lambda matches: queries("expected", key_is_wanted=matches, **wanted_parts), values
        )
        found: dict[str, str] = {}
        for doc_id, pending, *expected in rows:
            point = points.get(point_id(doc_id))
            has = point is not None and self._place.vector in point.vectors
            verdict = _verdict(point if has else None, Expected(*expected), self._place, self._version)
            if verdict is not None:
                found[doc_id] = "pending" if pending and verdict in DIFFERENT else verdict
        return found


class Expected(NamedTuple):
    """A document as a second look finds it; its dead letter's hash, if there is one."""

    is_there: bool
    source_hash: str | None
    payload_hash: str | None
    letter: str | None


def stored_ids(engine: Engine, place: Place) -> Iterator[list[str]]:
    """The ids of the documents that have the version's vector, in portions."""
    for page in _scroll(engine, place, _with_vector(place), vectors=False, payload=[f"{KEY}.doc_id"]):
        yield [_doc_id(point) for point in page]


def written_since(engine: Engine, place: Place, version: Version, moment: datetime, limit: int) -> list[str]:
    """Ids of documents whose vector of this version was written after a moment."""
    field = f"{KEY}.versions.{version.name}.embedded_at"
    must: list[models.Condition] = [models.HasVectorCondition(has_vector=place.vector)]
    # The field has no index: where the server wants one for every filter, all points are looked at here.
    if not engine.limits(place.collection).filters_indexed_only:
        must.append(models.FieldCondition(key=field, range=models.DatetimeRange(gt=moment.astimezone(timezone.utc))))
    found: list[str] = []
    for page in _scroll(engine, place, models.Filter(must=must), vectors=False, payload=[f"{KEY}.doc_id", field]):
        found += [_doc_id(point) for point in page if _written(point, version) > moment]
        if len(found) >= limit:
            break
    return found[:limit]


def _written(point: Stored, version: Version) -> datetime:
    said = point.versions.get(version.name, {}).get("embedded_at")
    return datetime.min.replace(tzinfo=timezone.utc) if said is None else datetime.fromisoformat(said)


def count(engine: Engine, place: Place) -> int:
    """Points that have the version's vector. Where the server may not count exactly, their ids are read."""
    if engine.limits(place.collection).allows_exact:
        return engine.call(lambda client: client.count(place.collection, count_filter=_with_vector(place), exact=True).count)
    return sum(map(len, _scroll(engine, place, _with_vector(place), vectors=False, payload=False, most=IDS)))


def labels(engine: Engine, place: Place, version: Version) -> Labels:
    """How many points have the version's vector, and how many of these are labelled with another model, model version or fingerprint, or
    with none. Each is read: to ask for it takes an index over every point."""
    label = {"fingerprint": version.fingerprint, "model_name": version.model_name, "model_version": version.model_version}
    payload = [f"{KEY}.versions.{version.name}.{name}" for name in label]
    counted = foreign = 0
    for page in _scroll(engine, place, _with_vector(place), vectors=False, payload=payload):
        counted += len(page)
        found = [point.versions.get(version.name, {}) for point in page]
        foreign += sum(any(each.get(name) != value for name, value in label.items()) for each in found)
    return Labels(counted, foreign)


def has_vector(engine: Engine, place: Place) -> bool:
    """Whether the version's vector is still part of its collection."""
    return engine.call(lambda client: params_of(client.get_collection(place.collection), place.vector)) is not None


def further_vectors(engine: Engine, place: Place) -> frozenset[str]:
    """Names of the vectors that points of the collection can have beside the version's: of other models, or sparse ones."""
    params = engine.call(lambda client: client.get_collection(place.collection)).config.params
    dense = params.vectors if isinstance(params.vectors, dict) else {"": params.vectors}
    return frozenset({*dense, *(params.sparse_vectors or {})} - {place.vector})


def sweep_tombstones(writer: Writer, place: Place) -> None:
    """Remove the points of documents that were deleted long enough ago. The caller has made sure that nobody is writing."""
    if not writer.engine.is_local and DELETED_AT not in writer.engine.limits(place.collection).schema:
        payload_indexes.make(writer, place.collection, {DELETED_AT: models.PayloadSchemaType.FLOAT})
    old = models.FieldCondition(key=DELETED_AT, range=models.Range(lt=clock() - TOMBSTONE_SECONDS))

    def delete(these: list[models.Condition]) -> None:
        selector = models.FilterSelector(filter=models.Filter(must=[old, *these]))
        writer.write(place.collection, lambda client: client.delete(place.collection, points_selector=selector, wait=True))

    for these in portions(writer.engine, place.collection, models.Filter(must=[old])):
        delete(these)


def _verdict(point: Stored | None, expected: Expected, place: Place, version: Version) -> str | None:
    """The same as `stores/compare.sql` says of a document. `point` None: there is none with the version's vector."""
    if not expected.is_there:
        return None if point is None and expected.letter is None else "orphaned"
    if point is None:
        return "dead" if expected.letter == expected.source_hash else "missing"
    _, source_hash, fingerprint, payload_hash, vectors, chunks = _row(point, place, version)
    found = (source_hash, fingerprint, payload_hash)
    if expected.letter is not None or found != (expected.source_hash, version.fingerprint, expected.payload_hash):
        return "stale"
    return "current" if vectors == chunks else "wrong_chunks"


def _row(point: Stored, place: Place, version: Version) -> tuple[str, str | None, str | None, str | None, int, int]:
    """(doc_id, source_hash, fingerprint, payload hash, vectors, chunks) of a point that has the version's vector."""
    found = point.versions.get(version.name, {})
    vectors = len(point.vectors[place.vector]) if version.is_chunked and place.vector in point.vectors else 1
    return (
        _doc_id(point),
        found.get("source_hash"),
        found.get("fingerprint"),
        point.payload_hash,
        vectors,
        int(found.get("chunks", 1)),
    )


def _doc_id(point: Stored) -> str:
    """A point that no write of ours has touched is the document of its id."""
    return point.doc_id if point.doc_id is not None else str(point.id)


def _scroll(
    engine: Engine,
    place: Place,
    wanted: models.Filter,
    vectors: list[str] | bool,
    payload: bool | list[str] | None = None,
    most: int = PAGE,
) -> Iterator[list[Stored]]:
    offset: Any = None
    while True:
        records, offset = engine.call(
            lambda client, start=offset: client.scroll(  # type: ignore[misc]
                place.collection,
                scroll_filter=wanted,
                limit=engine.limits(place.collection).page(most),
                offset=start,
                with_payload=[KEY] if payload is None else payload,
                with_vectors=vectors,
            )
        )
        if records:
            yield list(map(stored, records))
        if offset is None:
            return


def _with_vector(place: Place) -> models.Filter:
    return models.Filter(must=[models.HasVectorCondition(has_vector=place.vector)])
