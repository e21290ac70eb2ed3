"""The route that a version would make of what serves, of either kind."""

from __future__ import annotations

import psycopg

from embed_pipeline.catalog.route import Kind, Route
from embed_pipeline.catalog.versions import Version
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import bridging, refining


def wanted(conn: psycopg.Connection, index: OpenIndex, version: Version, kind: Kind) -> Route:
    """The route of this kind that `version` would make of what serves. CutoverRefused or AdapterRefused where there is none."""
    return refining.wanted(conn, index, version) if kind == "refine" else bridging.wanted(conn, index, version)[0]
