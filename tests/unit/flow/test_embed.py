"""Whole documents in, whole documents out: split, embedded and gathered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.protocol import Embedded, Role
from embed_pipeline.flow import embed
from embed_pipeline.spec import VersionSpec
from tests.harness.fakes import WordsEmbedder


def opened(**overrides: Any) -> VersionEmbedder:
    declared = {
        "provider": "tests.harness.fakes:WordsEmbedder",
        "model_name": "words",
        "dimensions": 16,
        "chunker": {"size": 20},
        "batch_size": 2,
        "options": {"fail_on": "poison"},
    }
    return VersionEmbedder.open(VersionSpec.model_validate(declared | overrides))


DOCUMENTS = [
    ("one", "short", b"1"),
    ("many", "first paragraph of\n\nsecond paragraph of\n\nthird paragraph of", b"2"),
    ("blank", " \n ", b"3"),
    ("bad", "begins well enough\n\nand then poison\n\nends well enough ", b"4"),
]


def test_documents_are_gathered_with_the_vectors_and_offsets_of_their_own_chunks() -> None:
    embedder = opened()
    batch, letters, truncated = embed.embed_batch(embedder, DOCUMENTS)
    assert (batch.doc_ids, batch.hashes, batch.chunks, truncated) == (["one", "many"], [b"1", b"2"], [1, 3], 0)
    assert batch.offsets is not None
    texts = {doc_id: text for doc_id, text, _ in DOCUMENTS}
    owners = [doc_id for doc_id, chunks in zip(batch.doc_ids, batch.chunks, strict=True) for _ in range(chunks)]
    words = WordsEmbedder(dimensions=16, model_name="words")
    for owner, (start, end), vector in zip(owners, batch.offsets, batch.vectors, strict=True):
        expected = words.vector(texts[owner][start:end])
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-6)
    assert letters == {
        "blank": (b"3", "empty text"),
        "bad": (b"4", "chunk 2 of 3 (characters 20 to 35): told to fail on 'poison'"),
    }


def test_the_embedder_is_asked_in_batches_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    answer = WordsEmbedder.embed

    def counted(self: WordsEmbedder, texts: list[str], role: Role) -> Embedded:
        asked.append(len(texts))
        return answer(self, texts, role)

    monkeypatch.setattr(WordsEmbedder, "embed", counted)
    embed.embed_batch(opened(), DOCUMENTS)
    assert asked == [2, 2, 2, 1]


def test_truncated_counts_documents_and_not_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(self: WordsEmbedder, texts: list[str], role: Role) -> Embedded:
        return Embedded(np.ones((len(texts), 16), dtype=np.float32), truncated=frozenset(range(len(texts))))

    monkeypatch.setattr(WordsEmbedder, "embed", cut)
    assert embed.embed_batch(opened(too_long="truncate"), DOCUMENTS)[2] == 3
    batch, letters, truncated = embed.embed_batch(opened(), DOCUMENTS)
    assert (len(batch), truncated) == (0, 0)
    assert letters["many"][1] == "chunk 1 of 3 (characters 0 to 18): over the token limit: the embedder cut it"


def test_portions_hold_a_bounded_number_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "MOST_CHUNKS", 10)
    documents = [(str(n), "x" * (20 * length), b"") for n, length in enumerate([4, 4, 4, 50, 1, 1])]
    portions = list(embed.portions(opened(), documents))
    assert [[doc_id for doc_id, _, _ in portion] for portion in portions] == [["0", "1"], ["2"], ["3"], ["4", "5"]]
    assert list(embed.portions(opened(chunker=None), documents)) == [documents]
    assert list(embed.portions(opened(), [])) == []
