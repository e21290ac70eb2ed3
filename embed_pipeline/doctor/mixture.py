"""Finds vectors of two spaces in one column without any model: texts that are alike have vectors that are alike, within one space only. Pure.

Rows are split by their vectors alone, in many ways. A split by subject keeps texts that are alike together, and those that it parts are still
nearer to each other than strangers are. A split by space does neither: it parts texts that are alike as often as chance would, and theirs are
strangers' vectors. Both are asked of pairs of texts, which have had no part in the split.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embed_pipeline.doctor.findings import Finding
from embed_pipeline.doctor.sample import Matrix, Sample

Side = NDArray[np.bool_]
Pairs = NDArray[np.intp]

# What the statistics are compared with, and how often that errs: docs/doctor.md, made by `python -m benchmarks.mixtures`.
MOST_KINSHIP = 0.4
LEAST_PARTED = 0.75
# Bounds of one side at 99.5 %: one sample is asked about many splits.
BOUND = 2.58
LEAST_ROWS = 200
LEAST_PAIRS = 25
# All pairs of rows are compared: with 4,000 that takes 64 MB and seconds.
MOST_ROWS = 4_000

_WORD = re.compile(r"\w{2,}")
_WIDTH = 4_096
_LIKE = 4
_ALIKE, _SAME = 0.12, 0.97
_CLUSTERS = (2, 3, 5, 8, 12, 16, 24)
_ROUNDS = 25
_VOTERS = 6
_VOTES = 8
_REFINED = 16
_STRANGERS = 4_000
NAMED = 3


@dataclass(frozen=True)
class Mixture:
    """Two spaces. `other`: the rows of the smaller one. `low` and `high` bound its share among all rows."""

    other: Side
    share: float
    low: float
    high: float
    kinship: float
    """How much nearer texts that are alike are across the split than strangers, of how much nearer they are within it."""
    parted: float
    """How often the split parts texts that are alike, of how often chance would."""


def judge(sample: Sample, again: str) -> Iterator[Finding]:
    """Whether a sample holds vectors of two spaces. `again`: what mends that."""
    if not sample.rows:
        return
    if not sample.has_texts:
        sentence = "Without texts no mixture of two models' vectors can be told from two subjects."
        yield Finding("note", "mixture_not_looked_for", sentence, "Name the column or field of the text with --text.")
        return
    rows, vectors = sample.of_one_length()
    with_text = [n for n, each in enumerate(rows) if each.text and each.text.strip()][:MOST_ROWS]
    pairs = alike([rows[n].text or "" for n in with_text])
    if len(with_text) < LEAST_ROWS or len(pairs) < LEAST_ROWS:
        sentence = f"{len(with_text):,} texts, of which {len(pairs):,} pairs are alike, are too few to look for a mixture of two models' vectors."
        yield Finding("note", "mixture_not_looked_for", sentence, "Look at more with --sample, if there are more.")
        return
    found = find(vectors[with_text], pairs)
    if found is None:
        return
    named = [rows[n].key for n, is_other in zip(with_text, found.other, strict=True) if is_other]
    sentence = (
        f"The vectors are of two models: {100 * found.share:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f} %) are of another space than "
        f"the rest, and no query can find both: {', '.join(named[:NAMED])}{' and others' if len(named) > NAMED else ''}."
    )
    yield Finding("error", "mixture", sentence, again)


def alike(texts: Sequence[str]) -> Pairs:
    """Pairs of texts that share rare words [pairs, 2], without those that are all but the same."""
    if len(texts) < 2:
        return np.zeros((0, 2), np.intp)
    counts = np.zeros((len(texts), _WIDTH), np.float32)
    for row, text in enumerate(texts):
        for word in _WORD.findall(text.lower()):
            counts[row, zlib.crc32(word.encode()) % _WIDTH] += 1
    rarity = np.log((len(texts) + 1) / ((counts > 0).sum(axis=0) + 1)).astype(np.float32)
    weights = _directions(np.log1p(counts) * rarity)
    likeness = weights @ weights.T
    np.fill_diagonal(likeness, -1)
    likeness[likeness > _SAME] = -1
    some = min(_LIKE, len(texts) - 1)
    nearest = np.argpartition(-likeness, some - 1, axis=1)[:, :some]
    first = np.repeat(np.arange(len(texts)), some)
    second = nearest.ravel()
    enough = likeness[first, second] > _ALIKE
    pairs: Pairs = np.unique(np.sort(np.stack([first[enough], second[enough]], axis=1), axis=1), axis=0)
    return pairs


def find(vectors: Matrix, pairs: Pairs, seed: int = 0) -> Mixture | None:
    """The mixture of two spaces that `vectors` are, or None where nothing says that they are one. `pairs`: rows whose texts are alike."""
    random = np.random.default_rng(seed)
    directions = _directions(vectors)
    cosines = directions @ directions.T
    np.fill_diagonal(cosines, -1)
    splits = _splits(directions, random)
    judged = [(_kinship(cosines, split, pairs, random), n) for n, split in enumerate(splits)]
    promising = [splits[n] for found, n in sorted(judged, key=lambda each: np.inf if each[0] is None else each[0][0])[:_REFINED]]
    found = [each for each in (_mixture(cosines, split, pairs, random) for split in promising) if each is not None]
    if len(found) > 1:
        # A small space is often found in pieces.
        together = _mixture(cosines, np.logical_or.reduce([each.other for each in found]), pairs, random)
        found += [] if together is None else [together]
    return max(found, key=_completeness, default=None)


def _completeness(found: Mixture) -> float:
    """Part of a space looks like one, and a space with some subject of the other as well: the largest split that parts as chance does."""
    return float(found.share * min(found.parted, 1.0) ** 4)


def _mixture(cosines: Matrix, split: Side, pairs: Pairs, random: np.random.Generator) -> Mixture | None:
    other = _voted(cosines, split)
    if other.mean() > 0.5:
        other = ~other
    found = _kinship(cosines, other, pairs, random)
    if found is None:
        return None
    kinship, highest = found
    share = float(other.mean())
    parted = float((other[pairs[:, 0]] != other[pairs[:, 1]]).mean()) / (2 * share * (1 - share))
    if highest > MOST_KINSHIP or parted < LEAST_PARTED:
        return None
    low, high = _interval(share, len(other))
    return Mixture(other, share, low, high, kinship, parted)


def _kinship(cosines: Matrix, other: Side, pairs: Pairs, random: np.random.Generator) -> tuple[float, float] | None:
    """How much nearer parted texts that are alike are than strangers, of the same within the larger side, and a bound above; None: too few."""
    first, second = pairs.T
    parted = other[first] != other[second]
    larger = other if other.mean() > 0.5 else ~other
    within = larger[first] & larger[second]
    if parted.sum() < LEAST_PAIRS or within.sum() < LEAST_PAIRS:
        return None
    here, there = np.flatnonzero(larger), np.flatnonzero(~larger)
    near = cosines[first[within], second[within]].mean() - _strangers(cosines, here, here, random)
    across = cosines[first[parted], second[parted]]
    gap = across.mean() - _strangers(cosines, here, there, random)
    if near <= 0:
        return None
    return float(gap / near), float((gap + BOUND * across.std() / np.sqrt(len(across))) / near)


def _strangers(cosines: Matrix, here: Pairs, there: Pairs, random: np.random.Generator) -> float:
    first, second = random.choice(here, _STRANGERS), random.choice(there, _STRANGERS)
    differ = first != second
    return float(cosines[first[differ], second[differ]].mean())


def _splits(directions: Matrix, random: np.random.Generator) -> list[Side]:
    """Each cluster against the rest, by several numbers of clusters: a small space is a cluster where there are many."""
    found = []
    for count in _CLUSTERS:
        labels = _clustered(directions, count, random)
        found += [labels == each for each in range(count)]
    return [each for each in found if _VOTERS < each.sum() < len(each) - _VOTERS]


def _clustered(directions: Matrix, count: int, random: np.random.Generator) -> NDArray[np.intp]:
    centres = directions[random.choice(len(directions), 1)]
    farness = 1 - directions @ centres[0]
    for _ in range(count - 1):
        weight = np.maximum(farness, 1e-6).astype(np.float64) ** 2
        centres = np.vstack([centres, directions[random.choice(len(directions), p=weight / weight.sum())]])
        farness = np.minimum(farness, 1 - directions @ centres[-1])
    labels = np.zeros(len(directions), np.intp)
    for _ in range(_ROUNDS):
        now = (directions @ centres.T).argmax(axis=1)
        if (now == labels).all():
            break
        labels = now
        for each in range(count):
            if (labels == each).any():
                centres[each] = directions[labels == each].mean(axis=0)
        centres = _directions(centres)
    return labels


def _voted(cosines: Matrix, side: Side) -> Side:
    """Each row goes to the side that has the nearer of its nearest rows, until nothing moves: the border between two spaces is sharp."""
    for _ in range(_VOTES):
        if not _VOTERS < side.sum() < len(side) - _VOTERS:
            return side
        now = _nearness(cosines[:, side]) > _nearness(cosines[:, ~side])
        if (now == side).all():
            return side
        side = now
    return side


def _nearness(cosines: Matrix) -> NDArray[np.float32]:
    nearest: NDArray[np.float32] = np.partition(cosines, -_VOTERS, axis=1)[:, -_VOTERS:].mean(axis=1)
    return nearest


def _interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's, at 95 %."""
    z2 = 1.96**2 / count
    middle, half = share + z2 / 2, 1.96 * np.sqrt(share * (1 - share) / count + z2 / count / 4)
    return float((middle - half) / (1 + z2)), float((middle + half) / (1 + z2))


def _directions(vectors: Matrix) -> Matrix:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions: Matrix = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return directions
