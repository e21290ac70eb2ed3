"""The gate: how long it takes to judge a version against the serving one, and how much memory.

    python -m benchmarks.gate [--documents 5000 20000] [--queries 100] [--rounds 2] [--full]

Every query is searched through the index and exactly, in both versions. Beside it the least that exact search can cost: one pass over all
vectors of a version, block by block, each block one matrix product with all queries. Each runs in a process of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
from psycopg import sql

from benchmarks import stage, table, tables
from benchmarks.cutover import judged, write_holdout
from benchmarks.embedder import vectors
from benchmarks.stage import Stage
from benchmarks.workers import Start, Together, together
from embed_pipeline.migrate import gate
from embed_pipeline.migrate.opening import opened

VERSIONS = ("v1", "v2")
# On the wire a row of one vector is: the number of columns, the field's length, dimensions and a zero, and the numbers.
HEADER, ROW_HEAD = 19, 10
ROW = ROW_HEAD + 4 * stage.DIMENSIONS
BLOCK = 2_000


def main() -> None:
    wanted = stage.options(
        __doc__, documents=((5_000, 20_000), (25_000, 100_000)), queries=(100, 1_000), length=(55, 1_000), rounds=(2, 3)
    )
    with stage.running({"shared_buffers": "1GB", "max_wal_size": "8GB"}) as running:
        rows = [row for documents in wanted.documents for row in _rows(running, documents, wanted)]
    table.heading(f"Gate: {wanted.queries:,} queries in {len(VERSIONS)} versions, {stage.DIMENSIONS}-d, {wanted.rounds} rounds")
    columns = [
        "vectors a version",
        "",
        "seconds",
        "against the products",
        "client CPU s",
        "server CPU s",
        "peak MB",
        "of that before",
    ]
    table.write(columns, rows)


def _rows(running: Stage, documents: int, wanted: argparse.Namespace) -> Iterator[list[str]]:
    url = running.fresh(running.documents(documents, wanted.length))
    holdout = write_holdout(running.folder / f"holdout_{documents}.jsonl", url, wanted.queries)
    with opened(stage.declared(url, *VERSIONS, **judged(holdout))) as index:
        stage.fill(index, "v1")
        stage.serve(index, "v1")
        stage.fill(index, "v2")
        with index.connection() as conn:
            held = [tables.vectors(index.version(conn, version)).as_string(conn) for version in VERSIONS]
    ours, bare = [], []
    for _ in range(wanted.rounds):
        ours.append(together(running.postmaster, judge, [(url, holdout)]))
        bare.append(together(running.postmaster, multiply, [(url, held, wanted.queries)]))
    running.forget(url)
    for name, runs in (("gate", ours), ("products of blocks", bare)):
        yield [f"{documents:,}", name, *_cells(runs, bare)]


def _cells(runs: list[Together], bare: list[Together]) -> list[str]:
    seconds = [run.cost.seconds for run in runs]
    share = table.ratios(seconds, [run.cost.seconds for run in bare])
    cpu = ([run.cost.client for run in runs], [run.cost.server for run in runs])
    peaks = [max(run.peak_mb for run in runs), max(run.base_mb for run in runs)]
    return [*map(table.spread, (seconds, share, *cpu)), *map(table.number, peaks)]


def judge(start: Start, url: str, holdout: Path) -> None:
    """A worker that runs the gate once."""
    with opened(stage.declared(url, *VERSIONS, **judged(holdout)), register_new=False) as index, start.measured():
        gate.run(index, "v2")


def multiply(start: Start, url: str, held: list[str], queries: int) -> None:
    """A worker that finds the ten nearest of every query by products alone."""
    asked = vectors([f"query {number}" for number in range(queries)], stage.DIMENSIONS)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    with psycopg.connect(url) as conn, start.measured():
        for name in held:
            best = np.full((queries, 10), -np.inf, dtype=np.float32)
            for block in _blocks(conn, name):
                scores = asked @ (block / np.linalg.norm(block, axis=1, keepdims=True)).T
                best = np.partition(np.hstack([best, scores]), -10, axis=1)[:, -10:]


def _blocks(conn: psycopg.Connection, name: str) -> Iterator[np.ndarray]:
    """The vectors of a table, so many at a time, from one binary COPY."""
    schema, held = name.replace('"', "").split(".")
    statement = sql.SQL("COPY (SELECT embedding FROM {}) TO STDOUT (FORMAT BINARY)").format(sql.Identifier(schema, held))
    kept = bytearray()
    with conn.cursor().copy(statement) as rows:
        skip = HEADER
        for piece in rows:
            kept += bytes(piece)[skip:]
            skip = 0
            if len(kept) >= BLOCK * ROW:
                yield _unpacked(bytes(kept[: BLOCK * ROW]))
                del kept[: BLOCK * ROW]
    if len(kept) > ROW_HEAD:
        yield _unpacked(bytes(kept[: len(kept) // ROW * ROW]))


def _unpacked(rows: bytes) -> np.ndarray:
    fields = np.frombuffer(rows, dtype=np.uint8).reshape(-1, ROW)[:, ROW_HEAD:]
    return np.ascontiguousarray(fields).view(">f4").astype(np.float32)


if __name__ == "__main__":
    main()
