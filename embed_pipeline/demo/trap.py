"""The trap: a scratch copy of a sample is overwritten in place, vector by vector, while every request succeeds."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from pgvector import Vector

from embed_pipeline.demo.corpus import DocstringDocument
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
    conn: psycopg.Connection, sample: list[DocstringDocument], old: VersionEmbedder, new: VersionEmbedder
) -> list[TrapPoint]:
    """Do what people do: UPDATE the one embedding column. Nothing errors at any point; only the answers get worse."""
    texts = [document.text for document in sample]
    old_vectors, new_vectors = old.embed_documents(texts).vectors, new.embed_documents(texts).vectors
    questions = [document.query for document in sample]
    old_queries, new_queries = old.embed_queries(questions).vectors, new.embed_queries(questions).vectors
    conn.execute("CREATE TEMP TABLE in_place (number integer PRIMARY KEY, embedding vector(384))")
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO in_place VALUES (%s, %s)", [(number, Vector(vector)) for number, vector in enumerate(old_vectors)]
        )
    points = []
    done = 0
    for share in SHARES:
        until = round(share * len(sample))
        with conn.cursor() as cursor:
            cursor.executemany(
                "UPDATE in_place SET embedding = %s WHERE number = %s",
                [(Vector(new_vectors[number]), number) for number in range(done, until)],
            )
        done = until
        points.append(TrapPoint(share, _recall(conn, old_queries), _recall(conn, new_queries)))
    return points


def _recall(conn: psycopg.Connection, queries: Vectors) -> float:
    """Share of queries whose own document is among the ten nearest, by exact search."""
    found = 0
    for number, query in enumerate(queries):
        rows = conn.execute("SELECT number FROM in_place ORDER BY embedding <=> %s LIMIT 10", (Vector(query),)).fetchall()
        found += (number,) in rows
    return found / len(queries)
