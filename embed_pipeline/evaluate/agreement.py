"""How far two ranked lists agree, by the documents that both have and by where these stand."""

from __future__ import annotations

from collections.abc import Sequence

# The weight of each place is so much of the one before it: nine tenths of all weight are on the first ten places.
PERSISTENCE = 0.9


def overlap(first: Sequence[str], second: Sequence[str]) -> float:
    """The share of documents that two lists have in common, 0..1."""
    return len(set(first) & set(second)) / max(len(first), len(second), 1)


def rank_biased_overlap(first: Sequence[str], second: Sequence[str], persistence: float = PERSISTENCE) -> float:
    """Agreement of two lists without repetitions, 0..1, whose first places count most; extrapolated from what is seen of them.

    Webber, Moffat, Zobel, A similarity measure for indefinite rankings, ACM TOIS 2010, 28:20, equation 32. Unlike Kendall's tau it needs no
    documents in common, and lists may be of different lengths.
    """
    shorter, longer = sorted((first, second), key=len)
    if not shorter:
        return 0.0
    seen_short: set[str] = set()
    seen_long: set[str] = set()
    common, common_short, total = 0, 0, 0.0
    for depth in range(1, len(longer) + 1):
        if depth <= len(shorter):
            common += (shorter[depth - 1] in seen_long) + (longer[depth - 1] in seen_short)
            common += shorter[depth - 1] == longer[depth - 1]
            seen_short.add(shorter[depth - 1])
            common_short = common
        else:
            common += longer[depth - 1] in seen_short
            total += common_short * (depth - len(shorter)) / (len(shorter) * depth) * persistence**depth
        seen_long.add(longer[depth - 1])
        total += common / depth * persistence**depth
    tail = (common - common_short) / len(longer) + common_short / len(shorter)
    return (1 - persistence) / persistence * total + tail * persistence ** len(longer)
