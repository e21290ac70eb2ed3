"""The route on which a version that is not complete puts in order what is found in the version that serves: which one, and may it."""

from __future__ import annotations

import psycopg

from embed_pipeline.catalog import serving
from embed_pipeline.catalog.route import Route
from embed_pipeline.catalog.versions import Version
from embed_pipeline.errors import CutoverRefused
from embed_pipeline.index.handle import OpenIndex


def wanted(conn: psycopg.Connection, index: OpenIndex, version: Version) -> Route:
    """What serves, refined by `version` as it is declared. CutoverRefused where that is nothing, retired, or not declared."""
    serves = require_beside(conn, index, version, "refined by it")
    declared = index.spec.while_building
    if not declared.refine:
        raise CutoverRefused(
            f"{index.name} does not declare that a version which is not complete refines another.",
            next_step="Declare while_building: {refine: true, depth: 200} in the index's defs.yaml.",
            reason="not_declared",
        )
    return Route(serves, version.name, declared.depth)


def filled(conn: psycopg.Connection, index: OpenIndex, version: Version, documents: int) -> float:
    """The share of the documents that the version has."""
    return index.store(version).count(conn) / max(documents, 1)


def require_beside(conn: psycopg.Connection, index: OpenIndex, version: Version, what: str) -> str:
    """The version that serves, where `version` is another one and live; CutoverRefused says why it cannot be on a route beside it."""
    serves = serving.read(conn, index.name).version
    if serves is None or serves == version.name:
        raise CutoverRefused(
            f"{version.name} serves {index.name} itself, so there is nothing that could be {what}."
            if serves
            else f"{index.name} serves nothing yet, so there is nothing that could be {what}.",
            next_step=f"Run: embed-pipeline status {index.name}",
            reason="nothing_beside",
        )
    if not version.is_live:
        raise CutoverRefused(
            f"{version.name} of {index.name} is {version.state}; only a live version is kept up to date, and can be on a route.",
            next_step=f"Run: embed-pipeline status {index.name}",
            reason="not_live",
            state=version.state,
        )
    return serves
