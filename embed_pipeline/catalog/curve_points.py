"""Points of a migration's cost curve: what the held-out queries said at some stage of it, and what it had taken by then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

import psycopg
from psycopg.types.json import Jsonb

from embed_pipeline.postgres.queries import Queries

queries = Queries(__file__, "curve_points.sql")

Occasion = Literal["preview", "tenth", "asked"]
Arm = Literal["keep_old", "refine", "bridge", "full"]


@dataclass(frozen=True)
class Served:
    """One way to serve, measured on the held-out queries: the mean of the metric, and its difference to keeping the old version with
    one-sided bounds; of `keep_old` itself the bounds are the mean's. `estimated`: not served like this, but foretold by the preview."""

    mean: float
    difference: float
    lower: float
    upper: float
    estimated: bool = False


@dataclass(frozen=True)
class Forecast:
    """Forecast of the whole migration: money and seconds of its model, None where that is not known."""

    usd: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Point:
    """`documents` of `of_documents` had the new version's vectors, `partitions` of `of_partitions` were filled; `usd` and `seconds` were
    spent on the version by then."""

    occasion: Occasion
    documents: int
    of_documents: int
    partitions: int
    of_partitions: int
    usd: float | None
    seconds: float
    holdout_sha256: str
    metric: str
    queries: int
    confidence: float
    arms: Mapping[Arm, Served]
    forecast: Forecast = field(default_factory=Forecast)
    measured_at: datetime | None = None


def store(conn: psycopg.Connection, index: str, version: str, baseline: str, point: Point) -> None:
    """Append a point; the database fills in when, and how long the version has been there."""
    values: dict[str, Any] = {
        name: getattr(point, name)
        for name in (
            "occasion",
            "documents",
            "of_documents",
            "partitions",
            "of_partitions",
            "usd",
            "holdout_sha256",
            "metric",
            "queries",
        )
    }
    values |= {"index": index, "version": version, "baseline": baseline, "confidence": point.confidence}
    values |= {"arms": Jsonb({arm: asdict(each) for arm, each in point.arms.items()}), "forecast": Jsonb(asdict(point.forecast))}
    conn.execute(queries("insert"), values)


def listed(conn: psycopg.Connection, index: str, version: str, baseline: str) -> list[Point]:
    """Every point of the migration from the one version to the other, in the order in which they were measured."""
    rows = conn.execute(queries("listed"), {"index": index, "version": version, "baseline": baseline})
    return [_point(*row) for row in rows]


def _point(*row: Any) -> Point:
    *facts, arms, forecast, at = row
    served: dict[Arm, Served] = {arm: Served(**each) for arm, each in arms.items()}
    values: list[Any] = [*facts, served, Forecast(**forecast), at]
    return Point(*values)
