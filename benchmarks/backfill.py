"""Backfill against the physical limit: a bare binary COPY of the same vectors, in the same run, on the same server.

    python -m benchmarks.backfill [--documents 100000] [--rounds 3]

Prints both rates, their ratio round by round, and the peak memory of a backfill of a quarter and of the whole corpus.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import psycopg
from pgvector import Vector

from embed_pipeline.migrate import backfill
from embed_pipeline.migrate.open_index import opened
from embed_pipeline.postgres import embedded
from embed_pipeline.postgres.connection import connect
from embed_pipeline.spec import IndexSpec

DIMENSIONS = 384
# Two runs at once is what dagster.yaml's pool allows.
WORKERS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--partitions", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        vectors = home / "vectors.f32"
        _write_vectors(vectors, arguments.documents)
        server = embedded.ensure_running(home)
        try:
            _compare(server, vectors, arguments)
        finally:
            embedded.stop(home)


def _write_vectors(path: Path, count: int) -> None:
    generator = np.random.default_rng(7)
    with path.open("wb") as file:
        for start in range(0, count, 10_000):
            rows = generator.standard_normal((min(10_000, count - start), DIMENSIONS), dtype=np.float32)
            file.write((rows / np.linalg.norm(rows, axis=1, keepdims=True)).tobytes())


def _compare(server: embedded.Server, vectors: Path, arguments: argparse.Namespace) -> None:
    ratios = []
    for number in range(arguments.rounds):
        url = _fresh_database(server, f"bench_{number}", arguments.documents)
        bare = _bare_copy(url, vectors, arguments.documents)
        ours = _child(url, vectors, arguments.partitions)
        rate = arguments.documents / ours["seconds"]
        ratios.append(rate / bare)
        print(
            f"round {number + 1}: bare COPY {bare:,.0f} rows/s, backfill {rate:,.0f} rows/s, ratio {rate / bare:.2f}", flush=True
        )
    print(f"median ratio {median(ratios):.2f} over {arguments.rounds} rounds of {arguments.documents:,} vectors, {DIMENSIONS}-d")
    for share in (4, 1):
        url = _fresh_database(server, f"memory_{share}", arguments.documents // share)
        peak = _child(url, vectors, arguments.partitions)["peak_mb"]
        print(f"peak memory of the backfill process, {arguments.documents // share:,} documents: {peak:.0f} MB")


def _fresh_database(server: embedded.Server, name: str, documents: int) -> str:
    with connect(server.url("postgres"), autocommit=True) as conn:
        conn.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
    url = server.url(name)
    with connect(url, autocommit=True) as conn:
        conn.execute("CREATE EXTENSION vector")
        conn.execute("CREATE TABLE documents (id bigint PRIMARY KEY, body text NOT NULL)")
        conn.execute("INSERT INTO documents SELECT n, n::text FROM generate_series(0, %s - 1) AS n", (documents,))
        conn.execute("VACUUM ANALYZE documents")
        conn.execute("CHECKPOINT")
    return url


def _bare_copy(url: str, path: Path, count: int) -> float:
    """Rows per second of COPY BINARY of the same vectors under the same ids into a table with a primary key and nothing else."""
    rows = np.fromfile(path, dtype=np.float32).reshape(-1, DIMENSIONS)
    with connect(url, autocommit=True) as conn:
        conn.execute('CREATE TABLE bare (doc_id text COLLATE "C" PRIMARY KEY, embedding vector(384) NOT NULL)')
        started = time.monotonic()
        with conn.cursor() as cursor, cursor.copy("COPY bare FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["text", "vector"])
            for number in range(count):
                copy.write_row((str(number), Vector(rows[number])))
        seconds = time.monotonic() - started
        conn.execute("CHECKPOINT")
    return count / seconds


def _child(url: str, vectors: Path, partitions: int) -> dict[str, float]:
    """A whole backfill by WORKERS processes, as Dagster runs it: seconds from the first partition to the last, the larger peak."""
    command = [sys.executable, "-m", "benchmarks.backfill_child", url, str(vectors), str(partitions)]
    register = subprocess.run([*command, "register"], check=True, stdout=subprocess.PIPE, text=True)
    assert json.loads(register.stdout)["seconds"] >= 0
    workers = [
        subprocess.Popen([*command, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(WORKERS)
    ]
    # Imports are not what is measured: all start when the last one is ready.
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()
    found = [dict(json.loads(worker.communicate()[0])) for worker in released(workers)]
    return {
        "seconds": max(each["ended"] for each in found) - min(each["started"] for each in found),
        "peak_mb": max(each["peak_mb"] for each in found),
    }


def released(workers: list[subprocess.Popen[str]]) -> list[subprocess.Popen[str]]:
    """The workers, told to start."""
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    return workers


def fill(url: str, vectors: str, partitions: int, part: str) -> dict[str, float]:
    """What a child does: register the version, or fill its share of the partitions."""
    spec = IndexSpec.model_validate(
        {
            "name": "bench",
            "database_url": url,
            "documents": {"table": "documents", "key": "id", "text": "body"},
            "partitions": partitions,
            "versions": {
                "v1": {
                    "provider": "benchmarks.lookup:LookupEmbedder",
                    "model_name": "lookup",
                    "dimensions": DIMENSIONS,
                    "normalize": False,
                    "batch_size": 1000,
                    "options": {"path": vectors},
                }
            },
        }
    )
    with opened(spec) as index:
        if part == "register":
            return {"seconds": 0.0}
        print("ready", flush=True)
        sys.stdin.readline()
        started = time.time()
        for key in spec.partition_keys()[int(part) :: WORKERS]:
            backfill.fill_partition(index, "v1", key)
    return {"started": started, "ended": time.time(), "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


if __name__ == "__main__":
    main()
