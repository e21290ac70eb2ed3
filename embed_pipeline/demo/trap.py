"""The trap: a scratch copy of a sample is overwritten in place, vector by vector, while every request succeeds."""

from __future__ import annotations

from dataclasses import dataclass

from embed_pipeline.demo.corpus import DocstringDocument
from embed_pipeline.demo.stage import Scratch
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.protocol import Vectors

SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class TrapPoint:
    """Recall@10 when `share` of the vectors are the new model's: of queries by the old model, and by the new one."""

    share: float
    old_queries: float
    new_queries: float


def overwrite_in_place(
    scratch: Scratch, sample: list[DocstringDocument], old: VersionEmbedder, new: VersionEmbedder
) -> list[TrapPoint]:
    """Do what people do: overwrite the one vector of each document. Nothing errors at any point; only the answers get worse."""
    texts = [document.text for document in sample]
    old_vectors, new_vectors = old.embed_documents(texts).vectors, new.embed_documents(texts).vectors
    questions = [document.query for document in sample]
    old_queries, new_queries = old.embed_queries(questions).vectors, new.embed_queries(questions).vectors
    scratch.put(range(len(sample)), old_vectors)
    points = []
    done = 0
    for share in SHARES:
        until = round(share * len(sample))
        scratch.put(range(done, until), new_vectors[done:until])
        done = until
        points.append(TrapPoint(share, _recall(scratch, old_queries), _recall(scratch, new_queries)))
    return points


def _recall(scratch: Scratch, queries: Vectors) -> float:
    """Share of queries whose own document is among the ten nearest."""
    return sum(number in scratch.nearest(query) for number, query in enumerate(queries)) / len(queries)
