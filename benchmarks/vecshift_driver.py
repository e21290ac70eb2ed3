"""vecshift's own migration of the table `documents`, with an embedder that costs nothing. Runs in a venv that has vecshift, not us.

    python -m benchmarks.vecshift_driver URL DIMENSIONS FOLDER

Prints seconds and rows as JSON. It is its library that is called, as its command `apply` does, without the index build at the end.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psycopg
from vecshift.connectors.pgvector.writer import Layout, PgWriter
from vecshift.embeddings.providers import CONCURRENCY
from vecshift.migrate import JobState, apply

from benchmarks.embedder import vectors

# The rows that its command takes at once: texts to a request by default, requests at once.
CHUNK_ROWS = 64 * CONCURRENCY


class Embedder:
    """What vecshift asks of a model."""

    tokens = 0

    def __init__(self, dimensions: int) -> None:
        self._dimensions = dimensions

    async def embed(self, texts: Sequence[str], mode: str = "document") -> list[list[float]]:
        found: list[list[float]] = vectors(texts, self._dimensions).tolist()
        return found


def main() -> None:
    url, dimensions, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    layout = Layout("public", "documents", "id", "body", "embedding_v2", "vector", dimensions, "public", live="embedding")
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as conn:
        writer = PgWriter(conn, layout)
        state = JobState.for_job(folder / "job.yaml", "bench")
        cpu, started = time.process_time(), time.monotonic()
        done = asyncio.run(
            apply(
                writer,
                Embedder(dimensions),
                state,
                dims=dimensions,
                price_per_million=None,
                budget_usd=None,
                chunk_rows=CHUNK_ROWS,
                index=None,
            )
        )
        seconds = time.monotonic() - started
    spent = time.process_time() - cpu
    print(
        json.dumps({"seconds": seconds, "cpu": spent, "rows": done.rows_written, "status": done.status, "message": done.message})
    )


if __name__ == "__main__":
    main()
