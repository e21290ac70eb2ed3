"""The pool preview, and the points that a backfill adds to the cost curve which it begins.

What a held-out query can gain lies among the old version's first hundred. The union of these lists, whatever the corpus holds, is embedded by the
new version through its queue, and re-ranking each list by it foretells what the whole migration is worth (docs/adapters.md).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg

from embed_pipeline.accounts import terms
from embed_pipeline.adapt import age
from embed_pipeline.adapt.both_models import HeldOut, Lists, place_all
from embed_pipeline.adapt.curve import Curve
from embed_pipeline.catalog import curve_points, partitions, serving
from embed_pipeline.catalog.curve_points import Forecast, Occasion, Point, Served
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import census
from embed_pipeline.errors import AdapterRefused, EmbedPipelineError, IllegalTransition
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import ahead
from embed_pipeline.migrate.ahead import Ahead
from embed_pipeline.postgres.session import Waiting

# Of each held-out query so many of the old version's documents are in the pool, and so many are re-ordered when it is refined.
POOL, REFINED = 100, 200
POINTS = 10


@dataclass(frozen=True)
class Pool:
    """The documents of a preview: `ahead` says how many of them have still to be embedded, and what that costs."""

    held_out: HeldOut
    lists: Lists
    ahead: Ahead

    @property
    def sentence(self) -> str:
        """What a person reads before it begins."""
        new, old = self.held_out.new.name, self.held_out.old.name
        return (
            f"Preview of {new} on {len(self.lists)} held-out queries: the first {POOL} of {old} for each, {self.ahead.asked:,} documents in all. "
            f"{self.ahead.sentence}"
        )


@dataclass(frozen=True)
class Previewed:
    """What a preview has found: the gain of re-ranking the old version's first hundred by the new one, and the curve that begins with it."""

    index: str
    version: str
    baseline: str
    documents: int
    gain: Served
    sentence: str
    curve: Curve


def pool(index: OpenIndex, name: str) -> Pool:
    """What a preview of `name` would embed. Asks the old model for the held-out queries' vectors, and embeds no document.

    IllegalTransition where nothing serves that it could be compared with, HoldoutError without a held-out set.
    """
    with index.connection() as conn:
        old, new = _between(conn, index, name)
        held_out = HeldOut(conn, index, old, new)
        lists = held_out.lists(conn, old, held_out.old_queries, max(POOL, held_out.cutoff))
        ids = dict.fromkeys(doc_id for answer in lists for doc_id in answer)
        return Pool(held_out, lists, ahead.look(conn, index, name, list(ids)))


def preview(index: OpenIndex, found: Pool, waiting: Waiting | None = None) -> Previewed:
    """Embed the pool, judge, and keep the first point of the curve. What is done of it when it is stopped is not paid for again."""
    held_out, started = found.held_out, time.monotonic()
    ahead.embed(index, found.ahead, waiting)
    seconds = time.monotonic() - started
    with index.connection() as conn:
        old = held_out.scores(found.lists)
        gain = held_out.against(old, place_all(found.lists, held_out.distances(conn, found.lists)), estimated=True)
        _keep(conn, held_out, "preview", gain, _forecast(conn, index, found.ahead, seconds))
        curve = read(conn, index, held_out.new, held_out.old)
    assert curve is not None
    spec = index.spec.gate
    return Previewed(
        index=index.name,
        version=held_out.new.name,
        baseline=held_out.old.name,
        documents=found.ahead.known,
        gain=gain,
        sentence=(
            f"{spec.metric} of {held_out.old.name}'s first {POOL} re-ranked by {held_out.new.name}: {gain.mean:.3f}, against "
            f"{gain.mean - gain.difference:.3f} of {held_out.old.name} on {len(old)} queries: difference {gain.difference:+z.3f}, one-sided "
            f"{100 * spec.confidence:g} % bounds {gain.lower:+z.3f} and {gain.upper:+z.3f}."
        ),
        curve=curve,
    )


def measure(index: OpenIndex, name: str) -> Curve:
    """Ask the held-out queries now, and add the point to the curve. Embeds queries, and no document."""
    with index.connection() as conn:
        old, new = _between(conn, index, name)
        _keep(conn, HeldOut(conn, index, old, new), "asked")
        curve = read(conn, index, new, old)
    assert curve is not None
    return curve


@dataclass
class Tenths:
    """Adds a point to the curve of a version whenever its backfill has filled another tenth of the partitions. For one run.

    Only where a preview has begun the curve: nobody else has asked for it, and queries are embedded for it, of a provider for money.
    """

    index: OpenIndex
    name: str
    _held_out: HeldOut | None = field(default=None, repr=False)

    def partition_filled(self) -> Curve | None:
        """Called after each partition; the curve where it has a new point. EmbedPipelineError where that cannot be measured: the partition is
        filled all the same."""
        with self.index.connection() as conn:
            new, baseline = self.index.version(conn, self.name), serving.read(conn, self.index.name).version
            if baseline is None or baseline == self.name:
                return None
            old = self.index.version(conn, baseline)
            curve = read(conn, self.index, new, old)
            if curve is None or not _is_due(curve.points, *_filled(conn, new)):
                return None
            if self._held_out is None or (self._held_out.old, self._held_out.new.fingerprint) != (old, new.fingerprint):
                self._held_out = HeldOut(conn, self.index, old, new)
            self._held_out.new = new
            _keep(conn, self._held_out, "tenth")
            return read(conn, self.index, new, old)


def read(conn: psycopg.Connection, index: OpenIndex, new: Version, old: Version) -> Curve | None:
    """The curve of the migration from the one version to the other; None before its preview."""
    points = curve_points.listed(conn, index.name, new.name, old.name)
    return Curve.of(index.name, new.name, old.name, index.spec.gate.margin, points)


def _between(conn: psycopg.Connection, index: OpenIndex, name: str) -> tuple[Version, Version]:
    """(the version that serves, the new one)."""
    new, serves = index.version(conn, name), serving.read(conn, index.name).version
    if serves is None or serves == name:
        what = f"{name} serves {index.name} itself" if serves else f"No version of {index.name} serves yet"
        raise IllegalTransition(
            f"{what}: a preview compares a new version with the one that serves.",
            next_step=f"Run: embed-pipeline status {index.name}",
        )
    return index.version(conn, serves), new


def _is_due(points: Sequence[Point], filled: int, of: int) -> bool:
    before = max((each.partitions for each in points if each.of_partitions == of), default=0)
    return POINTS * filled // of > POINTS * before // of


def _filled(conn: psycopg.Connection, version: Version) -> tuple[int, int]:
    listed = partitions.listed(conn, version.index, version.name)
    return sum(each.completed_at is not None for each in listed), len(listed)


def _keep(
    conn: psycopg.Connection,
    held_out: HeldOut,
    occasion: Occasion,
    gain: Served | None = None,
    forecast: Forecast | None = None,
) -> None:
    index, new = held_out.index, held_out.new
    filled = [each for each in partitions.listed(conn, index.name, new.name) if each.completed_at is not None]
    ranges = [each.range for each in filled if not each.range.is_empty]

    def in_filled(doc_ids: Sequence[str]) -> set[str]:
        # What was embedded ahead is what these very queries ask for: counted, it would show them what no other query sees.
        return census.within(conn, index.source, doc_ids, ranges)

    try:
        bridge = age.newest(conn, index, new.name).map
    except AdapterRefused:
        bridge = None
    arms = held_out.arms(
        conn, REFINED, filled=in_filled if ranges else None, bridge=bridge, complete=new.state in ("ready", "standby", "active")
    )
    if gain is not None and "full" not in arms:
        arms["full"] = gain
    spent = terms.spending(conn, index.name).get(new.name)
    point = Point(
        occasion=occasion,
        documents=index.store(new).count(conn),
        of_documents=census.count(conn, index.source),
        partitions=len(filled),
        of_partitions=new.partitions,
        usd=terms.total({kind: each for kind, each in spent.items() if kind != "query"}).usd if spent else None,
        seconds=0.0,
        holdout_sha256=held_out.holdout.sha256,
        metric=held_out.metric,
        queries=len(held_out.holdout.queries),
        confidence=index.spec.gate.confidence,
        arms=arms,
        forecast=forecast or Forecast(),
    )
    curve_points.store(conn, index.name, new.name, held_out.old.name, point)


def _forecast(conn: psycopg.Connection, index: OpenIndex, embedded: Ahead, seconds: float) -> Forecast:
    """The whole, by what these documents took: money by their share of the text, time by theirs of the documents. A preview that had nothing
    left to embed tells nothing."""
    if not embedded.todo or not embedded.text_bytes:
        return Forecast()
    documents, text_bytes = census.measure(conn, index.source)
    usd = None if embedded.usd is None else embedded.usd * text_bytes / embedded.text_bytes
    return Forecast(usd, seconds * documents / len(embedded.todo))


def told(problem: EmbedPipelineError) -> str:
    """What a backfill says when a point could not be measured."""
    return f"the cost curve has no new point: {problem.message}"
