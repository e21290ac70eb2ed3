"""A backfill through a provider that answers at once: how many requests are in flight, and what the pipeline itself costs.

    python -m benchmarks.providers [--documents 100000] [--calls 128] [--latency 2]

The provider is the loopback one of the tests, in a process of its own: every request takes the same time, so that they overlap. What is
counted is this pipeline's own process: its CPU time for each document (reading, packing, the SDK, HTTP, checking, the binary COPY; neither
PostgreSQL nor the provider), and its peak memory for a quarter and for the whole of the documents.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg

from benchmarks.meter import peak_mb
from embed_pipeline.migrate import backfill
from embed_pipeline.migrate.opening import opened
from embed_pipeline.postgres import embedded
from embed_pipeline.postgres.connection import connect
from embed_pipeline.spec import IndexSpec
from tests.harness.providers.keys import KEYS, VARIABLES
from tests.harness.providers.loopback import Process

# Small requests, so that a quarter of the documents fills all calls too and the two peaks of memory can be compared.
MODEL, DIMENSIONS, TEXTS_PER_CALL = "text-embedding-3-small", 1536, 32
# About 80 tokens, as many as a passage of a few sentences has.
BODY = "A document of the benchmark says little, and says it again. " * 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=128)
    parser.add_argument("--latency", type=float, default=2.0, help="seconds that every request takes")
    parser.add_argument("--child", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--base-url", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(fill(arguments.child, arguments.base_url, arguments.calls)))
        return
    provider = Process()
    try:
        with tempfile.TemporaryDirectory() as folder:
            server = embedded.ensure_running(Path(folder))
            try:
                for documents in (arguments.documents // 4, arguments.documents):
                    measure(server, provider, documents, arguments)
            finally:
                embedded.stop(Path(folder))
    finally:
        provider.stop()


def measure(server: embedded.Server, provider: Process, documents: int, arguments: argparse.Namespace) -> None:
    """One backfill in a process of its own, so that its time and its memory are its own."""
    provider.reset()
    provider.set(latency=arguments.latency)
    name = f"bench_{documents}"
    with connect(server.url("postgres"), autocommit=True) as conn:
        conn.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
    with connect(server.url(name), autocommit=True) as conn:
        conn.execute("CREATE EXTENSION vector")
        conn.execute("CREATE TABLE documents (id bigint PRIMARY KEY, body text NOT NULL)")
        conn.execute("INSERT INTO documents SELECT n, n || ' ' || %s FROM generate_series(1, %s) AS n", (BODY, documents))
        conn.execute("VACUUM ANALYZE documents")
    command = [sys.executable, "-m", "benchmarks.providers", "--calls", str(arguments.calls), "--child", server.url(name)]
    command += ["--base-url", provider.base_url("openai")]
    environment = os.environ | {VARIABLES["openai"]: KEYS["openai"]}
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout)
    seen = provider.summary()
    assert found["written"] == documents
    print(
        f"{documents:,} documents, {DIMENSIONS}-d, {TEXTS_PER_CALL} to a request, {arguments.calls} calls at once, "
        f"{arguments.latency:g} s latency: most in flight {seen['most_in_flight']}, {documents / found['seconds']:,.0f} documents/s, "
        f"CPU of the pipeline {found['cpu'] / documents * 1e6:.0f} us/document, peak memory {found['peak_mb']:.0f} MB "
        f"({found['before_mb']:.0f} MB before the first document)",
        flush=True,
    )


def fill(url: str, base_url: str, calls: int) -> dict[str, float]:
    """What the child does."""
    version = {
        "provider": "openai",
        "model_name": MODEL,
        "dimensions": DIMENSIONS,
        "base_url": base_url,
        "batch_size": TEXTS_PER_CALL,
        "max_in_flight": calls,
    }
    declaration = {
        "name": "bench",
        "database_url": url,
        "documents": {"table": "documents", "key": "id", "text": "body"},
        "partitions": 2,
        "versions": {"v1": version},
    }
    with opened(IndexSpec.model_validate(declaration)) as index:
        before = peak_mb()
        started, cpu = time.monotonic(), time.process_time()
        written = sum(backfill.fill_partition(index, "v1", key).written for key in index.spec.partition_keys())
        return {
            "written": written,
            "seconds": time.monotonic() - started,
            "cpu": time.process_time() - cpu,
            "before_mb": before,
            "peak_mb": peak_mb(),
        }


if __name__ == "__main__":
    main()
