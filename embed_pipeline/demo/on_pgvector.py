"""The demo on pgvector: the index that assets/ declares, in the embedded PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psycopg
from pgvector import Vector
from psycopg import sql

from embed_pipeline.catalog.versions import Version
from embed_pipeline.demo.stage import StoredVector
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.postgres.connection import vector_schema
from embed_pipeline.postgres.home import default_home
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.spec import IndexSpec

queries = Queries(__file__, "on_pgvector.sql")


@dataclass
class TemporaryTable:
    """The scratch copy: a temporary table, and the UPDATE that people would run."""

    conn: psycopg.Connection
    schema: sql.Identifier
    """Of pgvector's type and operator."""

    def put(self, numbers: Sequence[int], vectors: Vectors) -> None:
        rows = [{"number": number, "vector": Vector(vector)} for number, vector in zip(numbers, vectors, strict=True)]
        with self.conn.cursor() as cursor:
            cursor.executemany(queries("put"), rows)

    def nearest(self, query: Vectors) -> list[int]:
        return [number for (number,) in self.conn.execute(queries("nearest", schema=self.schema), {"query": Vector(query)})]


class PgvectorStage:
    """Stage on pgvector."""

    in_one_process = False
    opening = ""
    ann_words = "ANN index valid"

    def __init__(self, spec: IndexSpec) -> None:
        self.spec = spec
        self.folder = default_home() / "demo"

    def declare(self) -> None:
        """Nothing: it is declared in assets/."""

    def scratch(self, conn: psycopg.Connection) -> TemporaryTable:
        schema = sql.Identifier(vector_schema(conn))
        conn.execute(queries("scratch", schema=schema))
        return TemporaryTable(conn, schema)

    def stored(self, conn: psycopg.Connection, version: Version, doc_ids: Sequence[str]) -> dict[str, StoredVector]:
        rows = conn.execute(queries("stored", table=version.table), {"doc_ids": list(doc_ids)})
        return {
            doc_id: StoredVector(np.asarray(vector.to_numpy()), label, made_at.timestamp())
            for doc_id, vector, label, made_at in rows
        }

    def told(self, index: OpenIndex) -> str:
        return ""

    def next_steps(self) -> str:
        return (
            f"  embed-pipeline status {self.spec.name}\n  embed-pipeline search {self.spec.name} 'read a file line by line'\n"
            "  make dev            the Dagster UI on the same index\n  assets/docs/defs.yaml   declare a v3 of your own"
        )
