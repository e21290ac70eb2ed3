"""Documents cut into requests of a provider: each pack is asked for, answered and kept by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from embed_pipeline.embedders.checked import VersionEmbedder

D = TypeVar("D", bound=tuple[str, str, bytes])


def packs(embedder: VersionEmbedder, documents: Sequence[D]) -> list[list[D]]:
    """`documents` in order, in packs that are one request each.

    A document that has more passages than a request takes is a pack of several requests: a document is written whole.
    """
    if embedder.chunker is not None:
        return list(_of_whole_documents(embedder, documents))
    return [list(documents[part]) for part in embedder.pack([text for _, text, _ in documents])]


def _of_whole_documents(embedder: VersionEmbedder, documents: Sequence[D]) -> Iterator[list[D]]:
    split = [[text[start:end] for start, end in embedder.passages(text)] for _, text, _ in documents]
    first = 0
    while first < len(documents):
        # No more is looked at than one request could hold: the rest is cut in its turn.
        passages: list[str] = []
        ends: list[int] = []
        for parts in split[first:]:
            passages += parts
            ends.append(len(passages))
            if len(passages) >= embedder.spec.texts_per_call:
                break
        fits = embedder.pack(passages)[0].stop
        count = max(1, sum(end <= fits for end in ends))
        yield list(documents[first : first + count])
        first += count
