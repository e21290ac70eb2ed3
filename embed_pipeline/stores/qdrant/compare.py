"""Verification: what Qdrant holds, read point by point and compared with every document. No flag is believed.

Qdrant and the ledger have no snapshot in common. So what differs at first is looked at again, point by point, and counts only when it
differs at every look: a document that was being written at the first one does not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from qdrant_client import models

from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import ranges
from embed_pipeline.documents.ranges import KeyRange
from embed_pipeline.documents.source import Source
from embed_pipeline.postgres.connection import unhurried
from embed_pipeline.signals import signal
from embed_pipeline.stores.protocol import Coverage
from embed_pipeline.stores.qdrant.configuration import params_of
from embed_pipeline.stores.qdrant.documents import queries
from embed_pipeline.stores.qdrant.engine import Engine
from embed_pipeline.stores.qdrant.ids import point_id
from embed_pipeline.stores.qdrant.place import Place
from embed_pipeline.stores.qdrant.points import KEY, Stored, stored
from embed_pipeline.stores.qdrant.writes import read_points

PAGE = 1_000
LOOKS = 4
LOOK_PAUSE_SECONDS = 0.05
# More differences than this are no matter of moments.
MOST_LOOKED_AT = 50_000

# A write of a deleted document that is still on its way is a request or a worker's batch, and neither lives this long.
TOMBSTONE_SECONDS = 600.0


def clock() -> float:
    """Seconds since 1970, for tombstones."""
    return time.time()


@contextmanager
def seen(conn: psycopg.Connection, engine: Engine, place: Place, version: Version) -> Iterator[None]:
    """A temporary table of every point that has the version's vector, for the length of the block."""
    conn.execute(queries("drop_seen"))
    conn.execute(queries("create_seen"))
    try:
        with conn.cursor() as cursor, cursor.copy(queries("copy_seen")) as copy:
            for point in _scroll(engine, place, vectors=version.is_chunked):
                copy.write_row(_row(point, place, version))
        conn.execute(queries("analyze_seen"))
        signal("qdrant.seen")
        yield
    finally:
        if not conn.closed:
            conn.execute(queries("drop_seen"))


def coverage(conn: psycopg.Connection, engine: Engine, place: Place, version: Version, source: Source) -> Coverage:
    """Compare every document with what was seen."""
    values = _values(version)
    comparison = _comparison(source, sql.SQL("false"))
    with unhurried(conn):
        row = conn.execute(queries("counts", compare=comparison, is_queued=queries("is_queued")), values).fetchone()
    assert row is not None
    documents, vectors, current, pending, dead = row
    first = _first_differences(conn, comparison, values)
    left = _differing_still(conn, engine, place, version, source, first)
    verdicts = list(left.values())
    samples = tuple(f"{doc_id} is {verdict}" for doc_id, verdict in sorted(left.items())[:5])
    return Coverage(
        documents=documents,
        vectors=vectors,
        # An orphan that is none at a second look was never a document.
        current=current + sum(verdict != "orphaned" for doc_id, verdict in first.items() if doc_id not in left),
        pending=pending,
        dead_letters=dead,
        missing=verdicts.count("missing"),
        stale=verdicts.count("stale"),
        orphaned=verdicts.count("orphaned"),
        wrong_chunks=verdicts.count("wrong_chunks"),
        samples=samples,
    )


def differences(
    conn: psycopg.Connection, engine: Engine, place: Place, version: Version, source: Source, unfilled: Sequence[KeyRange]
) -> set[str]:
    """Documents and orphans that differ and that no queued change is about; what `unfilled` ranges miss is left to the backfill."""
    values = _values(version)
    comparison = _comparison(source, ranges.within_any(source, unfilled, values))
    first = _first_differences(conn, comparison, values)
    left = set(_differing_still(conn, engine, place, version, source, first))
    parts = source.parts()
    query = queries("letters_of_nothing", documents=parts["documents"], key_is_wanted=parts["key_is_wanted"])
    with unhurried(conn):
        return left | {doc_id for (doc_id,) in conn.execute(query, values)}


def count(engine: Engine, place: Place) -> int:
    """Points that have the version's vector."""
    return engine.call(lambda client: client.count(place.collection, count_filter=_with_vector(place), exact=True).count)


def count_foreign(engine: Engine, place: Place, version: Version) -> int:
    """Points whose vector of this version is labelled with another model, model version or fingerprint, or with none."""
    label = {"fingerprint": version.fingerprint, "model_name": version.model_name, "model_version": version.model_version}
    beside = f"{KEY}.versions.{version.name}"
    own = models.Filter(
        must=[
            models.FieldCondition(key=f"{beside}.{name}", match=models.MatchValue(value=value)) for name, value in label.items()
        ]
    )
    foreign = models.Filter(must=[models.HasVectorCondition(has_vector=place.vector)], must_not=[own])
    return engine.call(lambda client: client.count(place.collection, count_filter=foreign, exact=True).count)


def has_vector(engine: Engine, place: Place) -> bool:
    """Whether the version's vector is still part of its collection."""
    return engine.call(lambda client: params_of(client.get_collection(place.collection), place.vector)) is not None


def further_vectors(engine: Engine, place: Place) -> frozenset[str]:
    """Names of the vectors that points of the collection can have beside the version's: of other models, or sparse ones."""
    params = engine.call(lambda client: client.get_collection(place.collection)).config.params
    dense = params.vectors if isinstance(params.vectors, dict) else {"": params.vectors}
    return frozenset({*dense, *(params.sparse_vectors or {})} - {place.vector})


def sweep_tombstones(engine: Engine, place: Place) -> None:
    """Remove the points of documents that were deleted long enough ago. The caller has made sure that nobody is writing."""
    old = models.Filter(must=[models.FieldCondition(key=f"{KEY}.deleted_at", range=models.Range(lt=clock() - TOMBSTONE_SECONDS))])
    engine.call(lambda client: client.delete(place.collection, points_selector=models.FilterSelector(filter=old), wait=True))


def _first_differences(conn: psycopg.Connection, comparison: sql.Composable, values: dict[str, Any]) -> dict[str, str]:
    with unhurried(conn):
        query = queries("differences", compare=comparison, is_queued=queries("is_queued"))
        return dict(conn.execute(query, values).fetchall())


def _differing_still(
    conn: psycopg.Connection, engine: Engine, place: Place, version: Version, source: Source, first: dict[str, str]
) -> dict[str, str]:
    left = dict(first)
    if len(left) > MOST_LOOKED_AT:
        return left
    for look in range(1, LOOKS):
        if not left:
            break
        time.sleep(LOOK_PAUSE_SECONDS * 2**look)
        again: dict[str, str] = {}
        ids = sorted(left)
        for start in range(0, len(ids), PAGE):
            again.update(_verdicts(conn, engine, place, version, source, ids[start : start + PAGE]))
        left = again
    return left


def _verdicts(
    conn: psycopg.Connection, engine: Engine, place: Place, version: Version, source: Source, doc_ids: Sequence[str]
) -> dict[str, str]:
    """Those of the documents that differ at this moment, with how."""
    points = read_points(engine, place.collection, [point_id(doc_id) for doc_id in doc_ids], vectors=[place.vector])
    signal("qdrant.looked")
    parts = source.parts()
    query = queries("expected", **{name: parts[name] for name in ("source_hash", "payload", "documents", "key_is_wanted")})
    found: dict[str, str] = {}
    for doc_id, digest, payload_hash, is_there, queued, dead in conn.execute(
        query, {**_values(version), "doc_ids": list(doc_ids)}
    ):
        point = points.get(point_id(doc_id))
        has = point is not None and place.vector in point.vectors
        verdict = _verdict(point if has else None, digest, payload_hash, bool(is_there), place, version)
        if verdict is not None and not queued and not (dead and verdict == "missing"):
            found[doc_id] = verdict
    return found


def _verdict(point: Stored | None, digest: str, payload_hash: str, is_there: bool, place: Place, version: Version) -> str | None:
    if not is_there:
        return None if point is None else "orphaned"
    if point is None:
        return "missing"
    _, source_hash, fingerprint, stored_payload, vectors, chunks = _row(point, place, version)
    if (source_hash, fingerprint, stored_payload) != (digest, version.fingerprint, payload_hash):
        return "stale"
    return None if vectors == chunks else "wrong_chunks"


def _row(point: Stored, place: Place, version: Version) -> tuple[str, str | None, str | None, str | None, int, int]:
    """(doc_id, source_hash, fingerprint, payload hash, vectors, chunks) of a point that has the version's vector."""
    doc_id = point.doc_id if point.doc_id is not None else str(point.id)
    found = point.versions.get(version.name, {})
    vectors = len(point.vectors[place.vector]) if version.is_chunked and place.vector in point.vectors else 1
    return doc_id, found.get("source_hash"), found.get("fingerprint"), point.payload_hash, vectors, int(found.get("chunks", 1))


def _scroll(engine: Engine, place: Place, *, vectors: bool) -> Iterator[Stored]:
    offset: Any = None
    while True:
        records, offset = engine.call(
            lambda client, start=offset: client.scroll(  # type: ignore[misc]
                place.collection,
                scroll_filter=_with_vector(place),
                limit=PAGE,
                offset=start,
                with_payload=[KEY],
                with_vectors=[place.vector] if vectors else False,
            )
        )
        yield from map(stored, records)
        if offset is None:
            return


def _with_vector(place: Place) -> models.Filter:
    return models.Filter(must=[models.HasVectorCondition(has_vector=place.vector)])


def _comparison(source: Source, is_unfilled: sql.Composable) -> sql.Composable:
    parts = source.parts()
    wanted = {name: parts[name] for name in ("doc_id", "source_hash", "payload", "documents")}
    return queries("compare", is_unfilled=is_unfilled, **wanted)


def _values(version: Version) -> dict[str, Any]:
    return {"index": version.index, "version": version.name, "fingerprint": version.fingerprint}
