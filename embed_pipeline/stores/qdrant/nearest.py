"""Search in one version's vectors: those of its collection and its vector name, and no others, and of no document that is gone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import psycopg
from psycopg import sql
from qdrant_client import models

from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import filters
from embed_pipeline.documents.filters import Filters
from embed_pipeline.documents.selection import EVERYTHING, Document, Selection, Shown
from embed_pipeline.documents.source import Source
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.signals import signal
from embed_pipeline.stores.distances import distances_to
from embed_pipeline.stores.protocol import Hit
from embed_pipeline.stores.qdrant.engine import Engine
from embed_pipeline.stores.qdrant.filters import payload_filter
from embed_pipeline.stores.qdrant.ids import point_id
from embed_pipeline.stores.qdrant.limits import Limits
from embed_pipeline.stores.qdrant.own_fields import KEY
from embed_pipeline.stores.qdrant.place import Place
from embed_pipeline.stores.qdrant.points import PointId, stored
from embed_pipeline.stores.qdrant.scanning import hit_of, scan

queries = Queries(__file__, "nearest.sql")

# By how much more is asked for when too many of the hits are gone.
MORE = 4
# So few documents are compared one by one: after a TRUNCATE.
FEW = 10_000

Ask = Callable[[int, list[PointId] | None], list[Hit]]
"""So many of the nearest hits; of these points alone, if some are named."""


class Nearest:
    """Searches one version. Thread-safe."""

    def __init__(self, engine: Engine, place: Place, version: Version, source: Source) -> None:
        self._engine = engine
        self._place = place
        self._version = version
        self._source = source
        self._filters = Filters(source)
        self._shown = Shown(source)

    def search(self, conn: psycopg.Connection, query: Vectors, k: int, *, exact: bool, among: Selection) -> list[Hit]:
        """The `k` nearest documents of the selection, nearest first; fewer only where there are no more."""
        # Read anew each time: no condition of Qdrant fails when the column behind a field has another type by now.
        self._filters.forget()
        wanted = self._filters.read(
            conn, among.where, among=self._source.payload_columns, object_keys=self._source.payload_object is not None
        )
        condition = self._condition(wanted) if wanted else None
        # Of the documents themselves, for what is shown of them: a payload follows its document a moment later.
        of_columns = tuple(each for each in wanted if each.column.kind != "json")

        def ask(asked: int, ids: list[PointId] | None) -> list[Hit]:
            if exact and not self._limits().allows_exact:
                return scan(self._engine, self._place, self._version, np.atleast_2d(query), asked, _within(condition, ids))[0]
            return self._ask(query, asked, exact, condition, ids)

        return self._settled(conn, ask, k, among, of_columns)

    def search_exact(self, conn: psycopg.Connection, queries: Vectors, k: int) -> list[list[Hit]]:
        """The `k` nearest documents to each query, compared with every vector: by the server, or here where it does not do that."""
        if self._limits().allows_exact:
            return [self.search(conn, query, k, exact=True, among=EVERYTHING) for query in queries]

        @cache
        def scanned(asked: int) -> list[list[Hit]]:
            return scan(self._engine, self._place, self._version, queries, asked, None)

        return [
            self._settled(conn, lambda asked, _, number=number: scanned(asked)[number], k, EVERYTHING, ())  # type: ignore[misc]
            for number in range(len(queries))
        ]

    def _limits(self) -> Limits:
        return self._engine.limits(self._place.collection)

    def _condition(self, wanted: tuple[filters.Condition, ...]) -> models.Filter:
        try:
            return payload_filter(wanted, self._limits())
        except ConfigurationError:
            # The index may have been made just now.
            return payload_filter(wanted, self._engine.limits(self._place.collection, afresh=True))

    def _settled(
        self, conn: psycopg.Connection, ask: Ask, k: int, among: Selection, of_columns: tuple[filters.Condition, ...]
    ) -> list[Hit]:
        """The `k` nearest that are there: more is asked for while some of those found are gone."""
        asked = k
        ids: list[PointId] | None = None
        looked = False
        while True:
            found = ask(asked, ids)
            signal("search.found")
            gone = self._gone(conn, [hit.doc_id for hit in found])
            hits = self._visible(conn, [hit for hit in found if hit.doc_id not in gone], k, among, of_columns)
            if len(hits) >= k or len(found) < asked:
                return hits[:k]
            if not looked:
                # After a TRUNCATE nearly all may be gone: what is there is compared where that is little.
                looked = True
                ids = self._present(conn)
            asked *= MORE

    def distances(self, conn: psycopg.Connection, query: Vectors, doc_ids: Sequence[str]) -> dict[str, float]:
        """How far these documents are, of those that are here and up to date.

        What waits is asked for before the points: what is worked off in between has then been written, and is read as it is now.
        """
        values = {"index": self._version.index, "version": self._version.name, "doc_ids": list(doc_ids)}
        try:
            waiting = {doc_id for (doc_id,) in conn.execute(queries("waiting"), values)}
        except psycopg.errors.InsufficientPrivilege as problem:
            raise may_not_search(problem) from problem
        signal("distances.waiting")
        wanted = {point_id(doc_id): doc_id for doc_id in doc_ids if doc_id not in waiting}
        if not wanted:
            return {}
        these = _within(None, list(wanted))
        if not self._limits().allows_exact:
            scanned = scan(self._engine, self._place, self._version, np.atleast_2d(query), len(wanted), these)[0]
            return {hit.doc_id: hit.distance for hit in scanned if not math.isnan(hit.distance)}
        found = self._points(query, len(wanted), True, these, with_payload=False)
        apart = [(wanted[_id(point)], _distance(self._version.distance, point.score)) for point in found]
        return {doc_id: distance for doc_id, distance in apart if not math.isnan(distance)}

    def _visible(
        self, conn: psycopg.Connection, hits: list[Hit], k: int, among: Selection, conditions: tuple[filters.Condition, ...]
    ) -> list[Hit]:
        """Those whose documents the reader sees, with what is asked of them; all of them where no document is looked at."""
        if among.columns is None and not among.visible_only:
            return hits
        values: dict[str, Any] = {}
        condition = filters.as_sql(conditions, values)
        kept: list[Hit] = []
        for start in range(0, len(hits), k):
            portion = hits[start : start + k]
            found = self._read(conn, [hit.doc_id for hit in portion], among, condition, values)
            seen = [hit for hit in portion if hit.doc_id in found]
            kept += seen if among.columns is None else [hit._replace(document=found[hit.doc_id]) for hit in seen]
            if len(kept) >= k:
                break
        return kept[:k]

    def _read(
        self, conn: psycopg.Connection, doc_ids: list[str], among: Selection, condition: sql.Composable, values: dict[str, Any]
    ) -> dict[str, Document]:
        try:
            return self._shown.read(conn, doc_ids, among, condition, values)
        except psycopg.errors.InsufficientPrivilege as problem:
            raise ConfigurationError(
                f"This role may not read the documents: {problem.diag.message_primary}.",
                next_step=f"Grant it SELECT on {self._source}.",
            ) from problem
        except psycopg.errors.UndefinedColumn as problem:
            raise ConfigurationError(
                f"{self._source} has no such column: {problem.diag.message_primary}.", next_step="Ask for its columns."
            ) from problem

    def _ask(
        self, query: Vectors, limit: int, exact: bool, condition: models.Filter | None, among: list[PointId] | None
    ) -> list[Hit]:
        hits: dict[str, Hit] = {}
        for point in self._points(query, limit, exact, _within(condition, among)):
            hit = _hit(point, self._place, self._version, query)
            # Between two pages a document may have moved.
            hits.setdefault(hit.doc_id, hit)
        return sorted(hits.values(), key=lambda hit: hit.distance)

    def _points(
        self, query: Vectors, limit: int, exact: bool, wanted: models.Filter | None, *, with_payload: bool = True
    ) -> list[models.ScoredPoint]:
        """The nearest points, in pages of what the collection gives at once."""
        values = np.asarray(query, dtype=np.float32).tolist()
        limits = self._limits()
        params = self._params(limits, limit, exact)
        points: list[models.ScoredPoint] = []
        most = limits.page(limit)
        for offset in range(0, limit, most):
            page = min(most, limit - offset)
            found = self._engine.call(
                lambda client, page=page, offset=offset: (  # type: ignore[misc]
                    client.query_points(
                        self._place.collection,
                        query=[values] if self._version.is_chunked else values,
                        using=self._place.vector or None,
                        limit=page,
                        offset=offset or None,
                        query_filter=wanted,
                        search_params=params,
                        with_payload=[KEY] if with_payload else False,
                        # Which passage of a document was the nearest, Qdrant does not say.
                        with_vectors=[self._place.vector] if with_payload and self._version.is_chunked else False,
                    ).points
                )
            )
            points += found
            if len(found) < page:
                break
        return points

    def _params(self, limits: Limits, limit: int, exact: bool) -> models.SearchParams | None:
        """As every reader of this version searches, the gate included."""
        if self._engine.is_local:
            # It compares with everything, and warns about parameters that it does not use.
            return None
        declared = self._version.declared
        ef_search = limits.ef(max(limit, declared.hnsw.ef_search))
        return models.SearchParams(
            exact=exact, hnsw_ef=None if exact else ef_search, **declared.store_config.get("search_params", {})
        )

    def _gone(self, conn: psycopg.Connection, doc_ids: list[str]) -> set[str]:
        """Every hit is looked up: a writer that was frozen may have brought back what nothing announces any more."""
        if not doc_ids:
            return set()
        values = {"index": self._version.index, "version": self._version.name, "doc_ids": doc_ids}
        try:
            row = conn.execute(queries("gone_hits"), values).fetchone()
        except psycopg.errors.InsufficientPrivilege as problem:
            raise may_not_search(problem) from problem
        assert row is not None
        return set(row[0])

    def _present(self, conn: psycopg.Connection) -> list[PointId] | None:
        function = sql.Identifier("embed_pipeline", f"present_{self._version.index}")
        most = min(FEW, self._limits().strict.condition_max_size or FEW)
        row = conn.execute(queries("present", function=function), {"most": most}).fetchone()
        return None if row is None or row[0] is None else [point_id(doc_id) for doc_id in row[0]]


def _within(condition: models.Filter | None, ids: list[PointId] | None) -> models.Filter | None:
    if ids is None:
        return condition
    must: list[models.Condition] = [models.HasIdCondition(has_id=ids)]
    return models.Filter(must=must if condition is None else [*must, condition])


def may_not_search(problem: psycopg.errors.InsufficientPrivilege) -> ConfigurationError:
    """What a role is told that lacks a right on our tables."""
    return ConfigurationError(
        f"This role may not search here: {problem.diag.message_primary}.",
        next_step="Grant it SELECT on all tables of the schema embed_pipeline.",
    )


def _id(point: models.ScoredPoint) -> PointId:
    return point.id if isinstance(point.id, int) else str(point.id)


def _hit(point: models.ScoredPoint, place: Place, version: Version, query: Vectors) -> Hit:
    read = stored(models.Record(id=point.id, payload=point.payload, vector=point.vector))
    distance = _distance(version.distance, point.score)
    if not version.is_chunked or place.vector not in read.vectors:
        return hit_of(read, version, 0, distance)
    rows = np.asarray(read.vectors[place.vector], dtype=np.float32)
    chunk = int(np.argmin(distances_to(rows, query, version.distance)))
    return hit_of(read, version, chunk, distance)


def _distance(kind: str, score: float) -> float:
    """Qdrant's score as a distance of which smaller is nearer, the same number that pgvector gives."""
    if kind == "l2":
        return score
    return -score if kind == "inner_product" else 1.0 - score
