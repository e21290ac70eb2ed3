"""Fits the map of a bridge from pairs that two versions have already, chooses its kind on pairs held out, and keeps it.

The map is fitted again on all pairs once its kind is chosen; what is kept as its agreement was measured without those held out.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass

import numpy as np
import psycopg

from embed_pipeline.adapt import agreement, pairs
from embed_pipeline.adapt.agreement import Agreement
from embed_pipeline.adapt.pairs import Pairs
from embed_pipeline.catalog import adapters, dead_letters, serving, versions
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import queue, slices
from embed_pipeline.documents.drawn import drawn
from embed_pipeline.embedders import maps
from embed_pipeline.embedders.maps import Kind, Map
from embed_pipeline.errors import AdapterRefused
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import ahead
from embed_pipeline.migrate.ahead import Ahead

LEAST_PAIRS = 300
# Of all pairs, and no fewer than these. What is left for the fit is then at least twice as many.
HELD_OUT_SHARE, LEAST_HELD_OUT = 0.2, 100
# The low-rank map lost in every run that was judged: it is there to be measured.
CHOSEN_FROM: tuple[Kind, ...] = ("procrustes", "procrustes_centred")
# The share of the spread that a second direction must have: below it all pairs lie on one line.
LEAST_SPREAD = 1e-4


@dataclass(frozen=True)
class Fitted:
    """An adapter that is kept: queries of `version` go through it into the index of `into`. `agreements`: of every kind that was tried.

    `unseen`: documents that `into` has nothing of. A bridge searches its vectors, and can never find them.
    """

    index: str
    version: str
    into: str
    adapter_id: int
    kind: Kind
    pairs: int
    held_out: int
    agreements: dict[Kind, Agreement]
    unseen: int
    sentence: str


def lacking(index: OpenIndex, name: str, wanted: int) -> Ahead:
    """What `name` has still to embed of `wanted` documents drawn at random from the version that serves, the same ones each time.

    For who has nothing of the new model yet, and no other road: the old model can be called no more.
    """
    with index.connection() as conn:
        _, target = direction(conn, index, name)
        every = (doc_id for portion in index.store(target).stored_ids(conn) for doc_id in portion)
        return ahead.look(conn, index, name, drawn(every, wanted, random.Random(0)))


def fit(index: OpenIndex, name: str, kind: Kind | None = None) -> Fitted:
    """Fit and keep the map from `name`'s queries into the version that serves. `kind`: that one, else the better of the two rotations.

    AdapterRefused, and nothing is kept, where the direction is wrong, a distance is not cosine, or the pairs are too few or say nothing.
    """
    with index.connection() as conn:
        source, target = direction(conn, index, name)
        wanted = index.spec.adapter.pairs
        found = pairs.read(conn, index.store(source), index.store(target), wanted)
        require_pairs(found, source, target)
        held_out = found.split(max(LEAST_HELD_OUT, round(HELD_OUT_SHARE * len(found))))
        tried = {each: _tried(each, found, held_out) for each in ((kind,) if kind is not None else CHOSEN_FROM)}
        best = max(tried, key=lambda each: (tried[each].neighbours, tried[each].cosine))
        unseen = documents_without(conn, index, target)
        measures = {
            **asdict(tried[best]),
            "held_out": int(held_out.sum()),
            "tried": {each: asdict(values) for each, values in tried.items()},
            "unseen": unseen,
        }
        with conn.transaction():
            number = adapters.store(
                conn,
                source,
                target,
                maps.fit(best, found.sources, found.targets),
                pairs=len(found),
                pairs_sha256=found.sha256,
                measures=measures,
            )
            sentence = _sentence(source, target, best, tried[best], len(found), unseen)
            versions.record_event(conn, index.name, "fit", version=source.name, reason=sentence)
    return Fitted(
        index=index.name,
        version=source.name,
        into=target.name,
        adapter_id=number,
        kind=best,
        pairs=len(found),
        held_out=int(held_out.sum()),
        agreements=tried,
        unseen=unseen,
        sentence=sentence,
    )


def direction(conn: psycopg.Connection, index: OpenIndex, name: str) -> tuple[Version, Version]:
    """(the new version whose queries are mapped, the one that serves); AdapterRefused where no map leads from the one into the other."""
    source = index.version(conn, name)
    serves = serving.read(conn, index.name).version
    if serves is None:
        raise AdapterRefused(
            f"No version of {index.name} serves yet, so there is no index that queries of {name} could be mapped into.",
            next_step=f"Run: embed-pipeline status {index.name}",
            reason="nothing_serves",
        )
    if serves == name:
        raise AdapterRefused(
            f"{name} serves {index.name}: a bridge takes queries of another version into it, and none of its own.",
            next_step=f"Name the version whose model shall ask: embed-pipeline fit {index.name} VERSION",
            reason="wrong_direction",
        )
    target = index.version(conn, serves)
    if not source.is_live:
        raise AdapterRefused(
            f"{name} of {index.name} is retired, and its vectors are gone.",
            next_step=f"Run: embed-pipeline status {index.name}",
            reason="retired",
        )
    for version in (source, target):
        if version.distance != "cosine":
            raise AdapterRefused(
                f"{version.name} of {index.name} is searched by {version.distance}, and a map between two spaces keeps angles only.",
                next_step=f"Backfill and cut over instead: embed-pipeline backfill {index.name} {name}",
                reason="not_cosine",
            )
    return source, target


def require_pairs(found: Pairs, source: Version, target: Version) -> None:
    """AdapterRefused where these pairs cannot carry a map."""
    between = f"{source.name} and {target.name} of {source.index}"
    if len(found) < LEAST_PAIRS <= found.same_text:
        raise AdapterRefused(
            f"{between} cut {found.same_text} common documents into other passages, and only {len(found)} pairs are of the same one.",
            next_step="Declare one chunker for both versions, or backfill and cut over.",
            reason="passages_differ",
        )
    if len(found) < LEAST_PAIRS:
        raise AdapterRefused(
            f"{between} have {len(found)} pairs of the same text, and a map from fewer than {LEAST_PAIRS} is worse than the old model.",
            next_step=f"Embed some first: embed-pipeline fit {source.index} {source.name} --pairs {LEAST_PAIRS}",
            reason="too_few_pairs",
            pairs=len(found),
        )
    for version, vectors in ((source, found.sources), (target, found.targets)):
        lengths = np.linalg.norm(vectors, axis=1)
        if not (np.isfinite(lengths).all() and lengths.min() > 0):
            raise AdapterRefused(
                f"{version.name} of {version.index} has vectors without a direction (zeros, or no numbers) among the pairs.",
                next_step=f"Run: embed-pipeline verify {version.index} {version.name} --sample {LEAST_PAIRS}",
                reason="degenerate_pairs",
            )
        if not _spreads(maps.unit(vectors)):
            raise AdapterRefused(
                f"The vectors of {version.name} of {version.index} among the pairs are one direction, or lie on one line.",
                next_step=f"Look at the model: embed-pipeline verify {version.index} {version.name} --sample {LEAST_PAIRS}",
                reason="degenerate_pairs",
            )


def documents_without(conn: psycopg.Connection, index: OpenIndex, version: Version) -> int:
    """Documents that a version has nothing of: they wait in its queue, or are its dead letters."""
    store = index.store(version)
    known = set(queue.ids_up_to(conn, index.name, version.name, queue.EVERYTHING))
    known |= {letter.doc_id for letter in dead_letters.first(conn, index.name, version.name, limit=queue.EVERYTHING)}
    ids, without = sorted(known), 0
    for start in range(0, len(ids), pairs.AT_ONCE):
        portion = ids[start : start + pairs.AT_ONCE]
        stored = store.stored_vectors(conn, portion)
        # What waits may be a removal.
        without += len(slices.read_current(conn, index.source, [each for each in portion if each not in stored]))
    return without


def _tried(kind: Kind, found: Pairs, held_out: np.ndarray) -> Agreement:
    fitted: Map = maps.fit(kind, *found.of(~held_out))
    return agreement.measure(fitted, found.sources, found.targets, held_out)


def _spreads(rows: maps.Doubles) -> bool:
    centred = rows - rows.mean(axis=0)
    # Eigenvalues of the smaller side, in rising order.
    square = centred.T @ centred if centred.shape[1] <= centred.shape[0] else centred @ centred.T
    spread = np.linalg.eigvalsh(square / len(rows))
    return len(spread) > 1 and bool(spread[-2] > LEAST_SPREAD**2)


def _sentence(source: Version, target: Version, kind: Kind, found: Agreement, count: int, unseen: int) -> str:
    hidden = f" {unseen} documents have nothing in {target.name}: a bridge cannot find them." if unseen else ""
    return (
        f"{kind} from {source.name} into {target.name}, from {count} pairs: finds {found.neighbours:.3f} of the new model's neighbours "
        f"({target.name} by itself {found.keep_old:.3f}), mean cosine {found.cosine:.3f}. "
        f"That says nothing of its answers: only the gate does.{hidden}"
    )
