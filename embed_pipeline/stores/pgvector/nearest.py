"""Search in a version's table: the k nearest documents, and none that is gone.

The ANN index knows vectors: it is asked for more and more of them until they are of k documents that are there. When it has no more to
give and they are not, every vector is compared, so that k documents are found wherever there are k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence, Set
from typing import Any, Literal, TypeVar

import numpy as np
import psycopg
from pgvector import HalfVector, Vector
from psycopg import sql

from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import filters
from embed_pipeline.documents.filters import Filters
from embed_pipeline.documents.selection import Selection, Shown
from embed_pipeline.documents.source import Source
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.postgres import failures
from embed_pipeline.postgres.connection import vector_schema
from embed_pipeline.postgres.queries import Queries, with_parameters
from embed_pipeline.signals import signal
from embed_pipeline.stores.protocol import Hit

queries = Queries(__file__, "pgvector.sql")

OPERATORS = {"cosine": "<=>", "inner_product": "<#>", "l2": "<->"}
# Passages asked for in the first try, for each document wanted, and by how much more in each further one.
FIRST, MORE = 4, 4
# By how much more at most, while hits are gone, in the first try.
MOST_BEGIN = MORE**2
# What pgvector allows for hnsw.ef_search.
MOST_EF = 1000
# So few documents are compared one by one: after a TRUNCATE, or where a filter leaves no more.
FEW = 10_000

EVERYBODY = 2
"""Why a hit is looked up: every one is (embed_pipeline.doubtful). 1: it is pending as removed, 0: it is not looked up."""

T = TypeVar("T")
Mode = Literal["index", "all", "among"]
Row = tuple[str, int, float, int | None, int | None, int]
# So many statements are kept composed. An application asks for few different numbers of documents.
KEPT = 100


class Nearest:
    """Searches one version. Thread-safe: what it remembers are statements, and how much to ask for at first."""

    def __init__(self, version: Version, source: Source) -> None:
        self._version = version
        self._source = source
        self._filters = Filters(source)
        self._shown = Shown(source)
        self._searches: dict[tuple[Mode, int], bytes] = {}
        self._begin = 1
        self._ef = version.declared.hnsw.ef_search
        self._parts: dict[str, sql.Composable] = {
            "table": version.table,
            "operator": sql.SQL(OPERATORS[version.distance]),
        }
        self._named = {"index": sql.Literal(version.index), "version": sql.Literal(version.name)}
        self._suspect = queries("suspect", pending=queries("suspect_pending", **self._named), **self._named)

    def search(self, conn: psycopg.Connection, query: Vectors, k: int, *, exact: bool, among: Selection) -> list[Hit]:
        """The `k` nearest documents of the selection, fewer only where there are no more."""
        values: dict[str, Any] = {"query": self._wrapped(query)}
        return self._with_operator(conn, lambda: self._found(conn, values, k, exact, among))

    def distances(self, conn: psycopg.Connection, query: Vectors, doc_ids: Sequence[str]) -> dict[str, float]:
        """How far these documents are, of those that are here and up to date."""
        values = {"query": self._wrapped(query), "doc_ids": list(doc_ids)}

        def ask() -> dict[str, float]:
            rows = conn.execute(queries("distances", **self._parts, **self._named), values, binary=True).fetchall()
            return {doc_id: distance for doc_id, distance in rows if not math.isnan(distance)}

        return self._with_operator(conn, ask)

    def _with_operator(self, conn: psycopg.Connection, ask: Callable[[], T]) -> T:
        """What `ask` returns, with pgvector's operator where it is now."""
        for may_have_moved in (True, False):
            if "schema" not in self._parts:
                self._parts = self._parts | {"schema": sql.Identifier(vector_schema(conn))}
            try:
                return ask()
            except (psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName):
                if not may_have_moved:
                    raise
                # Somebody has moved the extension to another schema since it was looked up.
                self._forget_operator()
        raise AssertionError("unreachable: the second try returns or raises")

    def _found(self, conn: psycopg.Connection, values: dict[str, Any], k: int, exact: bool, among: Selection) -> list[Hit]:
        if among.is_everything:
            try:
                return self._unfiltered(conn, values, k, exact, among)
            except psycopg.errors.InsufficientPrivilege as problem:
                raise self._not_allowed(problem) from problem
        try:
            return self._selected(conn, values, k, exact, among)
        except psycopg.Error as problem:
            if isinstance(problem, psycopg.errors.UndefinedTable) or not failures.is_about_the_data(problem):
                raise
        # The table was altered since its columns were looked at.
        self._filters.forget()
        return self._selected(conn, values, k, exact, among)

    def _forget_operator(self) -> None:
        self._parts = {name: part for name, part in self._parts.items() if name != "schema"}
        self._searches = {}

    def _selected(self, conn: psycopg.Connection, values: dict[str, Any], k: int, exact: bool, among: Selection) -> list[Hit]:
        values = dict(values)
        try:
            condition = filters.as_sql(self._filters.read(conn, among.where), values)
            if among.where or among.visible_only:
                return self._filtered(conn, values, k, exact, among, condition)
            return self._unfiltered(conn, values, k, exact, among)
        except psycopg.errors.InsufficientPrivilege as problem:
            raise self._not_allowed(problem) from problem
        except psycopg.errors.UndefinedColumn as problem:
            raise ConfigurationError(
                f"{self._source} has no such column: {problem.diag.message_primary}.", next_step="Ask for its columns."
            ) from problem

    def _not_allowed(self, problem: psycopg.Error) -> ConfigurationError:
        return ConfigurationError(
            f"This role may not search here: {problem.diag.message_primary}.",
            next_step=f"Grant it SELECT on all tables of the schema embed_pipeline, and on {self._source} when filtering by its columns "
            "or reading them.",
        )

    def _unfiltered(self, conn: psycopg.Connection, values: dict[str, Any], k: int, exact: bool, among: Selection) -> list[Hit]:
        mode: Mode = "all" if exact else "index"
        least = FIRST * k if self._version.is_chunked else k
        asked = max(least, min(self._begin * least, MOST_EF))
        looked = False
        while True:
            rows = self._ask(conn, mode, asked, values)
            gone = self.gone(conn, [row[0] for row in rows if row[5]])
            hits = self._with_documents(conn, _of_documents(rows, gone), k, among, sql.SQL("true"), values)
            if len(hits) >= k or mode == "among":
                # While many that are gone wait, what was enough this time is enough for the next search.
                self._begin = min(asked // least, MOST_BEGIN) if gone and mode == "index" else 1
                return hits[:k]
            if gone and not hits and not looked and rows[0][5] == EVERYBODY:
                # After a TRUNCATE nearly all may be gone: what is there is compared where that is little.
                looked = True
                present = self._present(conn)
                if present is not None:
                    mode, values, asked = "among", values | {"among": present}, EVERY_ROW
                    continue
            if len(rows) >= asked:
                asked *= MORE
            elif mode == "index":
                mode = "all"
            else:
                return hits

    def _ask(self, conn: psycopg.Connection, mode: Mode, asked: int, values: dict[str, Any]) -> Sequence[Row]:
        """The nearest vectors, each with whether it has to be looked up: one statement, in one snapshot."""
        rows = conn.execute(self._composed(conn, mode, asked), values, binary=True).fetchall()
        signal("search.found")
        return rows

    def _composed(self, conn: psycopg.Connection, mode: Mode, asked: int) -> bytes:
        """The search, composed once: that takes as long as the index takes to answer it.

        The number of rows stands in it: of one that is a parameter the server believes that it is a tenth of the table, and plans anew
        for each search.
        """
        composed = self._searches.get((mode, asked))
        if composed is None:
            if len(self._searches) >= KEPT:
                self._searches = {}
            among = queries("among_these" if mode == "among" else "among_all")
            composed = with_parameters(self._query(mode, among, self._suspect, asked)).as_bytes(conn)
            self._searches[mode, asked] = composed
        return composed

    def _query(self, mode: Mode, among: sql.Composable, suspect: sql.Composable, asked: int) -> sql.Composed:
        compared = {name: self._parts[name] for name in ("operator", "schema")}
        nearness = queries("by_the_graph" if mode == "index" else "by_all", **compared)
        ef_search = str(min(max(asked, self._ef), MOST_EF))
        settings = queries("graph_settings", ef_search=sql.Literal(ef_search)) if mode == "index" else sql.SQL("")
        rows = sql.Literal(asked)
        return queries("nearest", among=among, settings=settings, suspect=suspect, nearness=nearness, rows=rows, **self._parts)

    def _filtered(
        self, conn: psycopg.Connection, values: dict[str, Any], k: int, exact: bool, chosen: Selection, condition: sql.Composable
    ) -> list[Hit]:
        """The condition is asked of the documents themselves, so that none that is gone can meet it, and none that the reader may not see."""
        documents, doc_id = self._source.identifier, self._source.doc_id()
        mode: Mode = "all" if exact else "index"
        asked = FIRST * k if self._version.is_chunked else k
        among = queries(
            "among_filtered",
            documents=documents,
            condition=condition,
            key_is_wanted=self._source.key_matches(sql.SQL("v.doc_id")),
        )
        if self._is_selective(conn, condition, values):
            query = queries("filtered_ids", documents=documents, condition=condition, doc_id=doc_id)
            ids = [each for (each,) in self._as_the_reader(conn, query, values | {"most": FEW + 1})]
            if len(ids) <= FEW:
                mode, among, asked = "among", queries("among_these"), EVERY_ROW
                values["among"] = ids
        while True:
            rows = self._as_the_reader(conn, self._query(mode, among, queries("suspect_none"), asked), values)
            hits = self._with_documents(conn, _of_documents(rows), k, chosen, condition, values)
            if len(hits) >= k or mode == "among":
                return hits[:k]
            if len(rows) >= asked:
                asked *= MORE
            elif mode == "index":
                mode = "all"
            else:
                return hits

    def _is_selective(self, conn: psycopg.Connection, condition: sql.Composable, values: dict[str, Any]) -> bool:
        """What the planner expects: it has statistics of the columns, and nothing is read."""
        query = queries("filtered_rows", documents=self._source.identifier, condition=condition)
        ((plan,),) = self._as_the_reader(conn, query, values)
        return float(plan[0]["Plan"]["Plan Rows"]) <= FEW / 2

    def _as_the_reader(self, conn: psycopg.Connection, query: sql.Composed, values: dict[str, Any]) -> list[tuple[Any, ...]]:
        with conn.pipeline():
            conn.execute(filters.queries("as_the_reader"))
            found = conn.execute(query, values)
        return found.fetchall()

    def _with_documents(
        self,
        conn: psycopg.Connection,
        hits: list[Hit],
        k: int,
        chosen: Selection,
        condition: sql.Composable,
        values: dict[str, Any],
    ) -> list[Hit]:
        """The first `k` of the hits whose documents are there, with them; all of them where no document is asked for."""
        if chosen.columns is None:
            return hits
        kept: list[Hit] = []
        for start in range(0, len(hits), k):
            portion = hits[start : start + k]
            found = self._shown.read(conn, [hit.doc_id for hit in portion], chosen, condition, values)
            kept += [hit._replace(document=found[hit.doc_id]) for hit in portion if hit.doc_id in found]
            if len(kept) >= k:
                break
        return kept[:k]

    def gone(self, conn: psycopg.Connection, suspects: Sequence[str]) -> set[str]:
        """Those of these documents that are gone, or announced as removed where that cannot be looked up."""
        if not suspects:
            return set()
        names = {"index": self._version.index, "version": self._version.name}
        row = conn.execute(queries("gone"), names | {"doc_ids": list(dict.fromkeys(suspects))}).fetchone()
        assert row is not None
        return set(row[0])

    def _present(self, conn: psycopg.Connection) -> list[str] | None:
        function = sql.Identifier("embed_pipeline", f"present_{self._version.index}")
        row = conn.execute(queries("present", function=function), {"most": FEW}).fetchone()
        return None if row is None else row[0]

    def _wrapped(self, query: Vectors) -> Vector | HalfVector:
        return HalfVector(query) if self._version.precision == "halfvec" else Vector(np.asarray(query, dtype=np.float32))


EVERY_ROW = 2**31 - 1


def _of_documents(rows: Sequence[Row], gone: Set[str] = frozenset()) -> list[Hit]:
    """The first, so the nearest, passage of each document that is not gone, nearest first."""
    best: dict[str, Hit] = {}
    for row in rows:
        doc_id = row[0]
        if doc_id not in best and doc_id not in gone:
            best[doc_id] = Hit(*row[:5])
    return list(best.values())
