"""What evidence about a route beside what serves describes: the route as it would be taken now, and the world that it is judged in."""

from __future__ import annotations

import psycopg

from embed_pipeline.catalog.evidence import Present
from embed_pipeline.catalog.route import Kind, Route
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import census
from embed_pipeline.migrate import bridging, refining
from embed_pipeline.migrate.open_index import OpenIndex


def wanted(conn: psycopg.Connection, index: OpenIndex, version: Version, kind: Kind) -> Route:
    """The route of this kind that `version` would make of what serves. CutoverRefused or AdapterRefused where there is none."""
    return refining.wanted(conn, index, version) if kind == "refine" else bridging.wanted(conn, index, version)[0]


def present(conn: psycopg.Connection, index: OpenIndex, version: Version, kind: Kind, holdout_sha256: str | None) -> Present:
    """The world that evidence about such a route describes. What is found comes out of the ANN index of what serves."""
    route = wanted(conn, index, version, kind)
    serves = index.space(index.version(conn, route.version)).version
    ann, documents = index.store(serves).ann_index(conn), census.count(conn, index.source)
    return Present(
        fingerprint=version.fingerprint,
        baseline_version=serves.name,
        holdout_sha256=holdout_sha256,
        documents=documents,
        ann_index=None if ann is None else ann.oid,
        ef_search=serves.declared.hnsw.ef_search,
        route=kind,
        depth=route.depth,
        adapter=route.adapter,
        filled=refining.filled(conn, index, version, documents) if kind == "refine" else None,
    )
