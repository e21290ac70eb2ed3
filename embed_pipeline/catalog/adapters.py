"""Fitted maps between two versions' spaces, each with what it was fitted on. A stored map is never changed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import psycopg

from embed_pipeline.catalog.versions import Version, actor
from embed_pipeline.embedders.maps import Kind, Map
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.postgres.storable import storable, storable_json

queries = Queries(__file__, "adapters.sql")

FORMAT = np.dtype("<f4")


@dataclass(frozen=True)
class Adapter:
    """A map that takes queries of the new model (`from_version`) into the old model's index (`to_version`)."""

    id: int
    from_version: str
    from_fingerprint: str
    to_version: str
    to_fingerprint: str
    map: Map
    pairs: int
    pairs_sha256: str
    measures: dict[str, Any]
    fitted_at: datetime

    @property
    def kind(self) -> Kind:
        return self.map.kind

    def is_of(self, source: Version, target: Version) -> bool:
        """Whether it maps from the one into the other, as both are registered now."""
        return (self.from_version, self.from_fingerprint, self.to_version, self.to_fingerprint) == (
            source.name,
            source.fingerprint,
            target.name,
            target.fingerprint,
        )


def store(
    conn: psycopg.Connection,
    source: Version,
    target: Version,
    fitted: Map,
    *,
    pairs: int,
    pairs_sha256: str,
    measures: dict[str, Any],
) -> int:
    """Append a map from `source` (the new model's space) into `target` (the old index's); returns its id."""
    values = {
        "index": source.index,
        "from_version": source.name,
        "from_fingerprint": source.fingerprint,
        "from_dimensions": source.dimensions,
        "to_version": target.name,
        "to_fingerprint": target.fingerprint,
        "to_dimensions": target.dimensions,
        "kind": fitted.kind,
        "weights": fitted.weights.astype(FORMAT).tobytes(),
        "bias": None if fitted.bias is None else fitted.bias.astype(FORMAT).tobytes(),
        "pairs": pairs,
        "pairs_sha256": pairs_sha256,
        "measures": storable_json(conn, measures),
        "actor": storable(conn, actor()),
    }
    row = conn.execute(queries("insert"), values).fetchone()
    assert row is not None
    return int(row[0])


def read(conn: psycopg.Connection, index: str, adapter_id: int) -> Adapter | None:
    """The adapter that a route names; None where this index has none of that id."""
    return _adapter(conn.execute(queries("read"), {"index": index, "id": adapter_id}).fetchone())


def latest(conn: psycopg.Connection, index: str, from_version: str, to_version: str) -> Adapter | None:
    """The one that was fitted last from the one version into the other."""
    values = {"index": index, "from_version": from_version, "to_version": to_version}
    return _adapter(conn.execute(queries("latest"), values).fetchone())


def _adapter(row: tuple[Any, ...] | None) -> Adapter | None:
    if row is None:
        return None
    number, source, source_print, source_dims, target, target_print, target_dims, kind, weights, bias, *rest = row
    fitted = Map(kind, _floats(weights).reshape(source_dims, target_dims), None if bias is None else _floats(bias))
    return Adapter(number, source, source_print, target, target_print, fitted, *rest)


def _floats(kept: bytes) -> Vectors:
    return np.frombuffer(kept, dtype=FORMAT).astype(np.float32)
