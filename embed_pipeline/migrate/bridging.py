"""The route on which queries of a new version are mapped into the vectors of the version that serves: which adapter, and may it."""

from __future__ import annotations

import psycopg

from embed_pipeline.adapt import age
from embed_pipeline.catalog.adapters import Adapter
from embed_pipeline.catalog.route import Route
from embed_pipeline.catalog.versions import Version
from embed_pipeline.errors import CutoverRefused
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import refining


def wanted(conn: psycopg.Connection, index: OpenIndex, version: Version) -> tuple[Route, Adapter]:
    """What serves, asked by queries of `version` through the adapter that was fitted last.

    CutoverRefused where nothing serves or the version is retired or serves itself, AdapterRefused where no adapter leads from it into what serves.
    """
    serves = refining.require_beside(conn, index, version, "asked by it through an adapter")
    adapter = age.newest(conn, index, version.name)
    if adapter.to_version != serves:
        raise CutoverRefused(
            f"What serves {index.name} was moved meanwhile.", next_step="Run the same command again.", reason="another_move"
        )
    return Route(serves, queries=version.name, adapter=adapter.id), adapter
