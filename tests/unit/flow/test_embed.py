"""Whole documents in, whole documents out: split, embedded and gathered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from embed_pipeline.documents.texts import DocumentText
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.chunker import Chunker, Passage
from embed_pipeline.embedders.metering import Unmetered
from embed_pipeline.embedders.models import Limits
from embed_pipeline.embedders.protocol import Embedded, Role
from embed_pipeline.embedders.remote import RemoteEmbedder
from embed_pipeline.embedders.service import Reply
from embed_pipeline.embedders.tokens import Estimate
from embed_pipeline.flow import embed
from embed_pipeline.flow.packs import packs
from embed_pipeline.spec import AccountSpec, VersionSpec
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
    DocumentText("one", "short", b"1"),
    DocumentText("many", "first paragraph of\n\nsecond paragraph of\n\nthird paragraph of", b"2"),
    DocumentText("blank", " \n ", b"3"),
    DocumentText("bad", "begins well enough\n\nand then poison\n\nends well enough ", b"4"),
]


def test_documents_are_gathered_with_the_vectors_and_offsets_of_their_own_chunks() -> None:
    embedder = opened()
    gathered = embed.embed_documents(embedder, DOCUMENTS).whole()
    batch, letters, truncated = gathered.batch, gathered.letters, gathered.truncated
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
    embed.embed_documents(opened(), DOCUMENTS)
    assert asked == [2, 2, 2, 1]


def test_truncated_counts_documents_and_not_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(self: WordsEmbedder, texts: list[str], role: Role) -> Embedded:
        return Embedded(np.ones((len(texts), 16), dtype=np.float32), truncated=frozenset(range(len(texts))))

    monkeypatch.setattr(WordsEmbedder, "embed", cut)
    assert embed.embed_documents(opened(too_long="truncate"), DOCUMENTS).truncated == 3
    gathered = embed.embed_documents(opened(), DOCUMENTS)
    assert (len(gathered.batch), gathered.truncated) == (0, 0)
    assert gathered.letters["many"].reason == "chunk 1 of 3 (characters 0 to 18): over the token limit: the embedder cut it"


def test_portions_hold_a_bounded_number_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "MOST_CHUNKS", 10)
    documents = [DocumentText(str(n), "x" * (20 * length), b"") for n, length in enumerate([4, 4, 4, 50, 1, 1])]
    portions = list(embed.portions(opened(), documents))
    assert [[doc_id for doc_id, _, _ in portion] for portion in portions] == [["0", "1"], ["2"], ["3"], ["4", "5"]]
    assert list(embed.portions(opened(chunker=None), documents)) == [documents]
    assert list(embed.portions(opened(), [])) == []


@pytest.mark.parametrize("chunker", [None, {"size": 200}])
def test_each_document_is_split_once_and_each_passage_counted_once(
    chunker: dict[str, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where requests hold fewer than a document has, and the last of them waits for what is read next."""
    split: Counter[str] = Counter()
    counted: Counter[str] = Counter()
    passages, count = Chunker.passages, Estimate.count

    def splitting(self: Chunker, text: str) -> list[Passage]:
        split[text] += 1
        return passages(self, text)

    def counting(self: Estimate, text: str) -> int:
        counted[text] += 1
        return count(self, text)

    monkeypatch.setattr(Chunker, "passages", splitting)
    monkeypatch.setattr(Estimate, "count", counting)
    spec = VersionSpec.model_validate(
        {"provider": "openai", "model_name": "text-embedding-3-small", "dimensions": 8, "chunker": chunker, "batch_size": 3}
    )
    embedder = VersionEmbedder(RemoteEmbedder(OnesService(), spec, AccountSpec(), Unmetered()), spec)
    split.clear()
    documents = [DocumentText(str(n), " ".join(f"word {n}.{place}" for place in range(100)), b"") for n in range(20)]
    prepared = embed.prepare(embedder, documents)
    for part in packs(embedder, prepared):
        assert embed.embed_prepared(embedder, part).whole().documents == len(part)
    assert split == ({} if chunker is None else dict.fromkeys((each.text for each in documents), 1))
    assert set(counted.values()) == {1}
    assert sum(counted.values()) == sum(len(each.passages) for each in prepared)


class OnesService:
    """A provider that answers every text with ones."""

    limits = Limits(texts=64, tokens=100_000, max_tokens=8_191)
    cuts = False

    def request(self, texts: Sequence[str], role: Role, *, cut: bool = False) -> Reply:
        return Reply(np.ones((len(texts), 8), np.float32), tokens=10 * len(texts))

    def leave_out(self, words: str) -> None:
        return None

    def identity(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        """Nothing is held."""
