"""Gate evidence: what was judged, on which rows, and whether that still describes what would serve."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from embed_pipeline.catalog.route import Kind
from embed_pipeline.catalog.versions import queries
from embed_pipeline.postgres.storable import storable, storable_json

# A version that refines is judged as far as it is filled: what it does to the rest, nobody has seen (docs/routes.md).
TENTH = 0.1


@dataclass(frozen=True)
class Evidence:
    id: int
    version: str
    fingerprint: str
    baseline_version: str | None
    outcome: str
    sentence: str
    holdout_sha256: str | None
    documents: int
    vectors: int
    ann_index: int | None
    ef_search: int
    measures: dict[str, Any]
    created_at: datetime
    valid_until: datetime
    expired: bool
    route: Kind = "direct"
    depth: int | None = None
    adapter: int | None = None

    @property
    def filled(self) -> float:
        """The share of the documents of which the version had vectors."""
        return self.vectors / max(self.documents, 1)


@dataclass(frozen=True)
class Present:
    """What evidence is compared with: the world as it is now."""

    fingerprint: str
    baseline_version: str | None
    holdout_sha256: str | None
    documents: int
    ann_index: int | None
    ef_search: int
    route: Kind = "direct"
    depth: int | None = None
    adapter: int | None = None
    filled: float | None = None
    """Of a refine route: the share of the documents that the refining version has."""


def staleness(evidence: Evidence, now: Present, max_row_change: float) -> str | None:
    """Why the evidence no longer describes what would serve; None while it does. Pure."""
    if evidence.expired:
        return f"it expired at {evidence.valid_until:%Y-%m-%d %H:%M}"
    if evidence.fingerprint != now.fingerprint:
        return "it judged another fingerprint"
    if evidence.baseline_version != now.baseline_version:
        return f"it compared with {evidence.baseline_version or 'nothing'}, and {now.baseline_version or 'nothing'} serves now"
    if evidence.holdout_sha256 != now.holdout_sha256:
        return "the held-out set has changed"
    if evidence.ann_index != now.ann_index:
        return "the ANN index was built anew"
    # More of the index finds more: what has passed passes, and what has failed is worth another look.
    if now.ef_search < evidence.ef_search or (evidence.outcome != "pass" and now.ef_search != evidence.ef_search):
        return f"it was searched with hnsw.ef_search {evidence.ef_search}, and is with {now.ef_search} now"
    if abs(now.documents - evidence.documents) > max_row_change * max(evidence.documents, 1):
        return f"it judged {evidence.documents} documents, and there are {now.documents} now"
    if evidence.depth != now.depth:
        return f"it judged a depth of {evidence.depth}, and {now.depth} is declared now"
    if evidence.adapter != now.adapter:
        return f"it judged adapter {evidence.adapter}, and {now.adapter} was fitted since"
    if now.filled is not None and abs(now.filled - evidence.filled) > TENTH:
        return f"it judged {evidence.version} while {evidence.filled:.0%} of it was filled, and {now.filled:.0%} is now"
    return None


def store(
    conn: psycopg.Connection,
    index: str,
    version: str,
    *,
    present: Present,
    baseline_fingerprint: str | None,
    outcome: str,
    sentence: str,
    vectors: int,
    measures: dict[str, Any],
    max_age_seconds: int,
) -> int:
    """Append one piece of evidence; returns its id."""
    values = {
        "index": index,
        "version": version,
        "fingerprint": present.fingerprint,
        "baseline_version": present.baseline_version,
        "baseline_fingerprint": baseline_fingerprint,
        "outcome": outcome,
        "sentence": storable(conn, sentence),
        "holdout_sha256": present.holdout_sha256,
        "documents": present.documents,
        "vectors": vectors,
        "ann_index": present.ann_index,
        "ef_search": present.ef_search,
        "measures": storable_json(conn, measures),
        "route": present.route,
        "depth": present.depth,
        "adapter": present.adapter,
        "max_age_seconds": max_age_seconds,
    }
    row = conn.execute(queries("insert_evidence"), values).fetchone()
    assert row is not None
    return int(row[0])


def latest(conn: psycopg.Connection, index: str, version: str, route: Kind = "direct") -> Evidence | None:
    """The newest evidence about a version on a kind of route, whatever its outcome."""
    row = conn.execute(queries("latest_evidence"), {"index": index, "version": version, "route": route}).fetchone()
    return None if row is None else Evidence(*row)
