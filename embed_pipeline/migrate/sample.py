"""Embeds a random sample again and compares it with the stored vectors: finds a vector that was written by hand.

Such a vector carries the right hash, so no comparison of hashes finds it. Only the model itself can tell, and it is asked for no more than
the sample's documents.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import psycopg
from numpy.typing import NDArray

from embed_pipeline.catalog import versions
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import slices
from embed_pipeline.documents.drawn import drawn
from embed_pipeline.documents.texts import DocumentText
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.protocol import Urgency, Vectors
from embed_pipeline.flow.embed import embed_documents, portions
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate.standing import unless_dropped
from embed_pipeline.stores.protocol import EmbeddedBatch, StoredVectors

# Documents whose vectors are held in memory together.
AT_ONCE = 1_000


@dataclass(frozen=True)
class Sampled:
    """What a sample of one version showed. `differing`: the documents with a vector that is not the model's, each with its cosine.

    `skipped` of the sample were not compared: their text has changed since (the queue has them), or the model rejects it now.
    `lowest` and `median` are of the documents' cosines, a document's being that of its worst passage; None when none was compared.
    `usd` is what it cost; None where nobody is paid or no price is known.
    """

    version: str
    asked: int
    compared: int
    skipped: int
    least: float
    lowest: float | None
    median: float | None
    differing: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    usd: float | None = None


def sample(index: OpenIndex, name: str | None, size: int) -> list[Sampled]:
    """Embed up to `size` random documents of one version, or of every live one, again; costs are counted as `check`.

    Raises EmbedderError when a model does not answer, WrongSpace when it is not the registered one, VectorsGone without vectors.
    """
    with index.connection() as conn:
        chosen = [index.version(conn, name)] if name else versions.live_versions(conn, index.name)
        return [_sampled(conn, index, version, size) for version in chosen]


def _sampled(conn: psycopg.Connection, index: OpenIndex, version: Version, size: int) -> Sampled:
    store, least = index.store(version), index.spec.model_check.min_cosine
    before, tokens = index.spent(version.name, "check"), 0
    cosines: dict[str, float] = {}
    with unless_dropped(index, version):
        ids = drawn((doc_id for portion in store.stored_ids(conn) for doc_id in portion), size, random.Random())
        for start in range(0, len(ids), AT_ONCE):
            stored = store.stored_vectors(conn, ids[start : start + AT_ONCE])
            # After the vectors: what was changed in between has another hash now, and is the queue's.
            current = slices.read_current(conn, index.source, list(stored))
            same = [doc_id for doc_id in stored if doc_id in current and current[doc_id][1] == stored[doc_id].source_hash]
            found, billed = _cosines(
                index.embedder_of(version), version, [DocumentText(each, *current[each]) for each in same], stored
            )
            cosines, tokens = cosines | found, tokens + billed
    values = list(cosines.values())
    return Sampled(
        version=version.name,
        asked=len(ids),
        compared=len(values),
        skipped=len(ids) - len(values),
        least=least,
        lowest=min(values) if values else None,
        median=float(np.median(values)) if values else None,
        differing={doc_id: cosine for doc_id, cosine in sorted(cosines.items(), key=lambda each: each[1]) if cosine < least},
        tokens=tokens,
        usd=index.spent(version.name, "check").since(before).usd,
    )


def _cosines(
    embedder: VersionEmbedder, version: Version, todo: list[DocumentText], stored: dict[str, StoredVectors]
) -> tuple[dict[str, float], int]:
    """Document -> the least cosine of its passages, and the tokens that were billed."""
    found: dict[str, float] = {}
    tokens = 0
    for part in portions(embedder, todo):
        batch = embed_documents(embedder, part, Urgency.CHECK).whole().batch
        tokens += batch.tokens
        for doc_id, vectors in _by_document(batch):
            found[doc_id] = agreement(stored[doc_id].vectors, vectors, with_length=version.distance != "cosine")
    return found, tokens


def _by_document(batch: EmbeddedBatch) -> Iterator[tuple[str, Vectors]]:
    ends = np.cumsum(batch.chunks)
    for doc_id, end, chunks in zip(batch.doc_ids, ends, batch.chunks, strict=True):
        yield doc_id, batch.vectors[end - chunks : end]


def agreement(there: NDArray[np.floating], now: Vectors, *, with_length: bool) -> float:
    """The least cosine of vectors row by row; 0 where there are more or fewer, or one is no direction.

    `with_length`: a distance that is not the cosine sees a vector's length as well, so another length counts as much as another direction.
    """
    if there.shape != now.shape or not there.size:
        return 0.0
    left, right = there.astype(np.float64), now.astype(np.float64)
    lengths = np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=1)
    with np.errstate(all="ignore"):
        agreed = np.einsum("ij,ij->i", left, right) / (lengths[0] * lengths[1])
        if with_length:
            agreed = agreed * np.minimum(lengths[0] / lengths[1], lengths[1] / lengths[0])
    return float(np.nan_to_num(agreed, nan=0.0, posinf=0.0, neginf=0.0).min())
