"""Embedding whole documents: split as the version says, all passages embedded, and gathered again document by document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from embed_pipeline.documents.texts import DocumentText, Rejection
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.chunker import Passage
from embed_pipeline.embedders.protocol import Embedded, Urgency
from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.flow.packs import Prepared, prepare
from embed_pipeline.stores.protocol import EmbeddedBatch

# What is embedded and written together, of a version with a chunker: about so many chunks, or one document if it alone has more.
MOST_CHUNKS = 4_000


@dataclass(frozen=True)
class Gathered:
    """The result for some documents: the batch to write, the dead letters by id, and how many were truncated.

    `failure`: why the others among them are in neither; None where all are. What is here is paid for.
    """

    batch: EmbeddedBatch
    letters: dict[str, Rejection]
    truncated: int
    failure: EmbedPipelineError | None = None

    @property
    def documents(self) -> int:
        """How many there are to write, dead letters included."""
        return len(self.batch) + len(self.letters)

    def whole(self) -> Gathered:
        """The same, where it is all of them; else raises `failure`."""
        if self.failure is not None:
            raise self.failure
        return self


def embed_documents(
    embedder: VersionEmbedder, documents: Sequence[DocumentText], urgency: Urgency = Urgency.BACKFILL
) -> Gathered:
    """Split, count and embed documents in one."""
    if embedder.chunker is not None:
        return embed_prepared(embedder, prepare(embedder, documents), urgency)
    answer = embedder.ask_documents([document.text for document in documents], urgency)
    if answer.rejected or answer.unanswered:
        return _gathered([Prepared(each, [Passage(0, len(each.text))], [0]) for each in documents], answer, is_split=False)
    # All of them, as almost always: nothing is picked out of anything.
    doc_ids, hashes = [each.doc_id for each in documents], [each.source_hash for each in documents]
    batch = EmbeddedBatch(doc_ids, hashes, [1] * len(documents), answer.vectors, tokens=answer.tokens)
    return Gathered(batch, {}, len(answer.truncated), answer.failure)


def embed_prepared(embedder: VersionEmbedder, prepared: Sequence[Prepared], urgency: Urgency = Urgency.BACKFILL) -> Gathered:
    """Embed documents that were split and counted before.

    A document of which one chunk can have no vector is a dead letter as a whole: half a document would be found for half
    of what it says, and nothing would tell. One with a chunk that was not answered is neither written nor a dead letter.
    """
    pieces = [piece for each in prepared for piece in each.pieces]
    tokens = [count for each in prepared for count in each.tokens]
    return _gathered(prepared, embedder.ask_documents(pieces, urgency, tokens), is_split=embedder.chunker is not None)


def _gathered(prepared: Sequence[Prepared], answer: Embedded, *, is_split: bool) -> Gathered:
    """The answer document by document."""
    chunks = [len(each.passages) for each in prepared]
    owners = np.repeat(np.arange(len(prepared)), chunks)
    left = {int(owners[n]) for n in answer.unanswered}
    rejected = _rejected_documents(answer, owners, prepared)
    kept = [n for n in range(len(prepared)) if n not in rejected and n not in left]
    offsets = [passage for n in kept for passage in prepared[n].passages]
    batch = EmbeddedBatch(
        doc_ids=[prepared[n].document.doc_id for n in kept],
        hashes=[prepared[n].document.source_hash for n in kept],
        chunks=[chunks[n] for n in kept],
        vectors=answer.vectors if len(kept) == len(prepared) else answer.vectors[np.isin(owners, kept)],
        offsets=np.array(offsets, dtype=np.int32).reshape(-1, 2) if is_split else None,
        tokens=answer.tokens,
    )
    truncated = {int(owners[n]) for n in answer.truncated} - rejected.keys() - left
    letters = {prepared[n].document.doc_id: Rejection(prepared[n].document.source_hash, reason) for n, reason in rejected.items()}
    return Gathered(batch, letters, len(truncated), answer.failure)


def _rejected_documents(answer: Embedded, owners: np.ndarray, prepared: Sequence[Prepared]) -> dict[int, str]:
    """Document -> reason, from the first of its chunks that was rejected."""
    rejected: dict[int, str] = {}
    for position, reason in sorted(answer.rejected.items()):
        document = int(owners[position])
        if document in rejected:
            continue
        passages = prepared[document].passages
        where = ""
        if len(passages) > 1:
            number = position - int(np.searchsorted(owners, document))
            start, end = passages[number]
            where = f"chunk {number + 1} of {len(passages)} (characters {start} to {end}): "
        rejected[document] = where + reason
    return rejected


def portions(embedder: VersionEmbedder, documents: Sequence[DocumentText]) -> Iterator[list[DocumentText]]:
    """`documents` in order, in portions that hold about MOST_CHUNKS chunks each: long texts must not fill the memory.

    Without a chunker it is one portion, since a document is one vector.
    """
    characters = embedder.passage_characters
    if characters is None:
        yield list(documents)
        return
    portion: list[DocumentText] = []
    held = 0
    for document in documents:
        chunks = 1 + len(document.text) // characters
        if portion and held + chunks > MOST_CHUNKS:
            yield portion
            portion, held = [], 0
        portion.append(document)
        held += chunks
    if portion:
        yield portion
