"""The results of each held-out query, kept with the evidence that they are part of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg.types.json import Jsonb

from embed_pipeline.catalog.route import Kind
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.postgres.storable import storable, storable_json

queries = Queries(__file__, "judged_queries.sql")

Hits = tuple[tuple[str, float], ...]
"""Documents with their scores, the best first."""


@dataclass(frozen=True)
class QueryRow:
    """One query: its judgements, and what the metric and the hits were under both versions. None: no version was compared with.

    `cluster`: the first query that says the same; those of one cluster count as one. `slices`: of each column that the gate makes slices of,
    the query's value; a column of which it has none is not in it.
    """

    query_id: str
    query: str
    cluster: str
    judgements: Mapping[str, int]
    candidate: float
    candidate_hits: Hits
    baseline: float | None = None
    baseline_hits: Hits | None = None
    slices: Mapping[str, str] = field(default_factory=dict)

    @property
    def difference(self) -> float | None:
        return None if self.baseline is None else self.candidate - self.baseline

    def is_relevant(self, doc_id: str) -> bool:
        return self.judgements.get(doc_id, 0) > 0


def keep(conn: psycopg.Connection, evidence_id: int, index: str, version: str, route: Kind, rows: Sequence[QueryRow]) -> None:
    """Keep the rows of the newest evidence, in the transaction that stores it; those of older evidence go, but for what serves by it."""
    conn.execute(queries("forget_older"), {"index": index, "version": version, "route": route, "evidence_id": evidence_id})
    values = [
        {
            "evidence_id": evidence_id,
            "position": position,
            "query_id": storable(conn, row.query_id, None),
            "query": storable(conn, row.query, None),
            "cluster": storable(conn, row.cluster, None),
            "judgements": storable_json(conn, row.judgements),
            "slices": storable_json(conn, row.slices),
            "baseline": row.baseline,
            "candidate": row.candidate,
            # As the documents have them: they come out of this database.
            "baseline_hits": None if row.baseline_hits is None else Jsonb(row.baseline_hits),
            "candidate_hits": Jsonb(row.candidate_hits),
        }
        for position, row in enumerate(rows)
    ]
    with conn.cursor() as cursor:
        cursor.executemany(queries("keep_query"), values)


def read(conn: psycopg.Connection, evidence_id: int) -> list[QueryRow]:
    """The rows of one piece of evidence, in the order of the held-out set; none where they are not kept any more."""
    found = conn.execute(queries("queries_of"), {"evidence_id": evidence_id}).fetchall()
    return [
        QueryRow(
            query_id, query, cluster, judgements, candidate, _hits(candidate_hits), baseline, _or_none(baseline_hits), slices
        )
        for query_id, query, cluster, judgements, candidate, candidate_hits, baseline, baseline_hits, slices in found
    ]


def _hits(stored: Sequence[tuple[str, float]]) -> Hits:
    return tuple((doc_id, float(score)) for doc_id, score in stored)


def _or_none(stored: Sequence[tuple[str, float]] | None) -> Hits | None:
    return None if stored is None else _hits(stored)
