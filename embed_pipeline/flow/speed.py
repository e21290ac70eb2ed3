"""How fast a version's model is, and what it refuses, cuts and bills, from a sample of the documents."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

from embed_pipeline.documents import census
from embed_pipeline.documents.source import Source
from embed_pipeline.documents.texts import DocumentText
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.protocol import Urgency
from embed_pipeline.flow.embed import embed_documents

SAMPLE = 64
BATCHES = 4


@dataclass(frozen=True)
class Speed:
    """Documents per second of the embedder alone, one call at a time; `slowest` and `fastest` are single batches."""

    documents: int
    batches: int
    mean: float
    slowest: float
    fastest: float

    def seconds(self, documents: int) -> tuple[float, float, float]:
        """(at the mean speed, at the fastest, at the slowest) for so many documents."""
        return documents / self.mean, documents / self.fastest, documents / self.slowest


@dataclass(frozen=True)
class Sample:
    """Measurements from embedding a sample of the documents. Without documents there is no speed."""

    documents: int
    rejected: int
    truncated: int
    chunks: int
    reasons: tuple[str, ...]
    speed: Speed | None
    billed: tuple[tuple[int, int], ...] = ()
    """(bytes of text, tokens that the provider billed for it) of each batch."""

    @property
    def chunks_per_document(self) -> float:
        """Of those documents of the sample that have vectors; 1.0 where nothing tells."""
        embedded = self.documents - self.rejected
        return self.chunks / embedded if embedded else 1.0


def summarise(batches: Sequence[tuple[int, float]]) -> Speed | None:
    """The speed from (documents, seconds) of each batch; None without any."""
    timed = [(count, max(seconds, 1e-9)) for count, seconds in batches if count]
    if not timed:
        return None
    rates = [count / seconds for count, seconds in timed]
    documents = sum(count for count, _ in timed)
    return Speed(documents, len(timed), documents / sum(seconds for _, seconds in timed), min(rates), max(rates))


def texts(conn: psycopg.Connection, source: Source) -> list[str]:
    """Up to SAMPLE texts, drawn at random from all documents."""
    return [text for _, text in census.sample(conn, source, SAMPLE)]


def measure(texts: Sequence[str], embedder: VersionEmbedder) -> Sample:
    """Embed these texts, in BATCHES calls, and say what that showed. A provider charges for it."""
    timings: list[tuple[int, float]] = []
    rejected: list[str] = []
    billed: list[tuple[int, int]] = []
    truncated = chunks = 0
    if texts:
        # Untimed: a model's first call also loads and warms it.
        embed_documents(embedder, [DocumentText("", texts[0], b"")], Urgency.CHECK).whole()
    size = max(1, min(math.ceil(len(texts) / BATCHES), embedder.spec.texts_per_call))
    for start in range(0, len(texts), size):
        batch = texts[start : start + size]
        began = time.perf_counter()
        documents = [DocumentText(str(n), text, b"") for n, text in enumerate(batch)]
        gathered = embed_documents(embedder, documents, Urgency.CHECK).whole()
        billed.append((sum(len(text.encode()) for text in batch), gathered.batch.tokens))
        timings.append((len(batch), time.perf_counter() - began))
        rejected += [reason for _, reason in gathered.letters.values()]
        truncated += gathered.truncated
        chunks += sum(gathered.batch.chunks)
    reasons = tuple(reason for reason, _ in _counted(rejected))
    return Sample(len(texts), len(rejected), truncated, chunks, reasons, summarise(timings), tuple(billed))


def _counted(values: Sequence[str]) -> list[tuple[str, int]]:
    """Distinct values, most frequent first."""
    return sorted(((value, values.count(value)) for value in set(values)), key=lambda each: (-each[1], each[0]))
