"""A cutover as a whole, and its flip: between two versions that are filled, with a warm cache, there and back.

    python -m benchmarks.cutover [--documents 50000] [--rounds 3] [--full]

The first cutover follows the gate, as in a migration; then rollback and cutover take turns. Nothing changes meanwhile, or `--edited`
documents before each, worked off first. Beside it one read of what a cutover has to compare: every text, and every stored hash.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from psycopg import sql

from benchmarks import stage, table, tables
from embed_pipeline import signals
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import cutover, gate
from embed_pipeline.migrate.opening import opened

QUERIES = 20


def main() -> None:
    wanted = stage.options(__doc__, documents=(50_000, 1_000_000), length=(1_000, 1_000), edited=(0, 0), rounds=(3, 3))
    with stage.running({"shared_buffers": "2GB", "max_wal_size": "8GB"}) as running:
        url = running.fresh(running.documents(wanted.documents, wanted.length))
        # What is edited between the gate and the last cutover is not judged: evidence is exact about that.
        holdout = write_holdout(running.folder / "holdout.jsonl", url, QUERIES, above=wanted.edited)
        # The quickest graph there is: nothing here depends on how good it is.
        graph = {"hnsw": {"m": 4, "ef_construction": 8}}
        spec = stage.declared(url, "v1", "v2", version=graph, **judged(holdout))
        with opened(spec) as index:
            stage.fill(index, "v1")
            stage.serve(index, "v1")
            stage.fill(index, "v2")
            gate_seconds = _gate(index)
            _measure(index, wanted, gate_seconds)


def write_holdout(path: Path, url: str, queries: int, *, above: int = 0) -> Path:
    """Queries that are the own texts of documents whose id is greater than `above`."""
    with stage.connected(url) as conn:
        rows = conn.execute(
            "SELECT id::text, body FROM documents WHERE id > %s ORDER BY md5(id::text) LIMIT %s", (above, queries)
        ).fetchall()
    lines = [json.dumps({"query_id": key, "query": body, "doc_id": key, "grade": 1}) for key, body in rows]
    path.write_text("\n".join(lines))
    return path


def judged(holdout: Path) -> dict[str, Any]:
    """Fields of a declaration whose gate lets everything pass: it is timed, not asked."""
    return {
        "holdout": {"path": str(holdout)},
        "gate": {"min_queries": 2, "margin": 0.99, "min_ann_recall": 0.0, "max_row_change": 1.0},
    }


def _gate(index: OpenIndex) -> float:
    started = time.monotonic()
    gate.run(index, "v2")
    return time.monotonic() - started


def _measure(index: OpenIndex, wanted: argparse.Namespace, gate_seconds: float) -> None:
    moments: dict[str, float] = {}
    for name in tables.FLIP:
        signals.listen(name, lambda name=name: moments.__setitem__(name, time.monotonic()))  # type: ignore[misc]
    moves: dict[str, Callable[[], object]] = {
        "cutover": lambda: cutover.cutover(index, "v2"),
        "rollback": lambda: cutover.rollback(index),
    }
    rows, reads = [], []
    for number in range(wanted.rounds):
        for name, move in moves.items():
            reads.append(_read(index))
            _edit(index, wanted.edited, f"{name} {number}")
            moments.clear()
            started = time.monotonic()
            move()
            seconds = time.monotonic() - started
            flip = "not heard" if len(moments) < 2 else table.number(1_000 * (moments[tables.FLIP[1]] - moments[tables.FLIP[0]]))
            rows.append([f"{name} {number + 1}", table.number(seconds), flip])
    signals.forget_all()
    table.heading(
        f"Cutovers between two versions of {wanted.documents:,} documents of {wanted.length:,} B, {wanted.edited:,} edited before each"
    )
    table.write(["", "seconds", "flip ms"], rows)
    print(
        f"One read of every text and every stored hash: {table.spread(reads)} s. The gate before, {QUERIES} queries: {gate_seconds:.1f} s."
    )


def _read(index: OpenIndex) -> float:
    """Seconds that a server needs to hash every text and to read every stored hash, once each."""
    with index.connection() as conn:
        version = index.version(conn, "v2")
        started = time.monotonic()
        conn.execute("SELECT count(sha256(body::bytea)) FROM public.documents")
        conn.execute(sql.SQL("SELECT count(source_hash) FROM {}").format(tables.of_version(version)[0]))
        return time.monotonic() - started


def _edit(index: OpenIndex, edited: int, text: str) -> None:
    if edited:
        with index.connection() as conn:
            conn.execute("UPDATE public.documents SET body = %s || id WHERE id <= %s", (text, edited))
        stage.drain(index)


if __name__ == "__main__":
    main()
