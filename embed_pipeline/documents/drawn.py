"""Ids drawn at random from a stream of them."""

from __future__ import annotations

import random
from collections.abc import Iterable


def drawn(ids: Iterable[str], size: int, chance: random.Random) -> list[str]:
    """`size` of the ids, or all where there are fewer; each with the same probability, in one pass."""
    kept: list[str] = []
    for number, doc_id in enumerate(ids):
        if number < size:
            kept.append(doc_id)
        elif (place := chance.randrange(number + 1)) < size:
            kept[place] = doc_id
    return kept
