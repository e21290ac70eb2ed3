"""A backfill under Qdrant's rate limits: how much of what they allow it gets, and what it asks for each document.

    python -m benchmarks.rated [--documents 4000] [--writes 2000] [--reads 3000] [--layout collections]

Against the loopback server of the tests, which counts as a real one does (tests/harness/qdrant/strict.py): a bucket for reads and one for
writes, full at first, filled up at so many tokens a minute. What is allowed is what the bucket held and what it was given until the end.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import psycopg

from embed_pipeline.migrate import backfill
from embed_pipeline.migrate.opening import open_index
from embed_pipeline.postgres import embedded
from embed_pipeline.spec import IndexSpec
from tests.harness.qdrant.loopback import Loopback
from tests.harness.qdrant.strict import CLOUD

ARTICLES = """CREATE TABLE articles (id bigint PRIMARY KEY, body text);
INSERT INTO articles SELECT n, 'body of number ' || n FROM generate_series(1, {documents}) AS n"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=4_000)
    parser.add_argument("--writes", type=int, default=2_000)
    parser.add_argument("--reads", type=int, default=3_000)
    parser.add_argument("--layout", default="collections")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Loopback() as server:
        home = Path(folder) / "server"
        url = embedded.ensure_running(home).url("postgres")
        try:
            with psycopg.connect(url, autocommit=True) as conn:
                conn.execute(ARTICLES.format(documents=arguments.documents).encode())
            server.strict(**CLOUD, write_rate_limit=arguments.writes, read_rate_limit=arguments.reads)
            _run(url, server, arguments)
        finally:
            embedded.stop(home)


def _run(url: str, server: Loopback, arguments: argparse.Namespace) -> None:
    version = {"provider": "benchmarks.embedder:InstantEmbedder", "model_name": "drawn", "dimensions": 384}
    spec = IndexSpec.model_validate(
        {
            "name": "docs",
            "database_url": url,
            "documents": {"table": "articles", "key": "id", "text": "body"},
            "store": {"kind": "qdrant", "url": server.url, "layout": arguments.layout},
            "partitions": 4,
            "versions": {"v1": version},
        }
    )
    index = open_index(spec)
    try:
        with index.connection() as conn:
            place = index.store(index.version(conn, "v1")).place  # type: ignore[attr-defined]
        began = time.monotonic()
        for key in spec.partition_keys():
            backfill.fill_partition(index, "v1", key)
        seconds = time.monotonic() - began
        rates = server.rates(place.collection)
    finally:
        index.close()
    allowed = arguments.writes * (1 + seconds / 60)
    wanted = min(allowed, arguments.documents)
    spent, refusals = rates["spent"], rates["refusals"]
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {arguments.documents:,} documents in {seconds:.0f} s, {arguments.layout}"
    )
    print("| | writes | reads |")
    print("|---|---|---|")
    print(f"| limit a minute | {arguments.writes:,} | {arguments.reads:,} |")
    print(f"| allowed until the end | {allowed:,.0f} | {arguments.reads * (1 + seconds / 60):,.0f} |")
    print(f"| spent | {spent['Write']:,.0f} | {spent['Read']:,.0f} |")
    print(f"| for a document | {spent['Write'] / arguments.documents:.2f} | {spent['Read'] / arguments.documents:.2f} |")
    print(f"| refused requests | {refusals['Write']} | {refusals['Read']} |")
    print(
        f"documents written, of those that the writes allow: {arguments.documents / allowed:.2f} ({wanted:,.0f} could have been)"
    )


if __name__ == "__main__":
    main()
