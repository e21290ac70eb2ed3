"""Texts cut into requests: contiguous, in order, each within what a provider takes in one."""

from __future__ import annotations

from collections.abc import Sequence


def pack(tokens: Sequence[int], most_texts: int, most_tokens: int) -> list[slice]:
    """Slices over `tokens` (of each text) that hold at most so many texts and tokens; a text above `most_tokens` stands alone."""
    packs: list[slice] = []
    start = held = 0
    for position, count in enumerate(tokens):
        if position > start and (position - start >= most_texts or held + count > most_tokens):
            packs.append(slice(start, position))
            start, held = position, 0
        held += count
    if start < len(tokens):
        packs.append(slice(start, len(tokens)))
    return packs
