"""Documents split into passages and counted once, and cut into requests of a provider by these counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from embed_pipeline.documents.texts import DocumentText
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.chunker import Passage
from embed_pipeline.signals import signal


class Prepared(NamedTuple):
    """A document as its version embeds it. `tokens`: of each passage, by our count, prefixes included; 0 where nobody bills."""

    document: DocumentText
    passages: Sequence[Passage]
    tokens: Sequence[int]

    @property
    def pieces(self) -> list[str]:
        """The text of each passage."""
        return [self.document.text[start:end] for start, end in self.passages]


def prepare(embedder: VersionEmbedder, documents: Sequence[DocumentText]) -> list[Prepared]:
    """Split each document as the version says, and count its passages: both once, whatever is cut from them later."""
    split = [embedder.passages(document.text) for document in documents]
    if embedder.chunker is not None:
        signal("embed.split")
    counts = iter(
        embedder.count(
            [document.text[start:end] for document, passages in zip(documents, split, strict=True) for start, end in passages]
        )
    )
    return [
        Prepared(document, passages, [next(counts) for _ in passages])
        for document, passages in zip(documents, split, strict=True)
    ]


def packs(embedder: VersionEmbedder, documents: Sequence[Prepared]) -> list[list[Prepared]]:
    """`documents` in order, in packs that are one request each.

    A document that has more passages than a request takes is a pack of several requests: a document is written whole.
    """
    return list(_of_whole_documents(embedder, documents))


def _of_whole_documents(embedder: VersionEmbedder, documents: Sequence[Prepared]) -> Iterator[list[Prepared]]:
    first = 0
    while first < len(documents):
        # No more is looked at than one request could hold: the rest is cut in its turn.
        tokens: list[int] = []
        ends: list[int] = []
        for document in documents[first:]:
            tokens += document.tokens
            ends.append(len(tokens))
            if len(tokens) >= embedder.spec.texts_per_call:
                break
        fits = embedder.cut(tokens)[0].stop
        count = max(1, sum(end <= fits for end in ends))
        yield list(documents[first : first + count])
        first += count
