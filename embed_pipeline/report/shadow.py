"""What shadow reads have found of a version: how far its lists agree with the answers that were given, and how fast they came."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import psycopg

from embed_pipeline.catalog import shadows, versions
from embed_pipeline.catalog.shadows import Disagreement, Tally
from embed_pipeline.errors import CatalogError
from embed_pipeline.evaluate.sketch import quantile
from embed_pipeline.report.look import look
from embed_pipeline.spec import IndexSpec

HOURS = 24
SHARES = (0.5, 0.95, 0.99)
SHOWN_QUERIES = 10


@dataclass(frozen=True)
class Quantiles:
    """Each None where nothing was seen."""

    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True)
class Shadowed:
    """One pair: the route that gave the answers, and the shadow. `overlap`, `agreement`: means over `compared`, None where there is none.

    `agreement` is rank-biased overlap with persistence 0.9. Scores are of all hits, latencies of whole searches with their embedding.
    """

    answered: str
    searches: int
    compared: int
    failed: int
    dropped: int
    overlap: float | None
    agreement: float | None
    answered_empty: int
    shadow_empty: int
    answered_ms: Quantiles
    shadow_ms: Quantiles
    answered_scores: Quantiles
    shadow_scores: Quantiles
    last_failure: str
    least: tuple[Disagreement, ...]


@dataclass(frozen=True)
class Hourly:
    """One hour of one pair."""

    hour: datetime
    answered: str
    searches: int
    failed: int
    dropped: int
    overlap: float | None
    agreement: float | None


@dataclass(frozen=True)
class ShadowReport:
    """What was found in the last hours, by pair and by hour; no pair where nothing was shadowed."""

    index: str
    version: str
    last_hours: int
    pairs: tuple[Shadowed, ...]
    by_hour: tuple[Hourly, ...]


def shadow_report(spec: IndexSpec, version: str, last_hours: int = HOURS) -> ShadowReport:
    """What `Searcher(shadow=version)` of all processes has found. Changes nothing; CatalogError for a version that is not registered."""
    with look(spec, even_if_unusable=True) as seen:
        if not seen.registered:
            raise CatalogError(
                f"No version of index {spec.name!r} is registered in its database yet.",
                next_step=f"Run: embed-pipeline status {spec.name}",
            )
        versions.get(seen.conn, spec.name, version)
        return report_of(seen.conn, spec.name, version, last_hours)


def report_of(conn: psycopg.Connection, index: str, version: str, last_hours: int) -> ShadowReport:
    """The same over a connection of the caller's."""
    hours = shadows.hours(conn, index, version, last_hours)
    pairs = [
        _shadowed(answered, tally, shadows.disagreements(conn, index, answered, version, SHOWN_QUERIES))
        for answered, tally in shadows.together(hours).items()
    ]
    by_hour = [
        Hourly(each.hour, each.answered, each.tally.searches, each.tally.failed, each.tally.dropped, *_means(each.tally))
        for each in hours
    ]
    return ShadowReport(index, version, last_hours, tuple(pairs), tuple(by_hour))


def _means(tally: Tally) -> tuple[float | None, float | None]:
    if not tally.compared:
        return None, None
    return tally.overlap / tally.compared, tally.agreement / tally.compared


def _shadowed(answered: str, tally: Tally, least: list[Disagreement]) -> Shadowed:
    overlap, agreement = _means(tally)
    answered_ms, shadow_ms, answered_scores, shadow_scores = (
        Quantiles(*(quantile(tally.sketches[name], share) for share in SHARES)) for name in shadows.SKETCHES
    )
    return Shadowed(
        answered=answered,
        searches=tally.searches,
        compared=tally.compared,
        failed=tally.failed,
        dropped=tally.dropped,
        overlap=overlap,
        agreement=agreement,
        answered_empty=tally.answered_empty,
        shadow_empty=tally.shadow_empty,
        answered_ms=answered_ms,
        shadow_ms=shadow_ms,
        answered_scores=answered_scores,
        shadow_scores=shadow_scores,
        last_failure=tally.last_failure,
        least=tuple(least),
    )
