"""Whether an adapter still fits the documents of now: those written since it was fitted are pairs that it has never seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import psycopg

from embed_pipeline.adapt import agreement, pairs
from embed_pipeline.catalog import adapters, serving
from embed_pipeline.catalog.adapters import Adapter
from embed_pipeline.errors import AdapterRefused
from embed_pipeline.evaluate.statistics import mean_bounds
from embed_pipeline.index.handle import OpenIndex

# Of the documents written since then, the newest; from fewer pairs nothing is said.
MOST_PAIRS, LEAST_PAIRS = 500, 50
# A loss of cosine that is of no account: what one fit differs from the next by.
TOLERANCE = 0.01


@dataclass(frozen=True)
class Freshness:
    """The mean cosine of a mapped vector with the old model's: `then` of the pairs held out at the fit, `now` of those written since.

    `upper`: one-sided bound of `now` at gate.confidence. `unknown`: too few were written since.
    """

    version: str
    into: str
    adapter_id: int
    outcome: Literal["fresh", "stale", "unknown"]
    pairs: int
    then: float
    now: float | None
    upper: float | None
    sentence: str


def adapter_fresh(index: OpenIndex, name: str) -> Freshness:
    """Whether pairs that were written since the newest adapter of `name` was fitted agree as well as those held out at its fit.

    Embeds nothing. AdapterRefused where there is no adapter from `name` into what serves, or it is of other spaces.
    """
    with index.connection() as conn:
        adapter = newest(conn, index, name)
        source, target = (index.version(conn, each) for each in (adapter.from_version, adapter.to_version))
        changed = index.store(target).written_since(conn, adapter.fitted_at, MOST_PAIRS)
        found = pairs.of_documents(conn, index.store(source), index.store(target), changed, MOST_PAIRS)
    then = float(adapter.measures["cosine"])
    if len(found) < LEAST_PAIRS:
        sentence = f"{len(found)} pairs of {name} and {target.name} were written since the adapter was fitted: too few to tell."
        return Freshness(name, target.name, adapter.id, "unknown", len(found), then, None, None, sentence)
    values = agreement.cosines(adapter.map, found.sources, found.targets)
    bounds = mean_bounds(values.clip(-1, 1), worst=-1.0, best=1.0, confidence=index.spec.gate.confidence)
    is_stale = bounds.upper < then - TOLERANCE
    words = "fits what was written since no longer: fit it again" if is_stale else "still fits what was written since"
    return Freshness(
        version=name,
        into=target.name,
        adapter_id=adapter.id,
        outcome="stale" if is_stale else "fresh",
        pairs=len(found),
        then=then,
        now=bounds.mean,
        upper=bounds.upper,
        sentence=f"The adapter from {name} into {target.name} {words} (mean cosine {bounds.mean:.3f} on {len(found)} pairs, then {then:.3f}).",
    )


def newest(conn: psycopg.Connection, index: OpenIndex, name: str) -> Adapter:
    """The newest adapter from `name` into the version that serves; AdapterRefused where there is none of these two spaces."""
    serves = serving.read(conn, index.name).version
    adapter = None if serves is None else adapters.latest(conn, index.name, name, serves)
    if adapter is None:
        raise AdapterRefused(
            f"There is no adapter from {name} into what serves {index.name}.",
            next_step=f"Run: embed-pipeline fit {index.name} {name}",
            reason="no_adapter",
        )
    if not adapter.is_of(index.version(conn, name), index.version(conn, adapter.to_version)):
        raise AdapterRefused(
            f"Adapter {adapter.id} of {index.name} was fitted between other spaces than {name} and {adapter.to_version} are now.",
            next_step=f"Run: embed-pipeline fit {index.name} {name}",
            reason="other_fingerprint",
        )
    return adapter
