"""Embedding whole documents: split as the version says, all passages embedded, and gathered again document by document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.chunker import Passage
from embed_pipeline.embedders.protocol import Embedded, Urgency
from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.signals import signal
from embed_pipeline.stores.protocol import EmbeddedBatch

# What is embedded and written together, of a version with a chunker: about so many chunks, or one document if it alone has more.
MOST_CHUNKS = 4_000

D = TypeVar("D", bound=tuple[str, str, bytes])


class Gathered(NamedTuple):
    """What came of some documents: what is to be written, the dead letters (id -> hash and reason), how many were truncated."""

    batch: EmbeddedBatch
    letters: dict[str, tuple[bytes, str]]
    truncated: int


def embed_batch(
    embedder: VersionEmbedder, documents: Sequence[tuple[str, str, bytes]], urgency: Urgency = Urgency.BACKFILL
) -> Gathered:
    """Embed (id, text, hash) triples: (batch, dead letters, how many documents were truncated).

    A document of which one chunk can have no vector is a dead letter as a whole: half a document would be found for half
    of what it says, and nothing would tell. An error after some of them were answered has these in `paid`, in the same form (`paid_for`).
    """
    split = None if embedder.chunker is None else [embedder.passages(text) for _, text, _ in documents]
    if split is not None:
        signal("embed.split")
    try:
        answer = embedder.embed_documents(_pieces(documents, split), urgency)
    except EmbedPipelineError as problem:
        if isinstance(problem.paid, Embedded):
            problem.paid = _gathered(documents, split, problem.paid)
        raise
    return _gathered(documents, split, answer)


def paid_for(problem: BaseException) -> Gathered | None:
    """What `embed_batch` had gathered before it failed, to be written all the same; None when there is nothing."""
    paid = problem.paid if isinstance(problem, EmbedPipelineError) else None
    return paid if isinstance(paid, Gathered) else None


def _pieces(documents: Sequence[tuple[str, str, bytes]], split: Sequence[Sequence[Passage]] | None) -> list[str]:
    if split is None:
        return [text for _, text, _ in documents]
    return [text[start:end] for (_, text, _), passages in zip(documents, split, strict=True) for start, end in passages]


def _gathered(
    documents: Sequence[tuple[str, str, bytes]], split: Sequence[Sequence[Passage]] | None, answer: Embedded
) -> Gathered:
    """The answer document by document. One with an unanswered passage is left out: it is neither written nor a dead letter."""
    chunks = [1] * len(documents) if split is None else [len(passages) for passages in split]
    owners = np.repeat(np.arange(len(documents)), chunks)
    left = {int(owners[n]) for n in answer.unanswered}
    if split is None and not (answer.rejected or left):
        # All of them, as almost always: nothing is picked out of anything.
        doc_ids, _, hashes = zip(*documents, strict=True) if documents else ((), (), ())
        batch = EmbeddedBatch(list(doc_ids), list(hashes), chunks, answer.vectors, tokens=answer.tokens)
        return Gathered(batch, {}, len(answer.truncated))
    rejected = _rejected_documents(answer, owners, split)
    kept = [n for n in range(len(documents)) if n not in rejected and n not in left]
    batch = EmbeddedBatch(
        doc_ids=[documents[n][0] for n in kept],
        hashes=[documents[n][2] for n in kept],
        chunks=[chunks[n] for n in kept],
        vectors=answer.vectors if len(kept) == len(documents) else answer.vectors[np.isin(owners, kept)],
        offsets=None
        if split is None
        else np.array([passage for n in kept for passage in split[n]], dtype=np.int32).reshape(-1, 2),
        tokens=answer.tokens,
    )
    truncated = {int(owners[n]) for n in answer.truncated} - rejected.keys() - left
    return Gathered(batch, _letters(documents, rejected), len(truncated))


def _rejected_documents(answer: Embedded, owners: np.ndarray, split: Sequence[Sequence[Passage]] | None) -> dict[int, str]:
    """Document -> reason, from the first of its chunks that was rejected."""
    rejected: dict[int, str] = {}
    for position, reason in sorted(answer.rejected.items()):
        document = int(owners[position])
        if document in rejected:
            continue
        passages = [] if split is None else split[document]
        where = ""
        if len(passages) > 1:
            number = position - int(np.searchsorted(owners, document))
            start, end = passages[number]
            where = f"chunk {number + 1} of {len(passages)} (characters {start} to {end}): "
        rejected[document] = where + reason
    return rejected


def _letters(documents: Sequence[tuple[str, str, bytes]], rejected: Mapping[int, str]) -> dict[str, tuple[bytes, str]]:
    return {documents[n][0]: (documents[n][2], reason) for n, reason in rejected.items()}


def portions(embedder: VersionEmbedder, documents: Sequence[D]) -> Iterator[list[D]]:
    """`documents` in order, in portions that hold about MOST_CHUNKS chunks each: long texts must not fill the memory.

    Without a chunker it is one portion, since a document is one vector.
    """
    characters = embedder.passage_characters
    if characters is None:
        yield list(documents)
        return
    portion: list[D] = []
    held = 0
    for document in documents:
        chunks = 1 + len(document[1]) // characters
        if portion and held + chunks > MOST_CHUNKS:
            yield portion
            portion, held = [], 0
        portion.append(document)
        held += chunks
    if portion:
        yield portion
